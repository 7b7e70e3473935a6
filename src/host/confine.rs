//! What a process that runs guests and native libraries may still do.
//!
//! It is taken away by the process itself, before its first thread, and never
//! comes back: files by Landlock, system calls by a seccomp filter
//! (`calls.rs`), memory and core files by limits. The library that computes
//! models is treated as if a model had taken it over: what this leaves is what
//! whoever holds the process has.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// What the process may have. Plain data: the worker writes it, and the process
/// that it starts applies it. What is not there grants nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Directories of guests, and those of the configuration's graphs.
    pub roots: Vec<GrantedRoot>,
    /// Folders that are read and written: those of the cache on disk.
    pub caches: Vec<PathBuf>,
    /// Folders or files of libraries that may be loaded, beside the system's.
    pub libraries: Vec<PathBuf>,
    /// Device files or folders of them, such as `/dev/dri`; with any, every
    /// `ioctl` may be called.
    pub devices: Vec<PathBuf>,
    /// Bytes of memory that can be written to (`RLIMIT_DATA`); none: no limit.
    pub memory: Option<u64>,
}

/// A directory with all that is below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedRoot {
    /// Where it is, with no link in it.
    pub path: PathBuf,
    /// Whether files may be made, changed and removed there.
    pub writable: bool,
}

/// Takes from this process all that is not in `confinement`, for good. Threads
/// that are there already keep what they have: call it before the first.
/// Returns a sentence for each part that this system does not have.
///
/// # Errors
///
/// A part that the system has could not be applied: the process must not go on.
pub fn apply(confinement: &Confinement) -> anyhow::Result<Vec<String>> {
    #[cfg(target_os = "linux")]
    {
        let unfiltered = calls::missing();
        limits(confinement.memory)?;
        let unruled = files::confine(confinement)?;
        if unfiltered.is_none() {
            calls::confine(!confinement.devices.is_empty())?;
        }
        Ok(unruled.into_iter().chain(unfiltered).collect())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = confinement;
        Ok(vec![UNSUPPORTED.into()])
    }
}

#[cfg(not(target_os = "linux"))]
const UNSUPPORTED: &str =
    "this system has neither Landlock nor seccomp, so the runtime can do what this user can";

/// What this system does not have of what [`apply`] uses, a sentence each. Looks
/// at it without a change to this process.
pub fn missing() -> Vec<String> {
    #[cfg(target_os = "linux")]
    {
        files::missing().into_iter().chain(calls::missing()).collect()
    }
    #[cfg(not(target_os = "linux"))]
    vec![UNSUPPORTED.into()]
}

/// The directories in and below `root` that hold nothing of `private`, as few as
/// there can be. A right to a directory is one to all below it, so where a
/// private file lies in a root its neighbours are granted one by one.
pub fn without(root: &Path, private: &[PathBuf]) -> Vec<PathBuf> {
    if private.iter().any(|file| root.starts_with(file)) {
        return Vec::new();
    }
    if !private.iter().any(|file| file.starts_with(root)) {
        return vec![root.to_owned()];
    }
    // What can't be listed can't be granted in parts.
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.flat_map(|directory| without(&directory.path(), private)).collect()
}

#[cfg(target_os = "linux")]
fn limits(memory: Option<u64>) -> anyhow::Result<()> {
    use anyhow::Context as _;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).context("forbidding core files")?;
    let Some(memory) = memory else { return Ok(()) };
    // A limit that is in force already may be lower.
    let within = getrlimit(Resource::Data).maximum.map_or(memory, |limit| limit.min(memory));
    let data = Rlimit { current: Some(within), maximum: Some(within) };
    setrlimit(Resource::Data, data).with_context(|| format!("limiting memory to {within} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_a_private_file_is_granted_without_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        for below in ["models/a", "state/journal", "deep/keys", "deep/fixture"] {
            fs::create_dir_all(root.join(below)).expect("made");
        }
        fs::write(root.join("config.toml"), "key").expect("written");
        std::os::unix::fs::symlink(root.join("state"), root.join("link")).expect("linked");
        let granted = |private: &[&str]| {
            let private: Vec<_> = private.iter().map(|path| root.join(path)).collect();
            let mut granted = without(root, &private);
            granted.sort();
            granted
        };
        let below = |names: &[&str]| names.iter().map(|name| root.join(name)).collect::<Vec<_>>();
        assert_eq!(granted(&[]), [root]);
        assert_eq!(granted(&["config.toml"]), below(&["deep", "models", "state"]));
        assert_eq!(
            granted(&["config.toml", "state", "deep/keys"]),
            below(&["deep/fixture", "models"])
        );
        assert_eq!(without(&root.join("state/journal"), &below(&["state"])), [] as [PathBuf; 0]);
        // A neighbour whose name begins alike is another directory.
        assert_eq!(without(&root.join("models"), &below(&["mod"])), below(&["models"]));
    }
}
