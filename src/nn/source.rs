//! The bytes of a model, which say what its graph is.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding};

use super::bytes::Kept;

/// Where bytes of a guest come from: those `within` them are the content's from
/// the byte `from` on. Two with the same origin are the same bytes, at those
/// places.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The number of a content that never changes, and that no other one has.
    pub content: u64,
    /// The first byte in the content.
    pub from: usize,
    /// The bytes that come from there.
    pub within: Range<usize>,
}

/// What is known of bytes in a guest's memory without a look at them.
pub trait Origins: Send + Sync {
    /// Where they come from, most of them.
    fn origin(&self, bytes: &[u8]) -> Option<Origin>;

    /// The same bytes, all of them, where they never change.
    fn kept(&self, bytes: &[u8]) -> Option<Kept>;
}

/// Origins that are remembered of each model.
const MAX_ORIGINS: usize = 16;

/// A model's bytes, as long as native code may refer to them.
#[derive(Clone)]
pub(super) struct Source {
    encoding: GraphEncoding,
    target: ExecutionTarget,
    parts: Arc<[Box<[u8]>]>,
    /// Of bytes that were compared and found the same, with the part's number.
    origins: Arc<Mutex<Vec<(usize, Origin)>>>,
}

impl Source {
    pub(super) fn new(encoding: GraphEncoding, target: ExecutionTarget, parts: &[&[u8]]) -> Source {
        let parts = parts.iter().map(|&part| Box::from(part)).collect();
        Source { encoding, target, parts, origins: Arc::default() }
    }

    /// What its bytes are.
    #[cfg_attr(not(feature = "openvino"), allow(dead_code, reason = "OpenVINO's alone"))]
    pub(super) fn encoding(&self) -> GraphEncoding {
        self.encoding
    }

    /// The device that it is compiled for.
    pub(super) fn target(&self) -> ExecutionTarget {
        self.target
    }

    /// The builders, in order.
    pub(super) fn parts(&self) -> &[Box<[u8]>] {
        &self.parts
    }

    /// Whether these are the same bytes, all of them, for the same device. What
    /// was compared once is not read again if it has the same origin.
    pub(super) fn is(
        &self,
        encoding: GraphEncoding,
        target: ExecutionTarget,
        parts: &[&[u8]],
        origins: &[Option<Origin>],
    ) -> bool {
        self.encoding == encoding
            && self.target == target
            && self.parts.len() == parts.len()
            && parts.iter().enumerate().all(|(number, part)| {
                let origin = origins.get(number).and_then(Option::as_ref);
                self.part_is(number, part, origin)
            })
    }

    fn part_is(&self, number: usize, part: &[u8], origin: Option<&Origin>) -> bool {
        let own = &*self.parts[number];
        let Some(origin) = origin.filter(|_| own.len() == part.len()) else { return own == part };
        // A list of plain data, which a panic leaves whole.
        let origins = || self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let Range { start, end } = origin.within;
        if origins().iter().any(|(of, known)| *of == number && known == origin) {
            return own[..start] == part[..start] && own[end..] == part[end..];
        }
        if own != part {
            return false;
        }
        let mut origins = origins();
        if origins.len() == MAX_ORIGINS {
            origins.remove(0);
        }
        origins.push((number, origin.clone()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IR: GraphEncoding = GraphEncoding::Openvino;
    const CPU: ExecutionTarget = ExecutionTarget::Cpu;

    fn origin(content: u64, from: usize) -> Option<Origin> {
        Some(Origin { content, from, within: 2..6 })
    }

    #[test]
    fn bytes_of_a_known_origin_are_not_read_again() {
        let source = Source::new(IR, CPU, &[b"<net/>", b"weights."]);
        let is =
            |weights: &[u8], origin| source.is(IR, CPU, &[b"<net/>", weights], &[None, origin]);
        // Nobody else has these bytes within, as an origin says: that they are
        // others here shows whether they are read.
        assert!(!is(b"weXXXXs.", origin(1, 2)), "it was never compared");
        assert!(is(b"weights.", origin(1, 2)));
        assert!(is(b"weXXXXs.", origin(1, 2)));
        // What lies outside is read, and so is all of another origin.
        assert!(!is(b"XeXXXXs.", origin(1, 2)));
        assert!(!is(b"weXXXXsX", origin(1, 2)));
        assert!(!is(b"weXXXXs.", origin(2, 2)));
        assert!(!is(b"weXXXXs.", origin(1, 3)));
        assert!(!is(b"weXXXXs.", None));
        assert!(!is(b"weXXXXs..", origin(1, 2)));
        // It was the second part that was compared.
        assert!(!source.is(IR, CPU, &[b"<nXXX>", b"weights."], &[origin(1, 2), None]));
    }

    #[test]
    fn a_number_of_origins_is_remembered() {
        let source = Source::new(IR, CPU, &[b"<net/>", b"weights."]);
        let is =
            |weights: &[u8], origin| source.is(IR, CPU, &[b"<net/>", weights], &[None, origin]);
        for content in 0..=MAX_ORIGINS as u64 {
            assert!(is(b"weights.", origin(content, 0)));
        }
        assert!(!is(b"weXXXXs.", origin(0, 0)));
        assert!(is(b"weXXXXs.", origin(1, 0)));
        assert_eq!(source.origins.lock().expect("no panic").len(), MAX_ORIGINS);
    }
}
