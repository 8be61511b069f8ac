//! Layers and the overlay against the contracts of `ReadAt` and `WriteAt`.

mod conformance;
mod layers;
mod model;
mod overlay_hostile;
mod overlay_kill;
mod overlay_model;
mod overlay_power;
mod overlay_qemu;
mod overlay_room;
mod sim;
mod source;
