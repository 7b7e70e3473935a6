//! What the manager does with tasks, whoever asks for it.

use super::connection::Line;
use super::records::{
    COMPLETED, FAILED, PENDING, RUNNING, Records, Task, for_all, now, shown, start_message,
};
use super::{Habits, Store};
use proplet::protocol::Topics;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// A status and what it says.
pub type Reply = Result<(u16, Value), (u16, String)>;

pub struct Desk {
    pub habits: Habits,
    pub topics: Topics,
    pub line: Line,
    records: Mutex<Records>,
    /// Calls of latent tasks, until their answer comes.
    calls: Mutex<HashMap<String, oneshot::Sender<Value>>>,
    /// How many results of each task have been stored.
    results: watch::Sender<HashMap<String, usize>>,
    requests: Mutex<Vec<String>>,
}

/// How long it waits for the answer to a call.
const CALL: Duration = Duration::from_secs(30);

impl Desk {
    pub fn open(habits: &Habits, topics: &Topics, dir: &Path) -> Desk {
        Desk {
            habits: habits.clone(),
            topics: topics.clone(),
            line: Line::default(),
            records: Mutex::new(Records::open(habits.store, dir)),
            calls: Mutex::default(),
            results: watch::Sender::default(),
            requests: Mutex::default(),
        }
    }

    pub fn records(&self) -> MutexGuard<'_, Records> {
        lock(&self.records)
    }

    pub fn requests(&self) -> Vec<String> {
        lock(&self.requests).clone()
    }

    pub fn requested(&self, request: String) {
        lock(&self.requests).push(request);
    }

    /// No such task.
    pub fn unknown(&self) -> (u16, String) {
        match self.habits.store {
            Store::Memory => (404, "not found".into()),
            Store::Badger | Store::Sqlite => (500, "task not found".into()),
        }
    }

    pub fn create(&self, body: &Value) -> Reply {
        let task = Records::new_task(body, None);
        let answer = shown(&task);
        self.records().put(task);
        Ok((201, answer))
    }

    pub fn update(&self, id: &str, body: &Value) -> Reply {
        let mut records = self.records();
        let drops = self.habits.update_drops;
        let task = records.updated(id, body, drops).ok_or_else(|| self.unknown())?;
        records.put(task);
        Ok((200, shown(records.task(id).ok_or_else(|| self.unknown())?)))
    }

    pub fn task(&self, id: &str) -> Reply {
        self.records().task(id).map(|task| (200, shown(task))).ok_or_else(|| self.unknown())
    }

    /// Publishes the start, and only then stores the task as Running, the whole
    /// record as it was read at first: a result that came in between is gone.
    pub async fn start(&self, id: &str) -> Reply {
        let (mut task, message) = self.prepare(id)?;
        let published = self.line.publish(self.topics.start(), message.to_string()).await;
        published.map_err(|()| (500, "failed to publish start message".to_owned()))?;
        let late = &self.habits.running_after;
        tokio::time::sleep(late.start + (late.end - late.start).mul_f64(fastrand::f64())).await;
        let enough = self.habits.running_after_results;
        let mut results = self.results.subscribe();
        let stored = results.wait_for(|stored| stored.get(id).copied().unwrap_or(0) >= enough);
        stored.await.expect("its sender is here");
        task.insert("state".into(), RUNNING.into());
        task.insert("start_time".into(), now().into());
        task.insert("updated_at".into(), now().into());
        self.records().put(task);
        Ok((200, json!({ "started": true })))
    }

    /// Reads the task, chooses and pins a worker.
    fn prepare(&self, id: &str) -> Result<(Task, Value), (u16, String)> {
        let mut records = self.records();
        let mut task = records.task(id).ok_or_else(|| self.unknown())?.clone();
        if !for_all(&task) {
            let dead = || (500, "all proplets are dead".to_owned());
            let worker = records.choose(&task).ok_or_else(dead)?;
            if task.get("pinned").is_some() {
                match self.habits.store {
                    Store::Badger => {}
                    Store::Memory => return Err((500, "entity already exists".into())),
                    Store::Sqlite => {
                        let error = "create error: UNIQUE constraint failed: task_proplets.task_id";
                        return Err((500, error.into()));
                    }
                }
            }
            task.insert("pinned".into(), true.into());
            task.insert("proplet_id".into(), worker.clone().into());
            if let Some(worker) = records.workers.get_mut(&worker) {
                worker.tasks += 1;
            }
            records.put(task.clone());
        }
        let message = start_message(&task, parent_results(&records, &task));
        Ok((task, message))
    }

    pub async fn stop(&self, id: &str) -> Reply {
        let mut task = self.records().task(id).ok_or_else(|| self.unknown())?.clone();
        let mut message = json!({ "id": id, "broadcast": for_all(&task) });
        if let Some(worker) = task.get("proplet_id") {
            message["proplet_id"] = worker.clone();
        }
        let published = self.line.publish(self.topics.stop(), message.to_string()).await;
        published.map_err(|()| (500, "failed to publish stop message".to_owned()))?;
        let mut records = self.records();
        // Its state is for the worker's result to change, which may be here already.
        if let Some(now) = records.task(id) {
            task = now.clone();
        }
        task.remove("pinned");
        let worker = message["proplet_id"].as_str().and_then(|id| records.workers.get_mut(id));
        if let Some(worker) = worker {
            worker.tasks -= 1;
        }
        records.put(task);
        Ok((200, json!({ "stopped": true })))
    }

    pub async fn invoke(&self, id: &str, body: &Value) -> Reply {
        let task = self.records().task(id).ok_or_else(|| self.unknown())?.clone();
        let call = uuid::Uuid::new_v4().to_string();
        let mut message = json!({
            "broadcast": for_all(&task), "id": id, "invocation_id": call,
            "inputs": body["inputs"], "proplet_id": task.get("proplet_id"),
        });
        if let Some(env) = body.get("env") {
            message["env"] = env.clone();
        }
        let (answered, answer) = oneshot::channel();
        lock(&self.calls).insert(call, answered);
        let published = self.line.publish(self.topics.invoke(), message.to_string()).await;
        published.map_err(|()| (500, "failed to publish invoke message".to_owned()))?;
        let Ok(Ok(answer)) = tokio::time::timeout(CALL, answer).await else {
            return Err((500, "timed out waiting for invocation result".into()));
        };
        match answer["error"].as_str() {
            Some(error) if !error.is_empty() => Err((500, error.to_owned())),
            _ => Ok((200, json!({ "results": answer["results"] }))),
        }
    }

    pub fn create_job(&self, body: &Value) -> Reply {
        let job = uuid::Uuid::new_v4().to_string();
        let tasks = body["tasks"].as_array().ok_or((400, "no tasks".to_owned()))?;
        let tasks: Vec<Task> =
            tasks.iter().map(|task| Records::new_task(task, Some(&job))).collect();
        let answer = json!({
            "job_id": job, "tasks": tasks.iter().map(shown).collect::<Vec<_>>(),
        });
        let mut records = self.records();
        tasks.into_iter().for_each(|task| records.put(task));
        Ok((201, answer))
    }

    /// Starts the tasks of a job that depend on none.
    pub async fn start_job(&self, job: &str) -> Reply {
        let first: Vec<String> = {
            let records = self.records();
            let of_job = records.tasks().filter(|task| {
                task.get("job_id").is_some_and(|of| of == job) && !task.contains_key("depends_on")
            });
            of_job.filter_map(|task| Some(task["id"].as_str()?.to_owned())).collect()
        };
        for id in first {
            self.start(&id).await?;
        }
        Ok((200, json!({ "job_id": job, "message": "job started" })))
    }

    /// A message of a worker.
    pub fn heard(self: &Arc<Desk>, topic: &str, payload: &[u8]) {
        let Ok(message) = serde_json::from_slice::<Value>(payload) else { return };
        let worker = message["proplet_id"].as_str().unwrap_or_default();
        if topic == self.topics.results() {
            self.ended(&message);
        } else if topic == self.topics.alive() {
            self.records().heard(worker, &message["metadata"]);
        } else if topic == self.topics.create() {
            self.records().introduced(worker, &message["metadata"]);
        } else if topic == self.topics.invoke_results() {
            let call = message["invocation_id"].as_str().unwrap_or_default();
            if let Some(answered) = lock(&self.calls).remove(call) {
                // It may have given up waiting.
                answered.send(message).ok();
            }
        }
    }

    /// A result: any number for one task, each overwriting what is there.
    fn ended(self: &Arc<Desk>, message: &Value) {
        let id = message["task_id"].as_str().unwrap_or_default();
        let mut records = self.records();
        let Some(mut task) = records.task(id).cloned() else { return };
        let error = message["error"].as_str().filter(|error| !error.is_empty());
        task.insert("results".into(), message["results"].clone());
        if let Some(error) = error {
            task.insert("error".into(), error.into());
        }
        let state = if error.is_some() { FAILED } else { COMPLETED };
        task.insert("state".into(), state.into());
        task.insert("finish_time".into(), now().into());
        task.insert("updated_at".into(), now().into());
        records.put(task);
        let next: Vec<String> = records
            .tasks()
            .filter(|task| task["state"] == PENDING && parents(task).any(|parent| parent == id))
            .filter(|task| {
                let done = |id| records.task(id).is_some_and(|task| task["state"] == COMPLETED);
                parents(task).all(done)
            })
            .filter_map(|task| Some(task["id"].as_str()?.to_owned()))
            .collect();
        drop(records);
        self.results.send_modify(|stored| *stored.entry(id.to_owned()).or_default() += 1);
        for id in next {
            let desk = self.clone();
            tokio::spawn(async move { desk.start(&id).await });
        }
    }
}

fn parents(task: &Task) -> impl Iterator<Item = &str> {
    task.get("depends_on").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn parent_results(records: &Records, task: &Task) -> Option<Value> {
    let results: Map<String, Value> = parents(task)
        .filter_map(|id| Some((id.to_owned(), records.task(id)?.get("results")?.clone())))
        .collect();
    (!results.is_empty()).then(|| results.into())
}

// A request that failed while it held the lock has changed nothing.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
