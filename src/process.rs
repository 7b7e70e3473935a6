//! What other processes of the machine can see of this one, and its end.

use std::ffi::{CStr, c_char};

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
