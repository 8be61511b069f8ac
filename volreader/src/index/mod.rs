//! What a scan found out, in a form that is searched without being loaded.
//!
//! One [`table`] a job: its files by folder and name, with their attributes and the place of their attributes
//! record. Tables live in a file and are read with small positional reads, so that opening a file in a job of a
//! million costs a few dozen of them and no memory. [`builder`] makes them; [`store`] keeps them in the cache folder.

pub mod builder;
mod compact;
pub mod entry;
pub mod store;
pub mod table;
