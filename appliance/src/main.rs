//! The program `revenant`.

fn main() {}
