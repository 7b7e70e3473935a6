//! The integration tests, one module a surface, in one binary so that the
//! engine is linked once.

#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` marks what modules share")]

#[cfg(feature = "broker")]
mod arrival;
#[cfg(all(target_os = "linux", feature = "broker", feature = "openvino"))]
mod broken;
mod bursts;
mod causes;
mod cli_args;
#[cfg(target_os = "linux")]
mod compiling;
#[cfg(feature = "broker")]
mod component_tasks;
mod components;
#[cfg(target_os = "linux")]
mod confinement;
mod daemons;
#[cfg(all(feature = "broker", feature = "openvino"))]
mod demo;
#[cfg(all(feature = "broker", feature = "onnx", not(feature = "openvino")))]
mod demo_without_openvino;
mod deployments;
#[cfg(feature = "broker")]
mod doctor;
#[cfg(feature = "openvino")]
mod encodings;
mod files;
mod guests;
#[cfg(feature = "openvino")]
mod guide;
mod hostile;
#[cfg(feature = "broker")]
mod http;
#[cfg(feature = "broker")]
mod http_outgoing;
mod images;
mod inspect;
#[cfg(target_os = "linux")]
mod isolation;
mod layers;
mod ledger;
#[path = "../manager/mod.rs"]
mod manager;
mod manager_habits;
#[cfg(feature = "broker")]
mod metrics;
#[cfg(feature = "openvino")]
mod models;
#[cfg(feature = "openvino")]
mod nn;
#[cfg(feature = "openvino")]
mod nn_guests;
#[cfg(feature = "onnx")]
mod onnx;
mod packet_limits;
mod pipes;
mod readme;
#[cfg(any(feature = "openvino", feature = "onnx"))]
mod real_models;
mod recorded;
mod retained;
mod round_kills;
mod rounds;
mod run_verb;
mod runtime;
#[cfg(target_os = "linux")]
mod secrets;
mod sessions;
mod settings;
mod shipping;
mod shutdown;
mod signals;
mod sources;
#[cfg(feature = "broker")]
mod submit;
mod support;
#[cfg(all(feature = "broker", feature = "pytorch"))]
mod torch;
mod typed;
mod worker;
