//! Containers: read into files, in any order, and given to programs that know the formats: `qemu-img`, 7-Zip, libvmdk
//! and libvhdi.

mod delta;
mod disk;
mod formats;
mod limits;
mod oracles;
mod reads;
