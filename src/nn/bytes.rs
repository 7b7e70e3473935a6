//! The bytes of a tensor on their way between a guest's memory and a backend's.
//!
//! A component's tensor is copied out of the guest's memory once, into
//! [`Bytes`], which a backend computes on as they are. What a core module read
//! from a file that is kept is not copied at all: the backend may have the
//! file's content in its place ([`Kept`]). An output is an [`Output`], the
//! memory that the backend computed it in, until it is copied into the guest's
//! memory, once.

use std::ops::Range;
use std::sync::Arc;

/// What backends like their memory to begin at a multiple of: a cache line, and
/// the widest registers.
const ALIGNMENT: usize = 64;

/// An output of an inference, which no other inference changes.
pub(super) type Output = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Bytes that never change, of which others have parts, too. A write to them is a
/// fault of this process.
#[derive(Clone)]
pub struct Kept {
    content: Arc<dyn AsRef<[u8]> + Send + Sync>,
    part: Range<usize>,
}

impl Kept {
    /// A part of a content; none if it does not have it.
    pub fn new(content: Arc<dyn AsRef<[u8]> + Send + Sync>, part: Range<usize>) -> Option<Kept> {
        (*content).as_ref().get(part.clone())?;
        Some(Kept { content, part })
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &(*self.content).as_ref()[self.part.clone()]
    }
}

/// Aligned bytes, which a backend may have as they are.
pub(super) struct Bytes {
    memory: Vec<u8>,
    start: usize,
}

impl Bytes {
    /// Copies `bytes`.
    pub(super) fn copy_of(bytes: &[u8]) -> Bytes {
        // No more than this is put into it, so that it stays where it is.
        let mut memory: Vec<u8> = Vec::with_capacity(bytes.len() + ALIGNMENT - 1);
        let start = memory.as_ptr().addr().wrapping_neg() % ALIGNMENT;
        memory.resize(start, 0);
        memory.extend_from_slice(bytes);
        Bytes { memory, start }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.memory.len() - self.start
    }

    /// Where they begin, for who writes to them.
    #[cfg_attr(not(feature = "openvino"), allow(dead_code, reason = "OpenVINO's alone"))]
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.memory[self.start..].as_mut_ptr()
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_copied_to_an_aligned_place() {
        for length in [0, 1, 63, 64, 65, 1000, 100_000] {
            let original: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut bytes = Bytes::copy_of(&original);
            assert_eq!((bytes.as_ref(), bytes.len()), (&*original, original.len()));
            assert_eq!(bytes.as_mut_ptr().addr() % ALIGNMENT, 0, "{length}");
            assert_eq!(bytes.as_mut_ptr().cast_const(), bytes.as_ref().as_ptr());
        }
    }
}
