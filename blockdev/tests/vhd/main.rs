//! VHD and VHDX: made by QEMU, made by real products, and made here where QEMU cannot (differencing images, logs).

#[path = "../common/mod.rs"]
mod common;
mod edit;
mod log;
mod real;
mod vhd;
mod vhdx;
