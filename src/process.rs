//! This process: its file, what others of the machine can see of it, and its end.

use std::ffi::{CStr, c_char};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The file that this process runs, also once it was deleted or replaced.
pub(crate) const RUNNING: &str = "/proc/self/exe";

/// Where this program's file is; none if the system does not tell.
pub fn executable() -> Option<PathBuf> {
    std::env::current_exe().ok().or_else(started_as)
}

/// What to start for another process of the same program and version.
pub(crate) fn same_program() -> Option<PathBuf> {
    let running = Path::new(RUNNING);
    if running.exists() { Some(running.to_owned()) } else { executable() }
}

/// A standard output for another process, of which nothing is kept.
///
/// # Errors
///
/// There are no descriptors left.
pub(crate) fn no_output() -> io::Result<Stdio> {
    if Path::new("/dev/null").exists() {
        return Ok(Stdio::null());
    }
    // As in a bare chroot. A write fails as one to a reader that has gone.
    let (closed, other) = UnixStream::pair()?;
    drop(other);
    Ok(OwnedFd::from(closed).into())
}

/// By the name that this program was started with, which the kernel tells where
/// there is no `/proc`, as in a bare chroot.
fn started_as() -> Option<PathBuf> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt;
        // SAFETY: the kernel gives the address of a string that lives as long
        // as the process, or null.
        #[allow(unsafe_code, reason = "the standard library does not ask the auxiliary vector")]
        let name = unsafe {
            let name = libc::getauxval(libc::AT_EXECFN) as *const c_char;
            if name.is_null() { None } else { Some(CStr::from_ptr(name)) }
        }?;
        let file = std::path::absolute(std::ffi::OsStr::from_bytes(name.to_bytes())).ok()?;
        file.is_file().then_some(file)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Keeps others of the same user from reading this process's memory, and the
/// system from writing it to a core file. Root still can. From then on the
/// kernel shows some files of `/proc/self` to root alone, `io` and `pagemap`
/// among them: what needs one of those opens it before.
pub fn hide_memory() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // A kernel that does not know it has nothing to lose by it.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
    }
}

/// Has this process, and those that it starts, have as many descriptors open as it may
/// give itself (`ulimit -Hn`): servers with many connections need more than the 1024
/// that most systems begin with.
pub(crate) fn raise_descriptors() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let maximum = getrlimit(Resource::Nofile).maximum;
        // Where it can't be had, there are fewer.
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
    }
}

/// How many descriptors this process may have open; none if there is no limit, or
/// nobody says.
pub(crate) fn descriptors() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(target_os = "linux"))]
    None
}

/// Whether [`hide_memory`] has done it.
pub fn memory_is_hidden() -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, dumpable_behavior};
        matches!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable))
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Empties these variables of this process, in place, so that
/// `/proc/PID/environ` and `ps e` show their names alone.
///
/// To be called before any other thread is started.
#[allow(unsafe_code, reason = "the standard library can only put a copy in their place")]
pub(crate) fn empty_variables(secret: impl Fn(&str) -> bool) {
    unsafe extern "C" {
        static mut environ: *mut *mut c_char;
    }
    // SAFETY: `environ` ends with a null pointer, and each entry before it is a
    // string of this process's own, which nobody else reads or changes: there
    // is one thread. As many bytes are written as the value has.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let text = CStr::from_ptr(*entry).to_bytes();
            let (start, length) = match text.iter().position(|byte| *byte == b'=') {
                Some(at) if std::str::from_utf8(&text[..at]).is_ok_and(&secret) => {
                    (at + 1, text.len() - at - 1)
                }
                _ => (0, 0),
            };
            (*entry).add(start).write_bytes(0, length);
            entry = entry.add(1);
        }
    }
}

/// Ends the process with this code and nothing else. What native libraries
/// clean up at a usual end is pulled from under the threads that are still in
/// them, as one that compiles a model and can't be interrupted: they crash.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: it takes a number and does not return. Standard error, the log,
    // has no buffer, and nothing is written to standard output.
    #[allow(unsafe_code, reason = "the standard library has no end without a clean-up")]
    unsafe {
        libc::_exit(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_the_file_without_proc() {
        let told = std::env::current_exe().expect("/proc tells it");
        let started = started_as().expect("the kernel tells it");
        assert_eq!(started.canonicalize().expect("it is there"), told);
        assert_eq!(same_program().expect("there is /proc").canonicalize().expect("a file"), told);
    }
}
