//! wasi-nn for tasks: shared graphs behind checks.
#![allow(missing_docs, unused, clippy::all, reason = "stub until the branch lands")]
use crate::{cancel::Cancel, task::GraphDir};
use std::{sync::Arc, time::Duration};
pub struct Nn;
pub struct NnCtx;
pub const MODULE: &str = "wasi_ephemeral_nn";
#[derive(Default)]
pub struct NnReport {
    pub diagnostics: Vec<String>,
    pub loaded: Duration,
    pub graphs_loaded: u32,
    pub graphs_reused: u32,
}
impl NnCtx {
    pub fn report(&self) -> NnReport {
        NnReport::default()
    }
}
impl Nn {
    pub fn context(&self, graphs: &[GraphDir], cancel: Arc<Cancel>) -> Result<NnCtx, String> {
        Ok(NnCtx)
    }
}
pub fn add_to_linker<T: 'static>(
    linker: &mut wasmtime::Linker<T>,
    get: impl Fn(&mut T) -> Option<&mut NnCtx> + Copy + Send + Sync + 'static,
) -> wasmtime::Result<()> {
    Ok(())
}
