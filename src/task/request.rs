//! What a message or a command line asked for.

use super::{Life, ManagerState, ModuleSource, Monitoring, TaskId};
use std::collections::BTreeMap;

/// A task as it was asked for, nothing proven yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRequest {
    /// The manager's id.
    pub id: TaskId,
    /// What the manager's record of the task said when it sent the start; none
    /// if the message had no number there, as from a journal, which keeps none.
    pub state: Option<ManagerState>,
    /// A label, which in some deployments is the name of an export.
    pub name: String,
    /// `file` or `image_url`; none if the message had neither.
    pub module: Option<ModuleSource>,
    /// The guest's arguments after argv\[0\].
    pub inputs: Vec<String>,
    /// Arguments of `wasmtime run` before the module, one an element.
    pub cli_args: Vec<String>,
    /// The guest's environment.
    pub env: BTreeMap<String, String>,
    /// The results of the tasks that it depends on, as JSON.
    pub parent_results: Option<String>,
    /// Asks for a guest that goes on.
    pub daemon: bool,
    /// Asks for code that is kept, and runs when it is invoked.
    pub latent: bool,
    /// Says that the module is encrypted (not built yet).
    pub encrypted: bool,
    /// How its use of the machine is to be told, if it is asked for.
    pub monitoring: Option<Monitoring>,
}

impl TaskRequest {
    /// What running it means.
    pub fn life(&self) -> Life {
        match (self.latent, self.daemon) {
            (true, _) => Life::Latent,
            (false, true) => Life::Daemon,
            (false, false) => Life::Once,
        }
    }

    /// A request of this id that asks for nothing, a module included.
    pub fn new(id: TaskId) -> TaskRequest {
        TaskRequest {
            id,
            state: None,
            name: String::new(),
            module: None,
            inputs: Vec::new(),
            cli_args: Vec::new(),
            env: BTreeMap::new(),
            parent_results: None,
            daemon: false,
            latent: false,
            encrypted: false,
            monitoring: None,
        }
    }
}
