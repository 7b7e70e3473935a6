//! An invoke message as the manager writes it, and its answer.

use super::stage::{Outcome, Stage};
use serde_json::{Value, json};

/// An invocation that is being put together.
#[derive(Clone, Debug)]
pub struct Call(Value);

impl Call {
    /// Of this task, with all that the manager always sends.
    pub fn of(task: &str) -> Call {
        let id = uuid::Uuid::new_v4().to_string();
        Call(json!({ "id": task, "invocation_id": id, "broadcast": false, "inputs": null }))
    }

    pub fn id(self, id: &str) -> Call {
        self.set("invocation_id", json!(id))
    }

    pub fn inputs(self, inputs: &[&str]) -> Call {
        self.set("inputs", json!(inputs))
    }

    pub fn env(mut self, name: &str, value: &str) -> Call {
        self.0["env"][name] = value.into();
        self
    }

    pub fn set(mut self, field: &str, value: Value) -> Call {
        self.0[field] = value;
        self
    }
}

impl Stage {
    /// Invokes a task of this worker. Gives the invocation's id.
    pub fn invoke(&self, call: Call) -> String {
        let message = call.set("proplet_id", json!(self.worker_id)).0;
        self.publish("invoke", message.to_string());
        message["invocation_id"].as_str().expect("a string").to_owned()
    }

    /// Waits for the answer to an invocation.
    pub fn answer(&self, invocation: &str) -> Outcome {
        Outcome(self.wait(&format!("the answer to {invocation}"), |seen| {
            let mut answers = seen.iter().filter(|seen| seen.topic == "invoke_results");
            answers.find(|seen| seen.json["invocation_id"] == invocation).map(|a| a.json.clone())
        }))
    }

    /// Invokes a task and waits for the answer.
    pub fn call(&self, call: Call) -> Outcome {
        self.answer(&self.invoke(call))
    }

    /// How many answers an invocation has had so far.
    pub fn answers(&self, invocation: &str) -> usize {
        let seen = self.seen();
        let answers = seen.iter().filter(|seen| seen.topic == "invoke_results");
        answers.filter(|seen| seen.json["invocation_id"] == invocation).count()
    }
}
