//! A stand-in for Propeller's registry proxy: hears which images workers want, and
//! sends what a test has it send.

use super::Stage;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proplet::mqtt::{self, Address, Event};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// The proxy's own.
pub const PART: usize = 512_000;

/// A part as the proxy sends it.
#[derive(Clone, Debug)]
pub struct Part {
    pub index: u64,
    pub total: u64,
    pub bytes: Vec<u8>,
}

impl Part {
    /// An image in parts of this size.
    pub fn cut(image: &[u8], size: usize) -> Vec<Part> {
        let total = image.len().div_ceil(size) as u64;
        let parts = image.chunks(size).zip(0..);
        parts.map(|(bytes, index)| Part { index, total, bytes: bytes.to_vec() }).collect()
    }
}

/// See the module's documentation.
pub struct ImageProxy(Arc<Mutex<Vec<String>>>);

impl ImageProxy {
    /// Answers with what `answer` gives for a name, each with the name of its image.
    pub fn start(
        stage: &Stage,
        answer: impl Fn(&str) -> Vec<(String, Part)> + Send + 'static,
    ) -> ImageProxy {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let topics = stage.topics.clone();
        let address = Address { host: stage.address.ip().to_string(), port: stage.address.port() };
        let id = format!("proxy-{}", uuid::Uuid::new_v4());
        let mut options = mqtt::Options::new(address, &id);
        options.subscriptions = vec![topics.image_requests()];
        let (heard, ready) = std::sync::mpsc::channel();
        {
            let asked = asked.clone();
            let _entered = stage.runtime().enter();
            let (link, mut events) = mqtt::connect(options).expect("a connection");
            stage.runtime().spawn(async move {
                while let Some(event) = events.next().await {
                    match event {
                        Event::Connected { .. } => heard.send(()).expect("the test waits"),
                        Event::Message(message) => {
                            let request: Value =
                                serde_json::from_slice(&message.payload).expect("JSON");
                            let name = request["app_name"].as_str().expect("a name").to_owned();
                            link.ack(message.ack);
                            for (image, Part { index, total, bytes }) in answer(&name) {
                                let part = json!({
                                    "app_name": image, "chunk_idx": index, "total_chunks": total,
                                    "data": STANDARD.encode(bytes),
                                });
                                drop(link.publish(&topics.image_parts(), part.to_string()));
                            }
                            asked.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                        }
                        Event::Acknowledged(_) | Event::Disconnected { .. } => {}
                    }
                }
            });
        }
        ready.recv_timeout(super::PATIENCE).expect("it connects");
        ImageProxy(asked)
    }

    /// What it was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
