//! WASI's error numbers that our own functions of preview 1 give to a guest:
//! `errno` of the witx files, whose numbers both versions of it share.

/// No error.
pub(super) const SUCCESS: i32 = 0;
/// Permission denied.
#[cfg(target_os = "linux")]
pub(super) const ACCES: i32 = 2;
/// A file descriptor that is not open.
#[cfg(target_os = "linux")]
pub(super) const BADF: i32 = 8;
/// An address outside the guest's memory.
pub(super) const FAULT: i32 = 21;
/// Bytes that are no text.
#[cfg(target_os = "linux")]
pub(super) const ILSEQ: i32 = 25;
/// An argument that makes no sense.
pub(super) const INVAL: i32 = 28;
/// Input or output failed.
#[cfg(target_os = "linux")]
pub(super) const IO: i32 = 29;
/// Too many open files.
#[cfg(target_os = "linux")]
pub(super) const MFILE: i32 = 33;
/// A path that is too long.
pub(super) const NAMETOOLONG: i32 = 37;
/// No such file or directory.
#[cfg(target_os = "linux")]
pub(super) const NOENT: i32 = 44;
/// Not supported.
#[cfg(target_os = "linux")]
pub(super) const NOTSUP: i32 = 58;
