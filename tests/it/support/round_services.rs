//! A stand-in for the services of federated rounds, all three at one address: they
//! answer as Propeller's demo does, or as a test says.

use super::Certified;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How a request is answered in place of what it asks for.
#[derive(Clone, Debug)]
pub enum Habit {
    /// With this status and text.
    Status(u16, &'static str),
    /// With 200 and this.
    Body(Vec<u8>),
    /// With a redirect to here.
    Redirect(String),
    /// As usual, but the connection ends before the answer.
    Cut,
    /// As usual, once [`RoundServices::release`] is called.
    Hold,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    Model,
    Data,
    Update,
    Other,
}

#[derive(Default)]
struct State {
    models: BTreeMap<u64, Value>,
    data: HashMap<String, Value>,
    /// As the coordinator counts them.
    updates: Vec<Value>,
    requests: Vec<String>,
    /// How many of them have had their answer, as far as the system took it.
    answered: usize,
    habits: HashMap<Route, VecDeque<Habit>>,
    releases: usize,
    /// Updates that end a round.
    round_of: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// See the module's documentation. Its threads end with the process.
pub struct RoundServices {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

/// A connection, plain or not.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

impl RoundServices {
    /// With the demo's first model. A round ends with so many updates.
    pub fn start(round_of: usize) -> RoundServices {
        RoundServices::serve("http", round_of, |stream| Box::new(stream))
    }

    /// The same over TLS, by an authority whose certificate is written to this file.
    pub fn start_with_tls(round_of: usize, ca: &Path) -> RoundServices {
        let certified = Certified::new(&["127.0.0.1"]);
        std::fs::write(ca, &certified.authority).expect("written");
        let config = certified.server();
        RoundServices::serve("https", round_of, move |stream| {
            let session = rustls::ServerConnection::new(config.clone()).expect("a session");
            Box::new(rustls::StreamOwned::new(session, stream))
        })
    }

    fn serve(
        scheme: &'static str,
        round_of: usize,
        accept: impl Fn(TcpStream) -> Box<dyn Stream + Send> + Send + 'static,
    ) -> RoundServices {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        {
            let mut state = lock(&shared);
            state.models.insert(0, json!({ "w": [0, 0, 0], "b": 0 }));
            state.round_of = round_of;
        }
        {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (shared, stream) = (shared.clone(), accept(stream));
                    // A client that has seen enough closes the connection.
                    std::thread::spawn(move || serve(stream, &shared).ok());
                }
            });
        }
        RoundServices { address, scheme, shared }
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// The worker's settings for all three.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        ["coordinator-url", "model-registry-url", "data-store-url"]
            .map(|name| (name, self.url()))
            .to_vec()
    }

    /// Gives a worker a data set.
    pub fn data(&self, worker: &str, data: Value) {
        let data =
            json!({ "proplet_id": worker, "size": data.as_array().map(Vec::len), "data": data });
        lock(&self.shared).data.insert(worker.to_owned(), data);
    }

    /// The next requests of this kind are answered so.
    pub fn answers(&self, route: Route, habits: &[Habit]) {
        lock(&self.shared).habits.insert(route, habits.iter().cloned().collect());
    }

    /// What the coordinator has counted.
    pub fn updates(&self) -> Vec<Value> {
        lock(&self.shared).updates.clone()
    }

    /// `METHOD PATH` of each request so far.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared).requests.clone()
    }

    /// How many requests have had an answer.
    pub fn answered(&self) -> usize {
        lock(&self.shared).answered
    }

    /// How often an update was sent, however it was answered.
    pub fn posts(&self) -> usize {
        self.requests().iter().filter(|request| request.starts_with("POST")).count()
    }

    /// A model of the registry.
    pub fn model(&self, version: u64) -> Option<Value> {
        lock(&self.shared).models.get(&version).cloned()
    }

    /// Lets go of what is held.
    pub fn release(&self) {
        lock(&self.shared).releases += 1;
        self.shared.changed.notify_all();
    }
}

// A test that failed while it held the lock has changed nothing.
fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: Box<dyn Stream + Send>, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut parts = line.split(' ');
    let (method, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let request = format!("{method} {path}");
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let route = match request.as_str() {
        r if r.starts_with("GET /models/") => Route::Model,
        r if r.starts_with("GET /datasets/") => Route::Data,
        "POST /update" => Route::Update,
        _ => Route::Other,
    };
    let (habit, releases) = {
        let mut state = lock(shared);
        state.requests.push(request.clone());
        let habit = state.habits.get_mut(&route).and_then(VecDeque::pop_front);
        (habit, state.releases)
    };
    let (status, answer, location) = match &habit {
        Some(Habit::Status(status, text)) => (*status, text.as_bytes().to_vec(), None),
        Some(Habit::Body(bytes)) => (200, bytes.clone(), None),
        Some(Habit::Redirect(to)) => (307, Vec::new(), Some(to.clone())),
        None | Some(Habit::Cut | Habit::Hold) => {
            let (status, answer) = usual(shared, path, route, &body);
            (status, answer, None)
        }
    };
    match habit {
        Some(Habit::Cut) => return Ok(()),
        Some(Habit::Hold) => {
            let state = lock(shared);
            let held = shared.changed.wait_while(state, |state| state.releases == releases);
            drop(held.unwrap_or_else(PoisonError::into_inner));
        }
        _ => {}
    }
    let stream = reader.get_mut();
    let location = location.map(|to| format!("Location: {to}\r\n")).unwrap_or_default();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\n{location}Content-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    )?;
    stream.write_all(&answer)?;
    stream.flush()?;
    lock(shared).answered += 1;
    Ok(())
}

/// As the services of Propeller's demo.
fn usual(shared: &Shared, path: &str, route: Route, body: &[u8]) -> (u16, Vec<u8>) {
    let mut state = lock(shared);
    let json = |value: &Value| (200, value.to_string().into_bytes());
    let last = path.rsplit('/').next().unwrap_or_default();
    match route {
        Route::Model => match last.parse().ok().and_then(|version: u64| state.models.get(&version))
        {
            Some(model) => json(model),
            None => (404, b"model not found".to_vec()),
        },
        Route::Data => match state.data.get(last) {
            Some(data) => json(data),
            None => (404, b"dataset not found".to_vec()),
        },
        Route::Update => {
            let update = serde_json::from_slice::<Value>(body).unwrap_or_default();
            let whole = update["round_id"].is_string()
                && update["proplet_id"].is_string()
                && update["update"].as_object().is_some_and(|update| !update.is_empty());
            if !whole {
                return (400, b"invalid update".to_vec());
            }
            state.updates.push(update);
            if state.updates.len() == state.round_of {
                let model = mean(&state.updates);
                let version = state.models.len() as u64;
                state.models.insert(version, model);
            }
            json(&json!({ "status": "accepted" }))
        }
        Route::Other => {
            let (updates, completed) = (state.updates.len(), state.updates.len() >= state.round_of);
            json(&json!({ "completed": completed, "num_updates": updates, "round_id": "r" }))
        }
    }
}

/// The mean of the updates, each as heavy as its samples.
fn mean(updates: &[Value]) -> Value {
    let samples: f64 = updates.iter().filter_map(|update| update["num_samples"].as_f64()).sum();
    let part = |update: &Value| update["num_samples"].as_f64().unwrap_or(0.0) / samples;
    let weight = |n: usize| -> f64 {
        let weights = updates.iter().map(|u| part(u) * u["update"]["w"][n].as_f64().unwrap_or(0.0));
        weights.sum()
    };
    let bias: f64 =
        updates.iter().map(|u| part(u) * u["update"]["b"].as_f64().unwrap_or(0.0)).sum();
    json!({ "w": [weight(0), weight(1), weight(2)], "b": bias })
}
