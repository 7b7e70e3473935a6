//! What the tests of both kinds of guests share: wasi-nn over the fake backend,
//! and how a guest has ended.

use crate::nn::backends::fake::Fake;
use crate::nn::{Nn, NnConfig, NnCtx, NnLimits, NnReport};

/// How a guest has ended.
pub(super) struct Ran {
    pub(super) result: Result<(), String>,
    pub(super) report: NnReport,
    /// Bytes of tensors that the task holds then.
    pub(super) held: u64,
}

impl Ran {
    /// Of what its call came to, with the context that it had.
    pub(super) fn new(result: wasmtime::Result<()>, nn: Option<&NnCtx>) -> Ran {
        Ran {
            result: result.map_err(|error| format!("{error:#}")),
            report: nn.map(NnCtx::report).unwrap_or_default(),
            held: nn.map_or(0, |nn| nn.task.tensor_bytes()),
        }
    }

    /// The guest ended well; what it was refused on the way.
    pub(super) fn refusals(self) -> Vec<String> {
        self.result.expect("the guest ends well");
        self.report.diagnostics
    }

    /// The guest trapped, with this message.
    pub(super) fn trap(self) -> String {
        self.result.expect_err("the guest traps")
    }
}

/// wasi-nn over this backend, for models of up to 100 bytes.
pub(super) fn nn(fake: &Fake, limits: NnLimits) -> Nn {
    let config = NnConfig { cache_bytes: 1 << 20, model_bytes: 100, limits, ..NnConfig::default() };
    Nn::with_backends(config, vec![Box::new(fake.clone())])
}
