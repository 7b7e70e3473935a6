//! wasi-nn for tasks: shared graphs behind checks.
