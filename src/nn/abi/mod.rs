//! What guests import: the calls, as they read and write a guest's memory.

pub(super) mod witx;
