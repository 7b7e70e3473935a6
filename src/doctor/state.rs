//! The directory in which the worker remembers what it owes.

use super::Finding;
use crate::config::Config;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

pub(super) fn check(config: &Config) -> Vec<Finding> {
    let finding = match &config.state_dir {
        None => Finding::warning(
            "state",
            "nothing is kept on disk, so tasks and results that are not sent are lost when the worker \
             ends; PROPLET_STATE_DIR names a directory for them",
        ),
        Some(dir) => directory(dir),
    };
    vec![finding]
}

fn directory(dir: &Path) -> Finding {
    // The worker makes what is missing.
    let there = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(dir);
    let made = if there == dir { "" } else { ", which the worker will create," };
    match probe(there) {
        Ok(()) => Finding::ok("state", format!("{}{made} can be written to", dir.display())),
        Err(e) => Finding::failed(
            "state",
            format!(
                "{}{made} can't be written to ({}: {e}), and without it the worker does not start; give \
                 its user that directory (`chown`, or a volume), or name another one with \
                 PROPLET_STATE_DIR",
                dir.display(),
                there.display()
            ),
        ),
    }
}

/// Writes a file and removes it.
fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join(format!(".doctor-{}", std::process::id()));
    let written =
        OpenOptions::new().write(true).create_new(true).open(&path).and_then(|mut file| {
            file.write_all(b"can this be written?")?;
            file.sync_all()
        });
    let removed = fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_directory_that_can_be_written_to_is_left_as_it_was() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(directory(&dir.path().join("a/b")).verdict, Verdict::Ok);
        assert_eq!(directory(dir.path()).verdict, Verdict::Ok);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        assert_eq!(directory(&file.join("below")).verdict, Verdict::Failed);
    }
}
