//! The bytes of a model, which say what its graph is.

use std::sync::Arc;

use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding};

/// A model's bytes, as long as native code may refer to them.
#[derive(Clone)]
pub(super) struct Source {
    encoding: GraphEncoding,
    target: ExecutionTarget,
    parts: Arc<[Box<[u8]>]>,
}

impl Source {
    pub(super) fn new(encoding: GraphEncoding, target: ExecutionTarget, parts: &[&[u8]]) -> Source {
        Source { encoding, target, parts: parts.iter().map(|&part| Box::from(part)).collect() }
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

    /// Whether these are the same bytes, all of them, for the same device.
    pub(super) fn is(
        &self,
        encoding: GraphEncoding,
        target: ExecutionTarget,
        parts: &[&[u8]],
    ) -> bool {
        self.encoding == encoding
            && self.target == target
            && self.parts.len() == parts.len()
            && self.parts.iter().zip(parts).all(|(own, &part)| **own == *part)
    }
}
