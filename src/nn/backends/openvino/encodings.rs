//! What each encoding is proven by, and what the library then reads of it.

use std::borrow::Cow;

use wasmtime_wasi_nn::wit::GraphEncoding;

use super::xml::Bounds;
use super::{IR, TENSORFLOW, TFLITE, builders, onnx, tensorflow, tflite};
use crate::nn::backends::{Encoding, ONNX};
use crate::nn::refusal::Refusal;

/// All that are served.
pub(super) const ENCODINGS: &[Encoding] = &[IR, ONNX, TFLITE, TENSORFLOW];

// What a graph keeps alive: the source, which is compared with and whose
// weights OpenVINO refers to; a second copy of the weights, in the layout that
// the device wants; and the operators, which go with the length of the XML or
// the number of the nodes.
//
// Measured as resident memory with OpenVINO 2026.4 after a first inference,
// beside what is said here: MobileNetV2 (0.1 MB of XML, 14.0 MB of weights)
// 30 and 33 MB, Magika (0.1 and 3.1 MB, open shapes) 11 and 10 MB, a chain of
// 600 products (0.4 MB and next to none) 17 and 12 MB, four numbers 0.8 and
// 1.1 MB. What a model computes in is not known before it runs.

/// What any model takes.
const MODEL: u64 = 1 << 20;

/// What a node or an operator of the other encodings takes.
const NODE: u64 = 16 << 10;

/// A model that is proven, as the library is to read it.
pub(super) struct Proven<'a> {
    pub(super) model: Cow<'a, [u8]>,
    /// The second builder of an intermediate representation, else nothing.
    pub(super) weights: &'a [u8],
    /// Whether it has operators that keep a state between inferences.
    pub(super) stateful: bool,
    /// What it keeps alive once it is compiled, in bytes.
    pub(super) weight: u64,
    /// How the name of its file ends, if the library takes it from a file alone.
    pub(super) suffix: Option<&'static str>,
}

/// Proves the builders of a model.
pub(super) fn prove<'a>(
    encoding: GraphEncoding,
    parts: &[&'a [u8]],
    bounds: Bounds,
) -> Result<Proven<'a>, Refusal> {
    match encoding {
        GraphEncoding::Onnx => {
            let (model, nodes) = onnx::check(parts, bounds)?;
            let weight = 3 * model.len() as u64 + NODE * nodes as u64 + MODEL;
            // No operator of ONNX's own keeps a state.
            Ok(Proven { model, weights: &[], stateful: false, weight, suffix: None })
        }
        GraphEncoding::Tensorflowlite => {
            let operators = tflite::check(parts, bounds)?;
            let weight = 3 * parts[0].len() as u64 + NODE * operators as u64 + MODEL;
            let model = Cow::Borrowed(parts[0]);
            // Variables are refused.
            Ok(Proven { model, weights: &[], stateful: false, weight, suffix: Some("tflite") })
        }
        GraphEncoding::Tensorflow => {
            let (model, nodes) = tensorflow::check(parts, bounds)?;
            let weight = 3 * model.len() as u64 + NODE * nodes as u64 + MODEL;
            Ok(Proven { model, weights: &[], stateful: false, weight, suffix: Some("pb") })
        }
        _ => {
            let scan = builders::check(parts, bounds)?;
            let [xml, weights] = parts else { unreachable!("two were proven") };
            let weight = 32 * xml.len() as u64 + 2 * weights.len() as u64 + MODEL;
            let model = scan.mended.map_or(Cow::Borrowed(*xml), Cow::Owned);
            Ok(Proven { model, weights, stateful: scan.stateful, weight, suffix: None })
        }
    }
}
