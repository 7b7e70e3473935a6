//! The `proplet` program.

fn main() {}
