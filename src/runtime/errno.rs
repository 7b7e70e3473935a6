//! WASI's error numbers that our own functions of preview 1 give to a guest:
//! `errno` of the witx files, whose numbers both versions of it share.

/// No error.
pub(super) const SUCCESS: i32 = 0;
/// Permission denied.
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
pub(super) const MFILE: i32 = 33;
/// Too many open files in the whole system.
pub(super) const NFILE: i32 = 41;
/// A path that is too long.
pub(super) const NAMETOOLONG: i32 = 37;
/// No such file or directory.
pub(super) const NOENT: i32 = 44;
/// Not supported.
#[cfg(target_os = "linux")]
pub(super) const NOTSUP: i32 = 58;
/// Not permitted.
pub(super) const PERM: i32 = 63;
/// A file system that is read-only.
pub(super) const ROFS: i32 = 69;
/// A descriptor that has not the right.
pub(super) const NOTCAPABLE: i32 = 76;
