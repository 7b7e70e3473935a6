//! The integration tests, one module a surface, in one binary so that the
//! engine is linked once.

#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` marks what modules share")]

mod runtime;
mod support;
