//! A start message as the manager writes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A task that is being put together.
#[derive(Clone, Debug)]
pub struct Task {
    message: Value,
    /// For the worker of the stage, unless the message says for whom.
    addressed: bool,
}

impl Task {
    /// Without any module, and with all that the manager always sends.
    pub fn bare() -> Task {
        let message = json!({
            "name": "a label", "state": 0, "cli_args": null, "daemon": false, "broadcast": false,
            "latent": false, "encrypted": false, "metadata": {},
            "monitoring_profile": { "interval": 1_000_000_000 },
        });
        Task { message, addressed: true }
    }

    pub fn module(bytes: &[u8]) -> Task {
        Task::bare().set("file", STANDARD.encode(bytes))
    }

    /// A guest of `fixtures/guests/wat`.
    pub fn wat(name: &str) -> Task {
        Task::module(&super::wat(name))
    }

    /// A guest of `fixtures/guests/bin`.
    #[cfg(any(feature = "openvino", feature = "onnx"))]
    pub fn guest(name: &str) -> Task {
        let path = super::fixtures().join(format!("guests/bin/{name}.wasm"));
        let module = std::fs::read(&path);
        Task::module(&module.unwrap_or_else(|e| panic!("reading {}: {e}", path.display())))
    }

    pub fn id(self, id: &str) -> Task {
        self.set("id", id)
    }

    pub fn args(self, args: &[&str]) -> Task {
        self.set("cli_args", args)
    }

    pub fn inputs(self, inputs: &[&str]) -> Task {
        self.set("inputs", inputs)
    }

    pub fn env(mut self, name: &str, value: &str) -> Task {
        self.message["env"][name] = value.into();
        self
    }

    pub fn set(mut self, field: &str, value: impl serde::Serialize) -> Task {
        self.message[field] = serde_json::to_value(value).expect("JSON");
        self
    }

    /// Without an address, as for a broadcast.
    pub fn for_anyone(mut self) -> Task {
        self.addressed = false;
        self
    }

    /// The task's id, which is `otherwise` if it has none, and the message to
    /// this worker.
    pub fn message(mut self, otherwise: &str, worker: &str) -> (String, Vec<u8>) {
        let message = self.message.as_object_mut().expect("an object");
        let id = message.entry("id").or_insert(otherwise.into());
        let id = id.as_str().expect("a string").to_owned();
        if self.addressed {
            message.entry("proplet_id").or_insert(worker.into());
        }
        (id, self.message.to_string().into_bytes())
    }
}

/// The guest that has its ONNX model in its memory, with another one there.
#[cfg(any(feature = "openvino", feature = "pytorch"))]
pub fn guest_with(model: &[u8], encoding: u32) -> Task {
    use std::fmt::Write as _;

    let path = super::fixtures().join("guests/wat/nn-self-test-onnx.wat");
    let text = std::fs::read_to_string(&path).expect("a guest");
    let mut bytes = String::new();
    for byte in model {
        write!(bytes, "\\{byte:02x}").expect("a string grows");
    }
    let length = "(i32.store (i32.const 516) (i32.const 117))";
    let load = "(i32.const 512) (i32.const 1) (i32.const 1)";
    assert!(text.contains(length) && text.contains(load), "the guest is another one");
    // Of two parts of memory in one place the last one counts.
    let end = text.rfind(')').expect("the end of the module");
    let text = format!("{}\n(data (i32.const 1024) \"{bytes}\"))", &text[..end])
        .replace(length, &length.replace("117", &model.len().to_string()))
        .replace(load, &format!("(i32.const 512) (i32.const 1) (i32.const {encoding})"));
    Task::module(&wat::parse_str(text).expect("a module"))
}
