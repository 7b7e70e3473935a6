//! Somebody who reads a topic of the broker.

use super::{PATIENCE, Stage};
use proplet::mqtt::{self, Address, Event};
use std::sync::{Arc, Mutex, PoisonError};

type Heard = Vec<(String, Vec<u8>)>;

/// What has come on a topic.
pub struct Listener(Arc<Mutex<Heard>>);

impl Listener {
    pub fn on(stage: &Stage, topic: &str) -> Listener {
        let heard = Arc::<Mutex<Heard>>::default();
        let address = Address { host: stage.address.ip().to_string(), port: stage.address.port() };
        let id = format!("listener-{}", uuid::Uuid::new_v4());
        let mut options = mqtt::Options::new(address, &id);
        options.subscriptions = vec![topic.to_owned()];
        let (connected, ready) = std::sync::mpsc::channel();
        {
            let heard = heard.clone();
            let _entered = stage.runtime().enter();
            let (link, mut events) = mqtt::connect(options).expect("a connection");
            stage.runtime().spawn(async move {
                while let Some(event) = events.next().await {
                    match event {
                        // A test that has ended waits no more.
                        Event::Connected { .. } => drop(connected.send(())),
                        Event::Message(message) => {
                            link.ack(message.ack);
                            heard
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push((message.topic, message.payload.to_vec()));
                        }
                        Event::Acknowledged(_) | Event::Disconnected { .. } => {}
                    }
                }
            });
        }
        ready.recv_timeout(PATIENCE).expect("it connects");
        Listener(heard)
    }

    /// What has come so far.
    pub fn heard(&self) -> Heard {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
