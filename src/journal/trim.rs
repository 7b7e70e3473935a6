//! Gives back the memory that messages have passed through.
//!
//! Each message of a burst comes in buffers of its size, and what stays of it
//! is small and lies between them: without this, glibc keeps the holes, some
//! 25 KB for each waiting task.

/// Returns what is free in the heap to the system, as far as that is possible.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn give_back() {
    #[allow(unsafe_code, reason = "the standard library has no way to this")]
    // SAFETY: it takes the allocator's own locks and touches free memory alone.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators do so by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn give_back() {}
