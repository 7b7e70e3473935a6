//! A directory, opened by a path that was proven before.
//!
//! Between the proof (a canonical path inside the allowed directories) and the
//! use of it lies a queue, and a guest with a writable directory can put a link
//! in the place of a folder meanwhile. So no link is followed anywhere in the
//! path: what is opened is what was proven, or nothing.

use std::io;
use std::path::{Path, PathBuf};

/// An open directory.
pub(crate) struct Directory {
    #[cfg(target_os = "linux")]
    fd: std::os::fd::OwnedFd,
    #[cfg(not(target_os = "linux"))]
    path: PathBuf,
}

#[cfg(target_os = "linux")]
const FLAGS: rustix::fs::OFlags = {
    use rustix::fs::OFlags;
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC)
};

#[cfg(target_os = "linux")]
impl Directory {
    /// Opens a directory by its canonical path.
    ///
    /// # Errors
    ///
    /// The system's; for a link anywhere in the path, that it is no directory.
    pub(crate) fn open(canonical: &Path) -> io::Result<Directory> {
        use rustix::fs::{CWD, Mode, openat};
        use std::path::Component;

        if !canonical.is_absolute() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Some(directory) = Directory::open_in_one_call(canonical) {
            return Ok(directory);
        }
        // A kernel without that call, and whatever is wrong with the path.
        let mut fd = openat(CWD, "/", FLAGS, Mode::empty())?;
        for part in canonical.components() {
            match part {
                Component::RootDir => {}
                Component::Normal(name) => fd = openat(&fd, name, FLAGS, Mode::empty())?,
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            }
        }
        Ok(Directory { fd })
    }

    /// The same for each task that has directories, where the path is canonical
    /// and the kernel has the call.
    fn open_in_one_call(canonical: &Path) -> Option<Directory> {
        use rustix::fs::{CWD, Mode, ResolveFlags, openat2};
        use std::path::Component;

        // `..` is no part of a canonical path.
        let own = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !canonical.is_absolute() || !canonical.components().all(own) {
            return None;
        }
        let fd = openat2(CWD, canonical, FLAGS, Mode::empty(), ResolveFlags::NO_SYMLINKS).ok()?;
        Some(Directory { fd })
    }

    /// Whether one call tells that this is a directory's path with no link in it.
    pub(crate) fn is_at(path: &Path) -> bool {
        Directory::open_in_one_call(path).is_some()
    }

    /// A path that leads to it, whatever has happened to the one it was opened
    /// by, as long as this value lives.
    pub(crate) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }
}

/// Elsewhere the path is proven once more, which leaves a moment between.
#[cfg(not(target_os = "linux"))]
impl Directory {
    /// Opens a directory by its canonical path.
    pub(crate) fn open(canonical: &Path) -> io::Result<Directory> {
        match canonical.canonicalize()? {
            path if path == canonical && path.is_dir() => Ok(Directory { path }),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// No call tells it.
    pub(crate) fn is_at(_: &Path) -> bool {
        false
    }

    /// The path that it was opened by.
    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_directory_is_opened_by_its_own_path_and_by_no_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("it is there");
        fs::create_dir_all(root.join("a/b")).expect("made");
        fs::write(root.join("a/b/file"), "inside").expect("written");
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).expect("linked");
        let opened = Directory::open(&root.join("a/b")).expect("opened");
        assert_eq!(fs::read(opened.path().join("file")).expect("read"), b"inside");
        assert!(Directory::open(&root.join("link")).is_err());
        assert!(Directory::open(&root.join("link/b")).is_err());
        assert!(Directory::open(&root.join("a/../a/b")).is_err());
        assert!(Directory::open(Path::new("a/b")).is_err());
        assert!(Directory::open(&root.join("a/b/file")).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_open_directory_stays_what_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("it is there");
        fs::create_dir(root.join("a")).expect("made");
        fs::write(root.join("a/file"), "first").expect("written");
        let opened = Directory::open(&root.join("a")).expect("opened");
        fs::rename(root.join("a"), root.join("b")).expect("renamed");
        fs::create_dir(root.join("a")).expect("made");
        fs::write(root.join("a/file"), "second").expect("written");
        assert_eq!(fs::read(opened.path().join("file")).expect("read"), b"first");
    }
}
