//! Graphs of the configuration that an earlier process compiled. What tasks
//! bring or name themselves is not kept: it would let them write to the disk.

use std::sync::Arc;

use super::backends::{Backend, Compiled, Encoding};
use super::graph::SharedGraph;
use super::source::Source;
use crate::digest::Digest;
use crate::disk::DiskCache;

/// The place of one graph.
pub(super) struct StoredGraph {
    disk: Arc<DiskCache>,
    key: Digest,
}

impl StoredGraph {
    /// The place of what the backend makes of this source; none if it can't tell
    /// what that depends on.
    pub(super) fn of(
        disk: &Arc<DiskCache>,
        backend: &dyn Backend,
        encoding: &Encoding,
        source: &Source,
    ) -> Option<StoredGraph> {
        let settings = backend.settings(source.target())?;
        let source = source.parts().iter().map(|part| &**part);
        let parts =
            [backend.name(), encoding.name, &settings].map(str::as_bytes).into_iter().chain(source);
        Some(StoredGraph { disk: disk.clone(), key: Digest::of_list(parts) })
    }

    /// The graph, if it is there and of use.
    pub(super) fn find(&self, backend: &dyn Backend, source: &Source) -> Option<Compiled> {
        let compiled = self.disk.get(&self.key)?;
        let imported = backend.import(source, compiled);
        imported
            .inspect_err(|refusal| {
                tracing::debug!("a compiled graph on the disk can't be used: {refusal}");
                self.disk.remove(&self.key);
            })
            .ok()
    }

    /// Has it put there.
    pub(super) fn keep(self, graph: &Arc<SharedGraph>) {
        let graph = graph.clone();
        self.disk.keep(self.key, move || graph.export());
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use wasmtime_wasi_nn::wit::ExecutionTarget;

    use super::super::backends::fake::{Fake, MODEL};
    use super::super::graphs::Graphs;
    use super::*;
    use crate::cancel::Cancel;

    const WEIGHTS: &[u8] = b"weights";

    fn stored(disk: &Arc<DiskCache>, fake: &Fake) -> StoredGraph {
        let source =
            Source::new(fake.served().encoding.id, ExecutionTarget::Cpu, &[MODEL, WEIGHTS]);
        StoredGraph::of(disk, fake, fake.served().encoding, &source).expect("a place")
    }

    /// What a process does that starts now.
    fn load(disk: &Arc<DiskCache>) -> Fake {
        let (graphs, fake) = (Graphs::new(1 << 20, 1), Fake::default());
        graphs
            .load(
                fake.served(),
                ExecutionTarget::Cpu,
                &[MODEL, WEIGHTS],
                Some(disk),
                &Cancel::default(),
            )
            .expect("a graph");
        wait_for(disk, stored(disk, &fake).key);
        fake
    }

    fn wait_for(disk: &DiskCache, key: Digest) {
        let end = Instant::now() + Duration::from_secs(30);
        while disk.get(&key).is_none() {
            assert!(Instant::now() < end, "the graph is not kept");
            thread::yield_now();
        }
    }

    #[test]
    fn the_next_process_takes_a_graph_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Arc::new(DiskCache::open(&dir.path().join("cache"), 1 << 20).expect("a cache"));
        let first = load(&disk);
        assert_eq!((first.compiled(), first.imported()), (1, 0));
        let second = load(&disk);
        assert_eq!((second.compiled(), second.imported()), (0, 1));
        let key = stored(&disk, &second).key;
        disk.remove(&key);
        disk.keep(key, || Ok(b"of another version".to_vec()));
        wait_for(&disk, key);
        let third = load(&disk);
        assert_eq!(
            (third.compiled(), third.imported()),
            (1, 1),
            "compiled, since it was of no use"
        );
        let fourth = load(&disk);
        assert_eq!((fourth.compiled(), fourth.imported()), (0, 1), "and kept again");
    }

    #[test]
    fn another_model_has_another_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Arc::new(DiskCache::open(&dir.path().join("cache"), 1 << 20).expect("a cache"));
        let fake = Fake::default();
        let key = |parts: &[&[u8]]| {
            let source = Source::new(fake.served().encoding.id, ExecutionTarget::Cpu, parts);
            StoredGraph::of(&disk, &fake, fake.served().encoding, &source).expect("a place").key
        };
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_eq!(key(&[b"ab", b"c"]), key(&[b"ab", b"c"]));
    }
}
