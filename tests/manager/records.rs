//! What the manager knows of tasks and workers, and keeps on the disk.

use super::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Go's time before all times.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Fields of a task that whoever creates it may set.
const SETTABLE: [&str; 18] = [
    "name",
    "kind",
    "cli_args",
    "inputs",
    "env",
    "daemon",
    "encrypted",
    "broadcast",
    "latent",
    "image_url",
    "file",
    "depends_on",
    "monitoring_profile",
    "mode",
    "metadata",
    "schedule",
    "is_recurring",
    "priority",
];

/// Those of them that an update keeps.
const UPDATED: [&str; 6] = ["name", "inputs", "file", "priority", "metadata", "schedule"];

/// A worker that was heard within this time is alive.
const ALIVE: Duration = Duration::from_secs(10);

/// How many heartbeats are remembered.
const HISTORY: usize = 10;

/// The file with the workers.
const WORKERS: &str = "workers";

/// A task as it is stored: the fields of the API, and `pinned`.
pub type Task = Map<String, Value>;

/// Pending, as a new task is.
pub const PENDING: u8 = 0;
pub const RUNNING: u8 = 2;
pub const COMPLETED: u8 = 3;
pub const FAILED: u8 = 4;

pub struct Records {
    store: Store,
    dir: PathBuf,
    tasks: BTreeMap<String, Task>,
    pub workers: BTreeMap<String, Worker>,
}

/// A worker as it is known.
#[derive(Default, Serialize, Deserialize)]
pub struct Worker {
    name: String,
    pub tasks: i64,
    metadata: Value,
    heard: Option<SystemTime>,
    /// When it was heard, the newest last.
    pub history: Vec<String>,
}

impl Records {
    /// With what an earlier manager has kept.
    pub fn open(store: Store, dir: &Path) -> Records {
        let dir = dir.join("manager");
        let mut tasks = BTreeMap::new();
        let mut workers = BTreeMap::new();
        if store != Store::Memory {
            std::fs::create_dir_all(&dir).expect("a folder");
            for entry in std::fs::read_dir(&dir).expect("a folder").flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "json") {
                    let text = std::fs::read(entry.path()).expect("a task's file");
                    let task: Task = serde_json::from_slice(&text).expect("whole, once renamed");
                    tasks.insert(task["id"].as_str().expect("an id").to_owned(), task);
                }
            }
            if let Ok(text) = std::fs::read(dir.join(WORKERS)) {
                workers = serde_json::from_slice(&text).expect("whole, once renamed");
            }
        }
        Records { store, dir, tasks, workers }
    }

    /// A task that `body` describes, not stored yet. Those of a job have ids already.
    pub fn new_task(body: &Value, job: Option<&str>) -> Task {
        let mut task = json!({
            "id": uuid::Uuid::new_v4().to_string(), "name": "", "state": PENDING,
            "cli_args": null, "daemon": false, "encrypted": false, "start_time": NEVER,
            "finish_time": NEVER, "created_at": now(), "updated_at": NEVER, "next_run": NEVER,
        });
        if let Some(job) = job {
            task["job_id"] = job.into();
            task["id"] = body["id"].clone();
        } else {
            task["kind"] = "standard".into();
            task["priority"] = 50.into();
        }
        let Value::Object(mut task) = task else { unreachable!("it is one") };
        set(&mut task, body, &SETTABLE);
        task
    }

    /// Stores a task, all of it.
    pub fn put(&mut self, mut task: Task) {
        if self.store == Store::Sqlite {
            // It has no columns for these.
            task.remove("priority");
            task.remove("schedule");
        }
        let id = task["id"].as_str().expect("an id").to_owned();
        self.keep(&format!("{}.json", blake3::hash(id.as_bytes())), &task);
        self.tasks.insert(id, task);
    }

    /// Writes a file that is there as a whole or not at all.
    fn keep(&self, name: &str, content: &impl Serialize) {
        if self.store == Store::Memory {
            return;
        }
        let new = self.dir.join("new");
        std::fs::write(&new, serde_json::to_vec(content).expect("JSON")).expect("written");
        std::fs::rename(&new, self.dir.join(name)).expect("renamed");
    }

    pub fn task(&self, id: &str) -> Option<&Task> {
        self.tasks.get(id)
    }

    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values()
    }

    /// What an update makes of a task.
    pub fn updated(&self, id: &str, body: &Value, drops: bool) -> Option<Task> {
        let mut task = self.task(id)?.clone();
        task.remove("schedule");
        set(&mut task, body, if drops { &UPDATED } else { &SETTABLE });
        task.insert("updated_at".into(), now().into());
        Some(task)
    }

    /// A worker introduces itself.
    pub fn introduced(&mut self, id: &str, metadata: &Value) {
        match self.workers.get_mut(id) {
            None => {
                self.workers.insert(id.to_owned(), Worker::new(metadata));
            }
            Some(worker) if self.store == Store::Badger => {
                worker.name = name();
                worker.heard = None;
            }
            // The entity exists already.
            Some(_) => {}
        }
        self.keep(WORKERS, &self.workers);
    }

    /// A worker is heard. One that is unknown is known from then on, and alive
    /// from the next time on.
    pub fn heard(&mut self, id: &str, metadata: &Value) {
        let Some(worker) = self.workers.get_mut(id) else {
            return self.introduced(id, metadata);
        };
        worker.heard = Some(SystemTime::now());
        worker.history.push(now());
        let surplus = worker.history.len().saturating_sub(HISTORY);
        worker.history.drain(..surplus);
        self.keep(WORKERS, &self.workers);
    }

    /// A worker for a task: the one that it had, or one with the fewest.
    pub fn choose(&self, task: &Task) -> Option<String> {
        let alive = || self.workers.iter().filter(|(_, worker)| worker.alive());
        let had = task.get("proplet_id").and_then(Value::as_str);
        let same = alive().find(|(id, _)| Some(id.as_str()) == had);
        let chosen = same.or_else(|| alive().min_by_key(|(_, worker)| worker.tasks));
        chosen.map(|(id, _)| id.clone())
    }
}

impl Worker {
    fn new(metadata: &Value) -> Worker {
        let mut metadata = metadata.clone();
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.remove("total_memory_bytes");
        }
        Worker { name: name(), metadata, ..Worker::default() }
    }

    fn alive(&self) -> bool {
        // A clock that went back counts as no time at all.
        self.heard.is_some_and(|heard| heard.elapsed().unwrap_or_default() < ALIVE)
    }

    pub fn shown(&self, id: &str) -> Value {
        let last = self.history.last().map_or(NEVER, String::as_str);
        let mut shown = json!({
            "id": id, "name": self.name, "task_count": self.tasks, "alive": self.alive(),
            "last_alive_at": last,
        });
        if self.metadata.is_object() {
            shown["metadata"] = self.metadata.clone();
        }
        shown
    }
}

/// A task as the API shows it, with the middle of its module left out.
pub fn shown(task: &Task) -> Value {
    let mut shown = task.clone();
    shown.remove("pinned");
    if let Some(Value::String(file)) = shown.get_mut("file")
        && file.len() > 20
    {
        *file = format!("{}<REDACTED>{}", &file[..10], &file[file.len() - 10..]);
    }
    shown.into()
}

/// The start message of a task, as it is read now.
pub fn start_message(task: &Task, parent_results: Option<Value>) -> Value {
    let mut message = json!({ "broadcast": false, "latent": false });
    let fields = [
        "id",
        "name",
        "state",
        "file",
        "image_url",
        "inputs",
        "cli_args",
        "broadcast",
        "daemon",
        "latent",
        "env",
        "encrypted",
        "proplet_id",
        "monitoring_profile",
        "mode",
        "metadata",
    ];
    for field in fields {
        if let Some(value) = task.get(field) {
            message[field] = value.clone();
        }
    }
    if let Some(results) = parent_results {
        message["parent_results"] = results;
    }
    message
}

pub fn now() -> String {
    humantime::format_rfc3339_nanos(SystemTime::now()).to_string()
}

/// Whether the task is one for all workers.
pub fn for_all(task: &Task) -> bool {
    task.get("broadcast") == Some(&true.into())
}

/// Sets the named fields that `body` has; what Go leaves out when empty is left out.
fn set(task: &mut Task, body: &Value, fields: &[&str]) {
    for field in fields {
        let Some(value) = body.get(field).filter(|value| !value.is_null()) else { continue };
        let shown_when_empty = task.contains_key(*field);
        let empty = *value == json!(false)
            || value.as_str().is_some_and(str::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(Map::is_empty);
        if shown_when_empty || !empty {
            task.insert((*field).to_owned(), value.clone());
        }
    }
}

/// The real one makes up names of two words.
fn name() -> String {
    format!("Worker-{:08x}", fastrand::u32(..))
}
