//! The integration tests, one module a surface, in one binary so that the
//! engine is linked once.

#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` marks what modules share")]

#[cfg(all(feature = "broker", feature = "openvino"))]
mod demo;
mod runtime;
#[cfg(feature = "broker")]
mod submit;
mod support;
