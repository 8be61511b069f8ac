//! The content of attributes in clusters, as a map to places on the volume.

mod compressed;
mod lznt1;
mod plain;

pub use compressed::Compressed;
pub use plain::Plain;
