//! OpenVINO: the search for its library, what is proven of its models before it
//! parses them, and, with the feature `openvino`, the backend itself.
#![cfg_attr(
    not(feature = "openvino"),
    allow(dead_code, reason = "what only the backend calls is built and tested without it too")
)]

pub(in crate::nn) mod builders;
mod config;
mod library;
mod onnx;
pub(in crate::nn) mod operators;
#[cfg_attr(not(target_os = "linux"), path = "paths/missing.rs")]
mod paths;
mod tensorflow;
mod tflite;
mod translated;
pub(in crate::nn) mod xml;

#[cfg(feature = "openvino")]
mod backend;
#[cfg(feature = "openvino")]
mod devices;
#[cfg(feature = "openvino")]
mod encodings;
#[cfg(feature = "openvino")]
mod model;
#[cfg(feature = "openvino")]
mod native;

#[cfg(feature = "openvino")]
pub(in crate::nn) use backend::OpenVino;
pub use config::{Devices, Hint, OpenVinoConfig, Precision};
pub use library::SearchEnv;

use wasmtime_wasi_nn::wit::GraphEncoding;

use super::Encoding;

/// OpenVINO's intermediate representation: the XML, and the weights.
pub(super) const IR: Encoding =
    Encoding { id: GraphEncoding::Openvino, name: "openvino", files: &["model.xml", "model.bin"] };

/// TensorFlow Lite: one file with its weights.
#[cfg_attr(not(feature = "openvino"), allow(dead_code, reason = "OpenVINO's alone"))]
pub(super) const TFLITE: Encoding = Encoding {
    id: GraphEncoding::Tensorflowlite,
    name: "tensorflowlite",
    files: &["model.tflite"],
};

/// TensorFlow's frozen graph: one file with its weights.
#[cfg_attr(not(feature = "openvino"), allow(dead_code, reason = "OpenVINO's alone"))]
pub(super) const TENSORFLOW: Encoding =
    Encoding { id: GraphEncoding::Tensorflow, name: "tensorflow", files: &["model.pb"] };

#[cfg(all(test, feature = "openvino"))]
mod damage;
#[cfg(all(test, feature = "openvino"))]
mod hostile;
#[cfg(all(test, feature = "openvino"))]
mod probe;
#[cfg(all(test, feature = "openvino"))]
mod tests;
