//! The integration tests, one module a surface, in one binary so that the
//! engine is linked once.

mod runtime;
mod support;
