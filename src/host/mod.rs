//! The runtime as a process of its own: what it may do.

pub mod confine;
