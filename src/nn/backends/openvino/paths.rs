//! A path for a model that stands in memory, for frontends that read files alone
//! and tell an encoding by the end of a file's name.
//!
//! The bytes go into a sealed file in memory, which nobody can change while it is
//! read. What a descriptor is called in `/proc` has no suffix, so the path is
//! that of a symbolic link in a folder of ours: `1000.tflite` leads to
//! `/proc/self/fd/1000`, in each process to its own. The links never change, so
//! a process that may make none uses those that are there.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};

/// The descriptors that links lead to; one of them is taken. They are the last
/// that are free where a process may have 1,024, the usual limit.
const SLOTS: std::ops::Range<i32> = 1000..1016;

/// The suffixes of links.
const SUFFIXES: [&str; 2] = ["tflite", "pb"];

/// The descriptor that links lead to, of which this process has one. Nothing is
/// left half done by a panic: what it refers to is set before each use.
static SLOT: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// The folder of links where no other is set.
pub(super) fn usual_folder() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    std::env::temp_dir().join(format!("proplet-links-{user}"))
}

/// Makes the links that are missing.
///
/// # Errors
///
/// One sentence: they can't be made, or the folder is somebody else's.
pub(super) fn make(folder: &Path) -> Result<(), String> {
    let failed =
        |error: std::io::Error| format!("the folder of links {}: {error}", folder.display());
    let made = |result: std::io::Result<()>| match result {
        // Another process was first.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(failed),
    };
    made(fs::DirBuilder::new().mode(0o700).create(folder))?;
    prove_ours(folder)?;
    for slot in SLOTS {
        for suffix in SUFFIXES {
            made(symlink(target(slot), folder.join(format!("{slot}.{suffix}"))))?;
        }
    }
    Ok(())
}

/// Whoever else could write there could have another file read.
fn prove_ours(folder: &Path) -> Result<(), String> {
    let found = fs::symlink_metadata(folder)
        .map_err(|error| format!("the folder of links {}: {error}", folder.display()))?;
    let ours = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if !found.is_dir() || !ours {
        return Err(format!(
            "the folder of links {} is not a folder that belongs to this user alone: remove it",
            folder.display()
        ));
    }
    Ok(())
}

fn target(slot: i32) -> String {
    format!("/proc/self/fd/{slot}")
}

/// Calls `read` with a path to these bytes that has this suffix. One call at a
/// time has one.
///
/// # Errors
///
/// One sentence: there is no memory or link for it, or what `read` says.
pub(super) fn with<T>(
    folder: &Path,
    bytes: &[u8],
    suffix: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, String> {
    let mut slot = SLOT.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = match &mut *slot {
        Some(slot) => slot,
        none => none.insert(reserve()?),
    };
    let path = path(folder, slot, suffix)?;
    let system = |error: rustix::io::Errno| format!("no file in memory for the model: {error}");
    let empty = memfd_create("empty", MemfdFlags::CLOEXEC).map_err(system)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = fs::File::from(memfd_create("model", flags).map_err(system)?);
    file.write_all(bytes).map_err(|error| format!("no memory for the model: {error}"))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, seals).map_err(system)?;
    dup3(file.as_fd(), slot, DupFlags::CLOEXEC).map_err(system)?;
    let came = read(&path);
    // The bytes go, unless the library has them mapped.
    dup3(empty.as_fd(), slot, DupFlags::CLOEXEC).map_err(system)?;
    came
}

/// The first free descriptor that links lead to.
fn reserve() -> Result<OwnedFd, String> {
    let taken = |error: String| {
        format!("no descriptor from {} to {} is free: {error}", SLOTS.start, SLOTS.end - 1)
    };
    let empty = memfd_create("empty", MemfdFlags::CLOEXEC);
    let slot = empty.and_then(|empty| fcntl_dupfd_cloexec(&empty, SLOTS.start));
    let slot = slot.map_err(|error| taken(error.to_string()))?;
    match SLOTS.contains(&slot.as_raw_fd()) {
        true => Ok(slot),
        false => Err(taken("too many files are open".to_owned())),
    }
}

/// The path of a link that leads to the descriptor, made if it has to be.
fn path(folder: &Path, slot: &OwnedFd, suffix: &str) -> Result<String, String> {
    let slot = slot.as_raw_fd();
    let link = folder.join(format!("{slot}.{suffix}"));
    let leads = |link: &Path| fs::read_link(link).is_ok_and(|to| to == Path::new(&target(slot)));
    if !leads(&link) {
        make(folder)?;
    }
    prove_ours(folder)?;
    if !leads(&link) {
        return Err(format!("{} leads elsewhere: remove it", link.display()));
    }
    let text = link.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("the folder of links {} is no UTF-8", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_path_while_they_are_read_and_none_after_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = dir.path().join("links");
        for suffix in SUFFIXES {
            let mut at = String::new();
            let read = with(&folder, b"a model", suffix, |path| {
                at = path.to_owned();
                // Sealed: what is read is what was written.
                let write = fs::OpenOptions::new().write(true).open(path);
                assert!(write.is_err() || write.is_ok_and(|mut file| file.write(b"b").is_err()));
                fs::read(path).map_err(|error| error.to_string())
            });
            assert_eq!(read.as_deref(), Ok(&b"a model"[..]));
            assert!(at.ends_with(&format!(".{suffix}")), "{at}");
            assert_eq!(fs::read(&at).expect("the empty file"), b"");
        }
    }

    #[test]
    fn links_that_are_not_ours_are_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = dir.path().join("open");
        fs::create_dir(&open).expect("made");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&open, mode).expect("set");
        let refused = with(&open, b"", "pb", |_| Ok(())).expect_err("refused");
        assert!(refused.contains("belongs to this user alone"), "{refused}");
        let folder = dir.path().join("links");
        make(&folder).expect("links");
        for slot in SLOTS {
            let link = folder.join(format!("{slot}.pb"));
            fs::remove_file(&link).expect("removed");
            symlink("/etc/passwd", &link).expect("linked");
        }
        let refused = with(&folder, b"", "pb", |_| Ok(())).expect_err("refused");
        assert!(refused.contains("leads elsewhere"), "{refused}");
    }
}
