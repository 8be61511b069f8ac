//! VMDK: against `qemu-img`, real images, and layouts that no free tool writes.

#[path = "../common/mod.rs"]
mod common;
mod layouts;
mod maker;
mod qemu;
mod real;
mod refused;
mod streams;
