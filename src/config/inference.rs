//! wasi-nn and its backend, for the worker and for `proplet run`.

use clap::ArgMatches;

use super::reader::{self, Reader};
use super::sources::Environment;
use super::{ConfigError, choice, value};
use crate::flags::GraphFlag;
use crate::nn::{
    BackendName, Devices, Hint, LoadBytes, OpenVinoConfig, Operators, Precision, SearchEnv,
};
use std::path::PathBuf;

/// The settings of [`super::Group::Inference`].
#[derive(Clone, Debug)]
pub struct Inference {
    /// The one backend for models; none is `auto`: all that there are.
    pub backend: Option<BackendName>,
    /// OpenVINO's C library or its folder, if it is not to be searched for.
    pub openvino_lib: Option<PathBuf>,
    /// Where else to look for it.
    pub library_search: SearchEnv,
    /// OpenVINO's mode; none is `auto`.
    pub hint: Option<Hint>,
    /// What it computes in.
    pub precision: Precision,
    /// Which operators a model may have.
    pub operators: Operators,
    /// OpenVINO's devices for the guests' targets.
    pub devices: Devices,
    /// The worker's library for libtorch or its folder, if it is not to be searched for.
    pub torch_lib: Option<PathBuf>,
    /// Of which encodings guests may hand over models of their own.
    pub load_bytes: LoadBytes,
    /// Graphs for every task, as typed.
    pub graphs: Vec<GraphFlag>,
}

impl Inference {
    /// Reads them for `proplet inspect`, from where a worker that was started here would
    /// have them.
    pub fn load(flags: &ArgMatches, env: &Environment) -> Result<Inference, ConfigError> {
        reader::load(flags, env, |reader| read(reader, env))
    }

    /// How OpenVINO is set up for one guest, or none, with one inference at a time.
    pub fn openvino(&self) -> OpenVinoConfig {
        OpenVinoConfig {
            library: self.openvino_lib.clone(),
            search: self.library_search.clone(),
            hint: self.hint.unwrap_or(Hint::Latency),
            precision: self.precision,
            operators: self.operators,
            devices: self.devices.clone(),
            links: None,
        }
    }
}

pub(super) fn read(reader: &mut Reader<'_>, env: &Environment) -> Option<Inference> {
    let backend = reader.read("nn-backend", choice::backend);
    let openvino_lib = reader.read_optional("openvino-lib", value::path);
    let torch_lib = reader.read_optional("torch-lib", value::path);
    let hint = reader.read("nn-hint", choice::hint);
    let precision = reader.read("nn-precision", choice::precision);
    let operators = reader.read("nn-operators", choice::operators);
    let devices = reader.read("nn-devices", choice::devices);
    let load_bytes = reader.read("nn-load-bytes", choice::load_bytes);
    let graphs = reader.read_optional("nn-graphs", value::graphs).unwrap_or_default();
    Some(Inference {
        backend: backend?,
        openvino_lib,
        torch_lib,
        library_search: env.library_search(),
        hint: hint?,
        precision: precision?,
        operators: operators?,
        devices: devices?,
        load_bytes: load_bytes?,
        graphs,
    })
}
