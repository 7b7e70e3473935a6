//! Graph directories: from a directory to its graph, without reading a file
//! that has not changed.
//!
//! What is known of a directory is who its files were when they were read
//! (device, inode, size, times) and, weakly, the graph of their bytes: the
//! cache alone decides what is kept. The bytes are read here, once, and
//! proven and compiled from memory, so they can't change in between.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use wasmtime_wasi_nn::wit::ExecutionTarget;

use super::backends::{Encoding, ServedEncoding};
use super::graph::SharedGraph;
use super::graphs::{Found, Graphs};
use super::refusal::{Errno, Halt, Refusal};
use crate::cancel::Cancel;
use crate::directory::Directory;
use crate::disk::DiskCache;
use crate::task::GraphDir;

/// A file that was changed less than this before it was read could change
/// again without a new time stamp (kernels count them in ticks of up to 10 ms).
const TICK: Duration = Duration::from_millis(25);

/// The most directories that are remembered.
const MAX_KNOWN: usize = 1024;

/// Who a file is. Two files with the same stamp have the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_fresh(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let changed = i128::from(self.changed.0) * 1_000_000_000 + i128::from(self.changed.1);
        changed.abs_diff(now as i128) < TICK.as_nanos()
    }
}

struct KnownDirectory {
    encoding: &'static str,
    stamps: Vec<Stamp>,
    graph: Weak<SharedGraph>,
}

/// What is known of graph directories, by canonical path.
#[derive(Default)]
pub(super) struct Directories {
    known: Mutex<HashMap<PathBuf, KnownDirectory>>,
}

impl Directories {
    /// The graph of a directory. `max` is the most bytes of a model; it may be
    /// on `disk` as an earlier process compiled it.
    pub(super) fn load(
        &self,
        graphs: &Graphs,
        served: ServedEncoding<'_>,
        dir: &GraphDir,
        max: u64,
        disk: Option<&Arc<DiskCache>>,
        cancel: &Cancel,
    ) -> Result<(Arc<SharedGraph>, Found), Halt> {
        // Not by its path any more: that could lead elsewhere by now.
        let opened = Directory::open(&dir.dir).map_err(|error| {
            let text = format!("the directory {} can't be opened: {error}", dir.dir.display());
            Refusal::new(Errno::NotFound, text)
        })?;
        let encoding = served.encoding;
        let files = encoding.files.iter();
        let paths: Vec<_> = files
            .map(|file| Place { name: dir.dir.join(file), at: opened.path().join(file) })
            .collect();
        let stamps = paths
            .iter()
            .map(|path| Ok(Stamp::of(&regular(encoding, path)?)))
            .collect::<Result<Vec<_>, Refusal>>()?;
        if let Some(graph) = self.find(encoding, &dir.dir, &stamps) {
            graphs.hit(&graph);
            return Ok((graph, Found::Reused));
        }
        let size = stamps.iter().map(|stamp| stamp.size).fold(0, u64::saturating_add);
        if size > max {
            return Err(too_large(size, max).into());
        }
        let begun = SystemTime::now();
        let mut parts = Vec::new();
        for (path, stamp) in paths.iter().zip(&stamps) {
            parts.push(read(path, stamp)?);
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let (graph, found) = graphs.load(served, ExecutionTarget::Cpu, &parts, disk, cancel)?;
        if !stamps.iter().any(|stamp| stamp.is_fresh(begun)) {
            self.remember(encoding, &dir.dir, stamps, &graph);
        }
        Ok((graph, found))
    }

    fn find(&self, encoding: &Encoding, dir: &Path, stamps: &[Stamp]) -> Option<Arc<SharedGraph>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(dir)?;
        let same = known.encoding == encoding.name && known.stamps == stamps;
        same.then(|| known.graph.upgrade()).flatten()
    }

    fn remember(
        &self,
        encoding: &'static Encoding,
        dir: &Path,
        stamps: Vec<Stamp>,
        graph: &Arc<SharedGraph>,
    ) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.retain(|_, known| known.graph.strong_count() > 0);
        }
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        let graph = Arc::downgrade(graph);
        known.insert(dir.to_owned(), KnownDirectory { encoding: encoding.name, stamps, graph });
    }
}

/// A file: what it is called, and where it is read.
struct Place {
    name: PathBuf,
    at: PathBuf,
}

impl Place {
    fn display(&self) -> std::path::Display<'_> {
        self.name.display()
    }
}

/// The refusal of a model over the limit.
pub(super) fn too_large(size: u64, max: u64) -> Refusal {
    Refusal::too_large(format!(
        "the model has {size} bytes, more than this worker's limit of {max}"
    ))
}

// A link could lead out of the directories that the task was granted, and a
// pipe would never end. The directory's own path is the policy's to prove.
fn regular(encoding: &Encoding, path: &Place) -> Result<Metadata, Refusal> {
    let metadata = fs::symlink_metadata(&path.at).map_err(|error| {
        let files = encoding.files.join("` and `");
        Refusal::new(
            Errno::NotFound,
            format!(
                "`{}` can't be read: {error} (the directory of an {} graph holds `{files}`)",
                path.display(),
                encoding.name
            ),
        )
    })?;
    if !metadata.is_file() {
        let what = match fs::read_link(&path.at) {
            Ok(target) => format!("a link to `{}`", target.display()),
            Err(_) => "not a file".to_owned(),
        };
        return Err(Refusal::argument(format!(
            "`{}` is {what}: a graph directory holds the files themselves",
            path.display()
        )));
    }
    Ok(metadata)
}

fn read(path: &Place, stamp: &Stamp) -> Result<Vec<u8>, Refusal> {
    let failed = |error: std::io::Error| {
        Refusal::runtime(format!("`{}` can't be read: {error}", path.display()))
    };
    let changed =
        || Refusal::runtime(format!("`{}` changed while it was read; try again", path.display()));
    // A FIFO that has taken its place would block whoever opens it.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path.at);
    let mut file = opened.map_err(failed)?;
    // Also proves that it is the file that was looked at: not a link by now.
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || Stamp::of(&metadata) != *stamp {
        return Err(changed());
    }
    let mut bytes = Vec::with_capacity(stamp.size as usize);
    (&mut file).take(stamp.size).read_to_end(&mut bytes).map_err(failed)?;
    if Stamp::of(&file.metadata().map_err(failed)?) != *stamp || bytes.len() as u64 != stamp.size {
        return Err(changed());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::backends::fake::{Fake, MODEL};
    use super::*;

    /// Waits until the next change of a file would show in its times.
    fn settle(dir: &Path) {
        let fresh = |name| {
            let metadata = fs::metadata(dir.join(name)).expect("written");
            Stamp::of(&metadata).is_fresh(SystemTime::now())
        };
        while fresh("model.xml") || fresh("model.bin") {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    struct Fixture {
        dir: tempfile::TempDir,
        fake: Fake,
        graphs: Graphs,
        directories: Directories,
    }

    impl Fixture {
        fn new() -> Fixture {
            let dir = tempfile::tempdir().expect("a directory");
            fs::write(dir.path().join("model.xml"), MODEL).expect("written");
            fs::write(dir.path().join("model.bin"), b"weights").expect("written");
            settle(dir.path());
            let graphs = Graphs::new(1 << 20, 1);
            Fixture { dir, fake: Fake::default(), graphs, directories: Directories::default() }
        }

        fn load(&self, max: u64) -> Result<(Arc<SharedGraph>, Found), Halt> {
            let dir = GraphDir {
                encoding: "openvino".into(),
                dir: self.dir.path().to_owned(),
                name: "g".into(),
            };
            self.directories.load(
                &self.graphs,
                self.fake.served(),
                &dir,
                max,
                None,
                &Cancel::default(),
            )
        }

        fn refused(&self, max: u64) -> String {
            match self.load(max) {
                Err(Halt::Refused(refusal)) => refusal.text,
                _ => panic!("the graph was loaded"),
            }
        }
    }

    #[test]
    fn a_directory_is_read_once_and_again_when_a_file_changed() {
        let fixture = Fixture::new();
        let (first, found) = fixture.load(100).expect("a graph");
        assert_eq!(found, Found::Compiled);
        // No permission is needed for what is not read.
        let (again, found) = fixture.load(0).expect("a graph, read before, whatever the limit");
        assert!(found == Found::Reused && Arc::ptr_eq(&first, &again));

        fs::write(fixture.dir.path().join("model.bin"), b"WEIGHTS").expect("written");
        settle(fixture.dir.path());
        let (changed, found) = fixture.load(100).expect("a graph");
        assert!(found == Found::Compiled && !Arc::ptr_eq(&first, &changed));
    }

    #[test]
    fn the_same_bytes_by_name_and_by_value_are_one_graph() {
        let fixture = Fixture::new();
        let parts: [&[u8]; 2] = [MODEL, b"weights"];
        let (by_value, _) = fixture
            .graphs
            .load(fixture.fake.served(), ExecutionTarget::Cpu, &parts, None, &Cancel::default())
            .expect("a graph");
        let (by_name, found) = fixture.load(100).expect("a graph");
        assert!(found == Found::Reused && Arc::ptr_eq(&by_value, &by_name));
        assert_eq!(fixture.fake.compiled(), 1);
    }

    #[test]
    fn a_directory_does_not_keep_its_graph_alive() {
        let fixture = Fixture { graphs: Graphs::new(0, 1), ..Fixture::new() };
        drop(fixture.load(100).expect("a graph"));
        assert_eq!(fixture.load(100).expect("a graph").1, Found::Compiled);
    }

    #[test]
    fn what_is_no_graph_directory_is_refused() {
        let fixture = Fixture::new();
        assert_eq!(
            fixture.refused(12),
            "the model has 13 bytes, more than this worker's limit of 12"
        );
        let weights = fixture.dir.path().join("model.bin");
        fs::remove_file(&weights).expect("removed");
        assert!(fixture.refused(100).contains("holds `model.xml` and `model.bin`"));
        std::os::unix::fs::symlink("/etc/passwd", &weights).expect("linked");
        assert!(fixture.refused(1 << 20).contains("is a link to `/etc/passwd`"));
        fs::remove_file(&weights).expect("removed");
        fs::create_dir(&weights).expect("made");
        assert!(fixture.refused(1 << 20).contains("is not a file"));
    }

    /// ARCHITECTURE.md, case 71, between the look at a file and its reading.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_fifo_in_the_place_of_a_file_blocks_no_thread() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().join("model.bin");
        mknodat(CWD, &at, FileType::Fifo, Mode::RWXU, 0).expect("made");
        let stamp = Stamp::of(&fs::symlink_metadata(&at).expect("it is there"));
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(read(&Place { name: at.clone(), at }, &stamp)));
        let refused = ended.recv_timeout(Duration::from_secs(30)).expect("it comes back");
        let text = refused.expect_err("not a file").text;
        assert!(text.ends_with("changed while it was read; try again"), "{text}");
    }
}
