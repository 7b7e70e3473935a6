//! The directories that tasks may open, and the models in them.

use super::Finding;
use crate::policy::{Policy, Trust};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Folders below an allowed directory that are looked into.
const DEPTH: usize = 3;
/// Entries that are looked at in one allowed directory.
const ENTRIES: usize = 10_000;

pub(super) fn directories(policy: &Policy) -> Vec<Finding> {
    let Trust::Remote { roots, .. } = &policy.trust else { return Vec::new() };
    if roots.is_empty() {
        return vec![Finding::warning(
            "directories",
            "tasks may open no directory; PROPLET_DIRS=/fixture:/models allows two",
        )];
    }
    roots
        .iter()
        .map(|root| {
            let path = policy.working_dir.join(&root.path);
            match (policy.resolve)(&path) {
                Ok(path) if let Some(place) = policy.kernel_at(&path) => Finding::failed(
                    "directories",
                    format!(
                        "{} reaches {}, which shows all processes and devices of this machine, \
                         so the worker does not use it; list those that tasks need in PROPLET_DIRS",
                        root.path.display(),
                        place.display()
                    ),
                ),
                Ok(path) => directory(&path, root.writable),
                Err(e) => Finding::warning(
                    "directories",
                    format!(
                        "{} can't be used: {e}; tasks will not find it; mount it there, with an \
                         absolute path, or take it out of PROPLET_DIRS",
                        root.path.display()
                    ),
                ),
            }
        })
        .collect()
}

fn directory(path: &Path, writable: bool) -> Finding {
    let mut found = FoundFile::default();
    found.look(path, 0);
    let access = if writable { "read and write" } else { "read" };
    let FoundFile { models, unreadable, incomplete, .. } = found;
    if !unreadable.is_empty() {
        let first = unreadable.first().cloned().unwrap_or_default();
        let count = unreadable.len();
        return Finding::failed(
            "directories",
            format!(
                "the worker's user can't read {count} of the files in {}, such as {first}; `chmod -R \
                 a+rX {}` on the host lets it",
                path.display(),
                path.display()
            ),
        )
        .with(unreadable);
    }
    if !incomplete.is_empty() {
        return Finding::warning(
            "directories",
            format!(
                "{} has models without their weights: each model.xml needs its model.bin beside it",
                path.display()
            ),
        )
        .with(incomplete);
    }
    let models_text = match models.len() {
        0 => "there are no models (.xml with .bin) in it".to_owned(),
        1 => "1 model in it is readable".to_owned(),
        count => format!("{count} models in it are readable"),
    };
    Finding::ok("directories", format!("tasks may {access} {}; {models_text}", path.display()))
        .with(models)
}

#[derive(Default)]
struct FoundFile {
    seen: usize,
    models: Vec<String>,
    unreadable: Vec<String>,
    incomplete: Vec<String>,
}

impl FoundFile {
    fn look(&mut self, dir: &Path, depth: usize) {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) => return self.unreadable.push(format!("{}: {e}", dir.display())),
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            self.seen += 1;
            if self.seen > ENTRIES {
                return;
            }
            // Without following links, which could lead round in a circle.
            let Ok(kind) = fs::symlink_metadata(&path) else { continue };
            if kind.is_dir() {
                if depth < DEPTH {
                    self.look(&path, depth + 1);
                }
            } else if (is(&path, "xml") || is(&path, "bin")) && !is_special(&path) {
                self.file(&path);
            }
        }
    }

    fn file(&mut self, path: &Path) {
        if let Err(e) = File::open(path) {
            self.unreadable.push(format!("{}: {e}", path.display()));
        } else if is(path, "xml") && starts_as_model(path) {
            if path.with_extension("bin").exists() {
                self.models.push(path.display().to_string());
            } else {
                self.incomplete.push(path.display().to_string());
            }
        }
    }
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// Whether a pipe, a socket or a device is there: opening one may wait for ever.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir())
}

/// Whether it looks like OpenVINO's, of all the XML files that there are.
fn starts_as_model(path: &Path) -> bool {
    use std::io::Read as _;
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(512).read_to_end(&mut head));
    read.is_ok() && head.windows(4).any(|window| window == b"<net")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn models_are_found_with_their_weights() {
        let dir = tempfile::tempdir().expect("a folder");
        let model = dir.path().join("mobilenet");
        fs::create_dir(&model).expect("a folder");
        fs::write(dir.path().join("notes.xml"), "<notes/>").expect("written");
        fs::write(model.join("model.xml"), "<?xml version=\"1.0\"?>\n<net name=\"x\">")
            .expect("written");
        let finding = directory(dir.path(), false);
        assert_eq!(finding.verdict, Verdict::Warning, "{finding:?}");
        fs::write(model.join("model.bin"), "").expect("written");
        let finding = directory(dir.path(), false);
        assert_eq!((finding.verdict, finding.details.len()), (Verdict::Ok, 1), "{finding:?}");
        fs::remove_file(model.join("model.bin")).expect("removed");
        std::os::unix::fs::symlink("/no/where", model.join("model.bin")).expect("a link");
        let finding = directory(dir.path(), true);
        assert_eq!(finding.verdict, Verdict::Failed, "{finding:?}");
    }
}
