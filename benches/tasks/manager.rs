//! Whoever sends the tasks: as little as can be, since it shares the
//! processors with what is measured.

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use proplet::mqtt::{self, Address, Event, Events, Link};
use proplet::protocol::{self, Topics};
use proplet::task::TaskRequest;
use serde::Deserialize;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// What [`Echo`] answers, and where.
const ASK: &str = "bench/ask";
const ANSWER: &str = "bench/answer";

/// A connection with the channel's topics.
pub struct Manager {
    tokio: tokio::runtime::Runtime,
    link: Link,
    events: Events,
    topics: Topics,
    tasks: u64,
    invocations: u64,
}

/// A `start` message, encoded but for the task's id.
pub struct Start {
    message: Vec<u8>,
    id_at: usize,
}

const ID: &str = "task-0000000000";

impl Start {
    pub fn new(request: &TaskRequest) -> anyhow::Result<Start> {
        let message = protocol::encode_start(request, None);
        let id_at = message.windows(ID.len()).position(|bytes| bytes == ID.as_bytes());
        Ok(Start { message, id_at: id_at.context("the id is in the message")? })
    }

    fn with_id(&self, number: u64) -> Vec<u8> {
        let mut message = self.message.clone();
        let id = format!("task-{number:010}");
        message[self.id_at..self.id_at + id.len()].copy_from_slice(id.as_bytes());
        message
    }
}

#[derive(Deserialize)]
struct Result<'a> {
    task_id: &'a str,
    error: Option<String>,
}

impl Manager {
    pub fn connect(broker: SocketAddr) -> anyhow::Result<Manager> {
        let tokio = thread()?;
        let topics = Topics::new("bench", "bench");
        let address = Address { host: broker.ip().to_string(), port: broker.port() };
        let mut options = mqtt::Options::new(address, "bench-manager");
        options.subscriptions = vec![topics.results(), topics.create(), topics.invoke_results()];
        options.subscriptions.push(ANSWER.to_owned());
        let (link, events) = {
            let _entered = tokio.enter();
            mqtt::connect(options)?
        };
        let mut manager = Manager { tokio, link, events, topics, tasks: 0, invocations: 0 };
        while !matches!(manager.event()?, Event::Connected { .. }) {}
        Ok(manager)
    }

    /// Waits for a worker's introduction.
    pub fn hear(&mut self) -> anyhow::Result<()> {
        let topic = self.topics.create();
        loop {
            if let Event::Message(message) = self.event()? {
                self.link.ack(message.ack);
                if message.topic == topic {
                    return Ok(());
                }
            }
        }
    }

    /// Sends a task.
    pub fn send(&mut self, start: &Start) {
        self.tasks += 1;
        drop(self.link.publish(&self.topics.start(), start.with_id(self.tasks)));
    }

    /// From the task's message to its result.
    pub fn run(&mut self, start: &Start) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.send(start);
        self.result()?;
        Ok(began.elapsed())
    }

    /// Has a latent task deployed, and gives its id.
    pub fn deploy(&mut self, start: &Start) -> anyhow::Result<String> {
        self.send(start);
        let id = format!("task-{:010}", self.tasks);
        // It waits until the task is deployed.
        self.invoke(&id)?;
        Ok(id)
    }

    /// From an invocation's message to its answer, which must be a success.
    pub fn invoke(&mut self, task: &str) -> anyhow::Result<Duration> {
        self.invocations += 1;
        let invocation = format!("call-{}", self.invocations);
        let message = serde_json::json!({
            "id": task, "invocation_id": invocation, "broadcast": false,
            "proplet_id": "bench-worker", "inputs": null,
        });
        let topic = self.topics.invoke_results();
        let began = Instant::now();
        drop(self.link.publish(&self.topics.invoke(), message.to_string()));
        let answer = self.message(&topic)?;
        let took = began.elapsed();
        let answer: Result<'_> = serde_json::from_slice(&answer)?;
        ensure!(answer.error.is_none(), "{}: {:?}", answer.task_id, answer.error);
        Ok(took)
    }

    /// To [`Echo`] and back.
    pub fn round_trip(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        drop(self.link.publish(ASK, "?"));
        self.message(ANSWER)?;
        Ok(began.elapsed())
    }

    /// Tasks a second, with this many in flight for this long.
    pub fn flow(
        &mut self,
        start: &Start,
        in_flight: usize,
        lasting: Duration,
    ) -> anyhow::Result<f64> {
        for _ in 0..in_flight {
            self.send(start);
        }
        let began = Instant::now();
        let mut done = 0u32;
        while began.elapsed() < lasting {
            self.result()?;
            done += 1;
            self.send(start);
        }
        let took = began.elapsed();
        for _ in 0..in_flight {
            self.result()?;
        }
        Ok(f64::from(done) / took.as_secs_f64())
    }

    /// Waits for the next result, which must be a success.
    pub fn result(&mut self) -> anyhow::Result<()> {
        let topic = self.topics.results();
        let result = self.message(&topic)?;
        let result: Result<'_> = serde_json::from_slice(&result)?;
        ensure!(result.error.is_none(), "{}: {:?}", result.task_id, result.error);
        Ok(())
    }

    /// Waits for the next message on a topic.
    fn message(&mut self, topic: &str) -> anyhow::Result<Bytes> {
        loop {
            let message = match self.event()? {
                Event::Message(message) => message,
                Event::Acknowledged(_) => continue,
                Event::Connected { .. } | Event::Disconnected { .. } => {
                    bail!("the connection ended")
                }
            };
            self.link.ack(message.ack);
            if message.topic == topic {
                return Ok(message.payload);
            }
        }
    }

    fn event(&mut self) -> anyhow::Result<Event> {
        let next = async { tokio::time::timeout(PATIENCE, self.events.next()).await };
        self.tokio.block_on(next).context("nothing came")?.context("the connection ended")
    }
}

/// Somebody who answers each message at once, as a worker that has nothing to do
/// would: empty round trips with what they hold, starts with an empty result.
pub struct Echo {
    #[expect(dead_code, reason = "held: the connection ends with it")]
    link: Link,
    /// Its own, if it has one.
    _tokio: Option<tokio::runtime::Runtime>,
}

impl Echo {
    /// On the manager's own thread: the fewest wake-ups for one message at a time.
    pub fn beside(manager: &Manager, broker: SocketAddr) -> anyhow::Result<Echo> {
        let link = Echo::connect(manager.tokio.handle(), broker, vec![ASK.to_owned()])?;
        Ok(Echo { link, _tokio: None })
    }

    /// On a thread of its own, in place of a worker.
    pub fn of_starts(broker: SocketAddr) -> anyhow::Result<Echo> {
        let tokio = thread()?;
        let topics = Topics::new("bench", "bench");
        let link = Echo::connect(tokio.handle(), broker, vec![topics.start()])?;
        Ok(Echo { link, _tokio: Some(tokio) })
    }

    fn connect(
        tokio: &tokio::runtime::Handle,
        broker: SocketAddr,
        subscriptions: Vec<String>,
    ) -> anyhow::Result<Link> {
        let address = Address { host: broker.ip().to_string(), port: broker.port() };
        let mut options = mqtt::Options::new(address, "bench-echo");
        options.subscriptions = subscriptions;
        let _entered = tokio.enter();
        let (link, mut events) = mqtt::connect(options)?;
        let answers = link.clone();
        let results = Topics::new("bench", "bench").results();
        let (connected, ready) = std::sync::mpsc::channel();
        tokio.spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Event::Message(message) => {
                        if message.topic == ASK {
                            drop(answers.publish(ANSWER, message.payload));
                        } else {
                            drop(answers.publish(&results, r#"{"task_id":"task","results":""}"#));
                        }
                        answers.ack(message.ack);
                    }
                    // Nobody waits for a second one.
                    Event::Connected { .. } => drop(connected.send(())),
                    Event::Acknowledged(_) | Event::Disconnected { .. } => {}
                }
            }
        });
        ready.recv_timeout(PATIENCE).context("the echo does not connect")?;
        Ok(link)
    }
}

fn thread() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
}
