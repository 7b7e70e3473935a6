//! What a guest was refused of files: the last of it, told if its task fails.
//!
//! A guest learns a number, and most say no more than that. Here is what the
//! number stood for: which path, where it was looked for, and what the task had.

use super::errno;
use crate::escape::escaped;
use crate::task::Preopen;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// How many are kept: the last ones, since a guest that probes goes on.
const KEPT: usize = 4;
/// Bytes of a path that are kept.
const PATH: usize = 256;
/// Parts of a path that are looked at.
const LINKS: usize = 64;
/// Directories of a task that are listed.
const LISTED: usize = 8;

/// What guests and C libraries say of a path that no directory of theirs leads
/// to: they look it up among the directories themselves, and never ask the host.
const UNASKED: [&str; 5] = [
    "pre-opened file descriptor",
    "No such file or directory",
    "Capabilities insufficient",
    "os error 44",
    "os error 76",
];

/// The directory that a path was looked for in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Within {
    /// By its path in the guest.
    Named(String),
    /// By device and inode.
    Inode(u64, u64),
    /// One that the guest opened itself.
    Opened,
}

/// Why the host refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There is nothing of that name.
    Missing,
    /// It must not be opened.
    Denied,
    /// It must not be changed.
    Unwritable,
    /// The worker's process has no descriptor left.
    TooMany,
}

impl Why {
    /// What one of preview 1's numbers says that is worth telling.
    pub(super) fn of(errno: i32, writes: bool) -> Option<Why> {
        Some(match errno {
            errno::NOENT => Why::Missing,
            errno::ACCES | errno::PERM | errno::ROFS | errno::NOTCAPABLE if writes => {
                Why::Unwritable
            }
            errno::ACCES | errno::PERM | errno::NOTCAPABLE => Why::Denied,
            errno::MFILE | errno::NFILE => Why::TooMany,
            _ => return None,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct FileRefusal {
    path: String,
    within: Within,
    why: Why,
}

/// The last refusals of a task.
#[derive(Debug, Default)]
pub(super) struct Refusals(VecDeque<FileRefusal>);

impl Refusals {
    /// One more; the same one again is one.
    pub(super) fn add(&mut self, path: &[u8], within: Within, why: Why) {
        let path = String::from_utf8_lossy(&path[..path.len().min(PATH)]);
        let refusal = FileRefusal { path: path.into_owned(), within, why };
        if self.0.back() == Some(&refusal) {
            return;
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(refusal);
    }

    /// A sentence each, for a task that has these directories.
    pub(super) fn told(&self, dirs: &[Preopen]) -> Vec<String> {
        self.0.iter().map(|refusal| refusal.told(dirs)).collect()
    }
}

impl FileRefusal {
    fn told(&self, dirs: &[Preopen]) -> String {
        let dir = self.dir(dirs);
        let path = escaped(&match dir.map_or("", |dir| dir.guest.as_str()) {
            "" | "." => self.path.clone(),
            guest => format!("{}/{}", guest.trim_end_matches('/'), self.path),
        });
        let place = match dir {
            Some(dir) => {
                format!("the directory `{}` ({})", escaped(&dir.guest), dir.host.display())
            }
            None => "a directory that the guest opened itself".into(),
        };
        match self.why {
            Why::Missing => {
                format!("files: `{path}` was not found in {place}; {}", listed(dirs))
            }
            Why::Unwritable if dir.is_some_and(|dir| !dir.writable) => format!(
                "files: `{path}` may not be written: {place} is read-only for the task \
                 (`:rw` behind it in PROPLET_DIRS makes it writable)"
            ),
            Why::Unwritable | Why::Denied if self.leaves() => format!(
                "files: `{path}` may not be opened: the path leads out of {place}; {}",
                listed(dirs)
            ),
            Why::Unwritable => format!(
                "files: `{path}` may not be written in {place}: the worker's user may not, the \
                 file system is read-only, or a link leads out of the directory"
            ),
            Why::Denied => match dir.and_then(|dir| self.link_out(dir)) {
                Some((link, target)) => format!(
                    "files: `{path}` may not be opened: `{}` is a link to `{}`, which leads out of \
                     {place}",
                    escaped(&link.display().to_string()),
                    escaped(&target.display().to_string())
                ),
                None => format!(
                    "files: `{path}` may not be opened in {place}: the permissions of the \
                     worker's user do not suffice"
                ),
            },
            Why::TooMany => format!(
                "files: `{path}` was not opened: too many files are open in the worker's process \
                 (`ulimit -n`, or LimitNOFILE= of its service, raises the limit)"
            ),
        }
    }

    fn dir<'a>(&self, dirs: &'a [Preopen]) -> Option<&'a Preopen> {
        dirs.iter().find(|dir| match &self.within {
            Within::Named(guest) => dir.guest == *guest,
            Within::Inode(device, inode) => {
                use std::os::unix::fs::MetadataExt as _;
                let is = |host: std::fs::Metadata| host.dev() == *device && host.ino() == *inode;
                std::fs::metadata(&dir.host).is_ok_and(is)
            }
            Within::Opened => false,
        })
    }

    /// The first link on the way that leads out of the directory, below that one,
    /// and where it leads.
    fn link_out(&self, dir: &Preopen) -> Option<(PathBuf, PathBuf)> {
        let mut link = PathBuf::new();
        for part in Path::new(&self.path).components().take(LINKS) {
            link.push(part);
            let at = dir.host.join(&link);
            let Ok(target) = std::fs::read_link(&at) else { continue };
            // What may not be looked at lies elsewhere, too.
            let inside = at.canonicalize().is_ok_and(|found| found.starts_with(&dir.host));
            if !inside {
                return Some((link, target));
            }
        }
        None
    }

    /// Whether the path leads out of where it begins, whatever is there.
    fn leaves(&self) -> bool {
        let mut depth = 0_i32;
        let mut parts = self.path.split('/');
        self.path.starts_with('/')
            || parts.any(|part| {
                depth += match part {
                    "" | "." => 0,
                    ".." => -1,
                    _ => 1,
                };
                depth < 0
            })
    }
}

/// What a guest is told that found no file and asked the host for none, by what
/// it wrote.
pub(super) fn unasked(written: &[u8], dirs: &[Preopen]) -> Option<String> {
    let written = String::from_utf8_lossy(written);
    UNASKED.iter().any(|said| written.contains(said)).then(|| {
        format!(
            "files: the guest asked for no file that is missing in its directories, so the path \
             that it means begins with none of them; {}",
            listed(dirs)
        )
    })
}

fn listed(dirs: &[Preopen]) -> String {
    let named: Vec<_> = dirs
        .iter()
        .take(LISTED)
        .map(|dir| {
            let may = if dir.writable { "" } else { ", read-only" };
            format!("`{}` ({}{may})", escaped(&dir.guest), dir.host.display())
        })
        .collect();
    match dirs.len() {
        0 => "the task has no directory (`--dir` gives it one)".into(),
        1..=LISTED => format!("the task has {}", named.join(", ")),
        all => format!("the task has {} and {} more", named.join(", "), all - LISTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs() -> Vec<Preopen> {
        let dir = |host: &str, guest: &str, writable| Preopen {
            host: host.into(),
            guest: guest.into(),
            writable,
        };
        vec![dir("/srv/models", "fixture", false), dir("/srv/out", ".", true)]
    }

    fn told(path: &str, within: Within, why: Why) -> String {
        let mut refusals = Refusals::default();
        refusals.add(path.as_bytes(), within, why);
        refusals.told(&dirs()).remove(0)
    }

    #[test]
    fn each_refusal_names_the_path_the_place_and_the_cure() {
        let fixture = || Within::Named("fixture".into());
        assert_eq!(
            told("model.xml", fixture(), Why::Missing),
            "files: `fixture/model.xml` was not found in the directory `fixture` (/srv/models); \
             the task has `fixture` (/srv/models, read-only), `.` (/srv/out)"
        );
        let read_only = told("x", fixture(), Why::Unwritable);
        assert!(read_only.contains("is read-only") && read_only.contains("`:rw`"), "{read_only}");
        let theirs = told("a/x", Within::Named(".".into()), Why::Unwritable);
        assert!(theirs.contains("`a/x` may not be written in the directory `.`"), "{theirs}");
        for path in ["../x", "a/../../x", "/etc/passwd"] {
            let out = told(path, Within::Named(".".into()), Why::Denied);
            assert!(out.contains("leads out of the directory `.`"), "{out}");
        }
        let link = told("a/../x", Within::Opened, Why::Denied);
        assert!(link.contains("opened itself") && link.contains("permissions"), "{link}");
        assert!(told("x", fixture(), Why::TooMany).contains("ulimit -n"));
    }

    #[test]
    fn the_last_few_are_kept_and_none_twice() {
        let mut refusals = Refusals::default();
        for number in 0..1000 {
            for _ in 0..2 {
                refusals.add(number.to_string().as_bytes(), Within::Opened, Why::Missing);
            }
        }
        let told = refusals.told(&[]);
        assert_eq!(told.len(), KEPT);
        assert!(told[KEPT - 1].contains("`999`") && told[0].contains("`996`"), "{told:?}");
        refusals.add(&[b'a'; 5000], Within::Opened, Why::Missing);
        assert!(refusals.told(&[])[KEPT - 1].len() < 2 * PATH);
    }

    #[test]
    fn text_of_a_guests_stays_on_its_line() {
        let sentence = told("a\n\x1b[31m", Within::Opened, Why::Missing);
        assert!(!sentence.contains(char::is_control), "{sentence:?}");
    }

    #[test]
    fn what_never_reached_the_host_is_told_by_what_the_guest_said() {
        assert_eq!(unasked(b"segmentation fault", &dirs()), None);
        let said = b"Os { code: 44, message: \"No such file or directory\" }";
        let sentence = unasked(said, &dirs()).expect("a sentence");
        assert!(
            sentence.contains("begins with none of them; the task has `fixture`"),
            "{sentence}"
        );
        assert!(unasked(said, &[]).expect("a sentence").contains("`--dir` gives it one"));
    }
}
