//! Which directories a guest gets, at which paths, and where it may write.

use super::{Policy, Root, Trust};
use crate::directory::Directory;
use crate::flags::DirFlag;
use crate::task::{Preopen, Rejection};
use std::io;
use std::path::{Component, Path, PathBuf};

/// Finds the canonical path of a directory: absolute, no links, there.
pub type Resolve = fn(&Path) -> io::Result<PathBuf>;

/// [`Resolve`] on the real file system.
pub fn resolve_dir(path: &Path) -> io::Result<PathBuf> {
    // For each root of each task: most have no link in them.
    if Directory::is_at(path) {
        return Ok(path.components().collect());
    }
    let canonical = path.canonicalize()?;
    if canonical.is_dir() { Ok(canonical) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// [`Policy::subdirectories`] on the real file system; of a directory with very
/// many entries the first ones that come.
pub fn subdirectories(dir: &Path) -> io::Result<Vec<String>> {
    const MAX_ENTRIES: usize = 4096;
    let mut names = Vec::new();
    for entry in dir.read_dir()?.take(MAX_ENTRIES) {
        let entry = entry?;
        // A guest's paths are text.
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
            && entry.file_type()?.is_dir()
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Directories that a task gets in place of one that can't be given whole, at
/// most.
const MAX_PARTS: usize = 32;

/// The directories of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// As the guest has them.
    pub dirs: Vec<Preopen>,
    /// What whoever sent the task should know of them, one full sentence each.
    pub notes: Vec<String>,
}

impl Granted {
    /// The first directory of a name has it.
    fn give(&mut self, host: &Path, guest: &Path, writable: bool) {
        let Some(guest) = guest.to_str() else { return };
        if self.dirs.iter().all(|dir| dir.guest != guest) {
            let (host, guest) = (host.to_owned(), guest.to_owned());
            self.dirs.push(Preopen { host, guest, writable });
        }
    }
}

/// A root, or a part of one, that may be given.
struct Place {
    /// Canonical path.
    host: PathBuf,
    /// Its own path first, then as the operator wrote it, if that is another.
    names: Vec<PathBuf>,
}

impl Place {
    fn of_root(host: &Path, root: &Root) -> Place {
        let parts = root.path.components();
        let plain = parts.clone().all(|part| part != Component::ParentDir);
        let written: PathBuf = parts.filter(|part| *part != Component::CurDir).collect();
        let names = match (plain, root.path.is_absolute()) {
            (true, true) => vec![written],
            // The working directory itself has no other name yet.
            (true, false) if !written.as_os_str().is_empty() => vec![host.to_owned(), written],
            _ => vec![host.to_owned()],
        };
        Place { host: host.to_owned(), names }
    }

    fn below(&self, name: &str) -> Place {
        let names = self.names.iter().map(|path| path.join(name)).collect();
        Place { host: self.host.join(name), names }
    }
}

/// The roots that are there, by their canonical paths.
type Roots<'a> = [(PathBuf, &'a Root)];

impl Policy {
    /// The directories of these flags, or those of a task that names none.
    pub(super) fn directories(&self, flags: &[DirFlag]) -> Result<Granted, Rejection> {
        if flags.is_empty() {
            return Ok(self.unasked());
        }
        let mut granted = Granted::default();
        for flag in flags {
            let (host, writable) = self.directory("--dir", &flag.host)?;
            // No root is one of these, so a user runs this guest directly.
            if let Some(place) = self.kernel_at(&host) {
                granted.notes.push(format!(
                    "`--dir {}` reaches {}, which shows the guest all processes and devices of \
                     this machine; no worker would give it",
                    flag.host,
                    place.display()
                ));
            }
            granted.dirs.push(Preopen { host, guest: flag.guest.clone(), writable });
        }
        Ok(granted)
    }

    /// What a task gets that names no directory: each root under its own path
    /// and under its last component, and the working directory, where that is
    /// allowed, as `.` too. In place of a root with something of the worker's
    /// own it gets the subdirectories without. A guest that its user runs directly
    /// gets nothing.
    pub fn unasked(&self) -> Granted {
        let Trust::Remote { roots, .. } = &self.trust else { return Granted::default() };
        let roots = self.canonical(roots);
        let mut granted = Granted::default();
        let mut places = Vec::new();
        // One that can't be given was warned about at the start.
        for (host, root) in &roots {
            self.open_parts(Place::of_root(host, root), &mut places);
        }
        let parts = |place: &Place| roots.iter().all(|(host, _)| *host != place.host);
        if places.iter().filter(|place| parts(place)).count() > MAX_PARTS {
            let mut left = MAX_PARTS;
            places.retain(|place| {
                let kept = !parts(place) || left > 0;
                left -= usize::from(kept && parts(place));
                kept
            });
            granted.notes.push(format!(
                "the allowed directories have more than {MAX_PARTS} subdirectories that could be \
                 given unasked, so the rest is not: name with `--dir` what the task needs"
            ));
        }
        let may = |host: &Path| writable(&roots, host);
        for Place { host, names } in &places {
            for name in names {
                granted.give(host, name, may(host).unwrap_or(false));
            }
        }
        for Place { host, names } in &places {
            let Some(name) = names[0].file_name().map(Path::new) else { continue };
            match granted.dirs.iter().find(|dir| Path::new(&dir.guest) == name) {
                Some(first) if first.host != *host => granted.notes.push(format!(
                    "the directory `{}` is {}; {} has no other name than its path",
                    name.display(),
                    first.host.display(),
                    names[0].display(),
                )),
                _ => granted.give(host, name, may(host).unwrap_or(false)),
            }
        }
        if let Ok(here) = (self.resolve)(&self.working_dir)
            && let Some(writable) = may(&here)
            && self.private_below(&here).is_none()
        {
            granted.give(&here, Path::new("."), writable);
        }
        granted
    }

    /// The place itself if nothing of the worker's own is in it, else what is
    /// below it and can be given.
    fn open_parts(&self, place: Place, open: &mut Vec<Place>) {
        match self.private_below(&place.host) {
            None => open.push(place),
            Some(_) if self.private.iter().any(|file| place.host.starts_with(file)) => {}
            Some(_) => {
                for name in (self.subdirectories)(&place.host).unwrap_or_default() {
                    self.open_parts(place.below(&name), open);
                }
            }
        }
    }

    /// The canonical path of a directory that a task names, and whether it may
    /// be written to.
    pub(super) fn directory(
        &self,
        argument: &str,
        typed: &str,
    ) -> Result<(PathBuf, bool), Rejection> {
        let path = self.working_dir.join(typed);
        let found = (self.resolve)(&path);
        let Trust::Remote { roots, .. } = &self.trust else {
            let host = found.map_err(|e| cant_open(&format!("`{argument}`"), typed, &e))?;
            return Ok((host, true));
        };
        let roots = self.canonical(roots);
        let outside = || {
            let allowed: Vec<_> = roots.iter().map(|(_, r)| r.path.display().to_string()).collect();
            Rejection::Directory(format!(
                "`{argument} {typed}` is outside the allowed directories ({}): \
                 the operator adds it to PROPLET_DIRS",
                if allowed.is_empty() { "there are none".to_owned() } else { allowed.join(", ") }
            ))
        };
        let host = match found {
            Ok(host) => host,
            // Whether it is there is told only of what is inside.
            Err(e) if roots.iter().any(|(root, _)| lexically_under(&path, root)) => {
                return Err(cant_open(&format!("`{argument}`"), typed, &e));
            }
            Err(e) if self.under_root_as_written(&path) => {
                return Err(cant_open(&format!("`{argument}`"), typed, &e));
            }
            Err(_) => return Err(outside()),
        };
        let writable = writable(&roots, &host).ok_or_else(|| {
            if !self.under_root_as_written(&path) {
                return outside();
            }
            Rejection::Directory(format!(
                "`{argument} {typed}` leads by a link to {}, outside the allowed directories: the \
                 operator adds that one to PROPLET_DIRS",
                host.display()
            ))
        })?;
        match self.private_below(&host) {
            None => Ok((host, writable)),
            Some(file) => Err(Rejection::Directory(format!(
                "`{argument} {typed}` holds what is this worker's own ({}): name a directory that \
                 does not, such as one beside it",
                file.file_name().unwrap_or(file.as_os_str()).display()
            ))),
        }
    }

    /// The roots that are there and may be given, with their canonical paths.
    fn canonical<'a>(&self, roots: &'a [Root]) -> Vec<(PathBuf, &'a Root)> {
        let there = roots.iter().filter_map(|root| {
            let host = (self.resolve)(&self.working_dir.join(&root.path)).ok()?;
            self.kernel_at(&host).is_none().then_some((host, root))
        });
        there.collect()
    }

    /// The file system of the kernel that whoever opens `dir` could reach: it
    /// is one, or lies below or above one.
    pub fn kernel_at(&self, dir: &Path) -> Option<&Path> {
        reached(&self.kernel, dir)
    }

    /// What is the worker's own and whoever opens `dir` could read: below it,
    /// or above it.
    pub fn private_below(&self, dir: &Path) -> Option<&Path> {
        reached(&self.private, dir)
    }

    fn under_root_as_written(&self, path: &Path) -> bool {
        let Trust::Remote { roots, .. } = &self.trust else { return true };
        roots.iter().any(|root| lexically_under(path, &self.working_dir.join(&root.path)))
    }
}

fn reached<'a>(paths: &'a [PathBuf], dir: &Path) -> Option<&'a Path> {
    paths.iter().map(PathBuf::as_path).find(|path| path.starts_with(dir) || dir.starts_with(path))
}

/// Whether a directory may be written to; none if it is below no root.
fn writable(roots: &Roots<'_>, host: &Path) -> Option<bool> {
    // The innermost root decides.
    let above = roots.iter().filter(|(root, _)| host.starts_with(root));
    let (_, root) = above.max_by_key(|(root, _)| root.components().count())?;
    // Nor may a read-only root be written through a directory above it.
    let read_only =
        |(path, root): &(PathBuf, &Root)| !root.writable && path != host && path.starts_with(host);
    Some(root.writable && !roots.iter().any(read_only))
}

/// Whether `path` leads below `root` by its text alone, without `..`.
fn lexically_under(path: &Path, root: &Path) -> bool {
    path.starts_with(root) && !path.components().any(|part| part == Component::ParentDir)
}

pub(super) fn cant_open(what: &str, typed: &str, error: &io::Error) -> Rejection {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => {
            "it does not exist on this worker: check the volume mounts (absolute paths) \
             and the working directory"
        }
        io::ErrorKind::NotADirectory => "it is not a directory",
        io::ErrorKind::PermissionDenied => "the worker may not read it: check its permissions",
        _ => return Rejection::Directory(format!("{what} {typed}: {error}")),
    };
    Rejection::Directory(format!("{what} {typed}: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_directory_is_found_under_each_of_its_names() {
        let scratch = tempfile::tempdir().expect("a directory");
        let root = scratch.path().canonicalize().expect("it is there");
        let dir = root.join("a/b");
        fs::create_dir_all(&dir).expect("made");
        fs::write(root.join("file"), "").expect("written");
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).expect("linked");
        for name in ["a/b", "a/b/", "a/./b", "a//b", "a/../a/b", "link/b", "link/../a/b"] {
            let found = resolve_dir(&root.join(name)).expect(name);
            // As text, too, since it is told and compared.
            assert_eq!(found.as_os_str(), dir.as_os_str(), "{name}");
        }
        for (name, kind) in [
            ("file", io::ErrorKind::NotADirectory),
            ("file/x", io::ErrorKind::NotADirectory),
            ("nothing", io::ErrorKind::NotFound),
        ] {
            assert_eq!(resolve_dir(&root.join(name)).expect_err(name).kind(), kind, "{name}");
        }
    }
}
