//! A TCP proxy between worker and broker. It cuts and stalls connections, in
//! the middle of a packet too, and never alters a live stream; and it reads
//! what passes, so that it knows what each side has acknowledged.

use crate::wire::{Packet, Reader};
use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What was seen of a task on the wire.
#[derive(Default, Clone)]
pub struct Seen {
    /// The worker has acknowledged its start.
    pub accepted: bool,
    /// The broker has acknowledged a result.
    pub answered: bool,
    /// How many start messages the worker has acknowledged.
    pub starts: usize,
    /// The results that differ from each other by more than `replayed`, which
    /// an answer that is given again has.
    pub results: Vec<Vec<u8>>,
    /// How often a result was sent.
    pub sent: u64,
}

#[derive(Default)]
pub struct Record {
    pub tasks: HashMap<String, Seen>,
}

pub struct Proxy {
    pub port: u16,
    pub record: Arc<Mutex<Record>>,
    control: Arc<Control>,
}

struct Control {
    broker: u16,
    /// Connections of an earlier generation end in the middle of what they
    /// forward next.
    generation: AtomicU64,
    stalled: AtomicBool,
}

impl Proxy {
    pub fn start(broker: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let control = Arc::new(Control {
            broker,
            generation: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
        });
        let record = Arc::new(Mutex::new(Record::default()));
        let (shared, seen) = (control.clone(), record.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(broker) = TcpStream::connect(("127.0.0.1", shared.broker)) else { continue };
                relay(client, broker, &shared, &seen);
            }
        });
        Proxy { port, record, control }
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.control.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Forwards nothing for this long.
    pub fn stall(&self, time: Duration) {
        self.control.stalled.store(true, Ordering::SeqCst);
        std::thread::sleep(time);
        self.control.stalled.store(false, Ordering::SeqCst);
    }
}

/// Tasks by packet id, of one connection.
#[derive(Default)]
struct InFlight {
    starts: HashMap<u16, String>,
    results: HashMap<u16, String>,
}

fn relay(
    client: TcpStream,
    broker: TcpStream,
    control: &Arc<Control>,
    record: &Arc<Mutex<Record>>,
) {
    let generation = control.generation.load(Ordering::SeqCst);
    let in_flight = Arc::new(Mutex::new(InFlight::default()));
    for (from, to, upstream) in [(&client, &broker, true), (&broker, &client, false)] {
        from.set_nodelay(true).ok();
        from.set_read_timeout(Some(Duration::from_millis(20))).ok();
        let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
        let (control, record, in_flight) = (control.clone(), record.clone(), in_flight.clone());
        std::thread::spawn(move || {
            forward(&from, &to, upstream, &control, generation, &record, &in_flight);
            from.shutdown(Shutdown::Both).ok();
            to.shutdown(Shutdown::Both).ok();
        });
    }
}

fn forward(
    mut from: &TcpStream,
    mut to: &TcpStream,
    upstream: bool,
    control: &Control,
    generation: u64,
    record: &Mutex<Record>,
    in_flight: &Mutex<InFlight>,
) {
    let mut reader = Reader::default();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => read,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(_) => return,
        };
        while control.stalled.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let cut = control.generation.load(Ordering::SeqCst) != generation;
        // Somewhere in the middle.
        let passed = if cut && read > 0 { fastrand::usize(..read) } else { read };
        // What is acknowledged counts from when the other side may know of it.
        for packet in reader.take(&buffer[..passed]) {
            note(packet, upstream, record, in_flight);
        }
        if to.write_all(&buffer[..passed]).is_err() || cut {
            return;
        }
    }
}

fn note(packet: Packet, upstream: bool, record: &Mutex<Record>, in_flight: &Mutex<InFlight>) {
    let mut record = record.lock().expect("the record");
    let mut in_flight = in_flight.lock().expect("what is in flight");
    match packet {
        Packet::Publish { topic, id, payload } => {
            let json: serde_json::Value = serde_json::from_slice(&payload).unwrap_or_default();
            if upstream && topic.ends_with("/results") {
                let task = json["task_id"].as_str().unwrap_or_default().to_owned();
                let seen = record.tasks.entry(task.clone()).or_default();
                seen.sent += 1;
                let mut result = json;
                result.as_object_mut().expect("a result is an object").remove("replayed");
                let result = result.to_string().into_bytes();
                if !seen.results.contains(&result) {
                    seen.results.push(result);
                }
                in_flight.results.insert(id, task);
            } else if !upstream && topic.ends_with("/start") {
                let task = json["id"].as_str().unwrap_or_default().to_owned();
                in_flight.starts.insert(id, task);
            }
        }
        Packet::PubAck(id) if upstream => {
            if let Some(task) = in_flight.starts.remove(&id) {
                let seen = record.tasks.entry(task).or_default();
                seen.accepted = true;
                seen.starts += 1;
            }
        }
        Packet::PubAck(id) => {
            if let Some(task) = in_flight.results.remove(&id) {
                record.tasks.entry(task).or_default().answered = true;
            }
        }
    }
}
