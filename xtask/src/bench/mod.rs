//! `cargo xtask bench`.

pub mod data;
pub mod fixtures;
pub mod lab;
pub mod minimal_catalog;
pub mod synthetic;
