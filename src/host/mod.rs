//! The runtime as a process of its own: what it may do, and what it may take.

pub mod confine;
pub mod memory;
