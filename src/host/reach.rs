//! Whether the directories that a process was confined to are still those.
//! Landlock grants a directory and not its path, so what came into its place
//! since then, or was mounted there, is out of reach.

use super::confine::GrantedRoot;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Directories, each as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach(Vec<(GrantedRoot, Option<Identity>)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

fn identity(path: &Path) -> Option<Identity> {
    let found = fs::metadata(path).ok()?;
    Some(Identity { device: found.dev(), inode: found.ino() })
}

impl Reach {
    /// Looks at each of them.
    pub(super) fn of(roots: &[GrantedRoot]) -> Reach {
        Reach(roots.iter().map(|root| (root.clone(), identity(&root.path))).collect())
    }

    /// Whether this path is below one of them that is as it was found.
    pub(super) fn has(&self, path: &Path) -> bool {
        let mut around = self.0.iter().filter(|(root, _)| path.starts_with(&root.path));
        around.any(|(root, found)| found.is_some() && identity(&root.path) == *found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_into_the_place_of_a_directory_is_another_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = |name: &str| GrantedRoot { path: dir.path().join(name), writable: false };
        let roots = [root("models"), root("later")];
        fs::create_dir_all(dir.path().join("models/a")).expect("made");
        let before = Reach::of(&roots);
        let has = |reach: &Reach, name: &str| reach.has(&dir.path().join(name));
        assert!(has(&before, "models") && has(&before, "models/a"));
        assert!(!has(&before, "later") && !has(&before, "elsewhere") && !has(&before, "model"));
        fs::create_dir(dir.path().join("later")).expect("made");
        assert!(!has(&before, "later"), "it was not there to be granted");
        fs::create_dir_all(dir.path().join("new/a")).expect("made");
        fs::rename(dir.path().join("models"), dir.path().join("old")).expect("renamed");
        fs::rename(dir.path().join("new"), dir.path().join("models")).expect("renamed");
        assert!(!has(&before, "models/a"));
        let after = Reach::of(&roots);
        assert_ne!(before, after);
        assert!(has(&after, "models/a") && has(&after, "later"));
    }
}
