//! What users ask of the manager, over HTTP as `curl` and the CLI do.

use super::PATIENCE;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A status and a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The body of an answer with this status.
    #[track_caller]
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:#}", self.body);
        self.body
    }
}

/// Somebody who uses the manager, whether it runs or not.
#[derive(Clone)]
pub struct Client {
    pub url: String,
    pub token: Option<String>,
}

impl Client {
    /// Any request; an error is that nobody answers.
    pub fn ask(&self, method: &str, path: &str, body: &[u8], kind: &str) -> Result<Answer, String> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .into();
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("Content-Type", kind);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let request = request.body(body).expect("a request");
        let mut response = agent.run(request).map_err(|e| e.to_string())?;
        let text = response.body_mut().with_config().limit(256 << 20).read_to_string();
        let body = serde_json::from_str(&text.map_err(|e| e.to_string())?);
        Ok(Answer { status: response.status().as_u16(), body: body.unwrap_or_default() })
    }

    /// A request with JSON, or without a body.
    #[track_caller]
    pub fn json(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.ask(method, path, body.as_bytes(), "application/json").expect("it answers")
    }

    /// `POST /tasks`: the new task's id.
    #[track_caller]
    pub fn create(&self, task: &Value) -> String {
        let created = self.json("POST", "/tasks", Some(task)).ok(201);
        created["id"].as_str().expect("an id").to_owned()
    }

    /// `PUT /tasks/{id}/upload`, as a form.
    #[track_caller]
    pub fn upload(&self, id: &str, name: &str, module: &[u8]) -> Answer {
        let boundary = "7d1f2c4e9b";
        let mut body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; \
             filename=\"{name}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(module);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let kind = format!("multipart/form-data; boundary={boundary}");
        self.ask("PUT", &format!("/tasks/{id}/upload"), &body, &kind).expect("it answers")
    }

    /// `POST /tasks/{id}/start`.
    #[track_caller]
    pub fn start_task(&self, id: &str) {
        let answer = self.json("POST", &format!("/tasks/{id}/start"), None).ok(200);
        assert_eq!(answer, json!({ "started": true }));
    }

    /// `GET /tasks/{id}`.
    #[track_caller]
    pub fn task(&self, id: &str) -> Value {
        self.json("GET", &format!("/tasks/{id}"), None).ok(200)
    }

    /// Waits until a task reads as `done` says.
    #[track_caller]
    pub fn task_until(&self, id: &str, done: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let task = self.task(id);
            if done(&task) {
                return task;
            }
            assert!(Instant::now() < end, "the task stays {task:#}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until a worker is alive.
    #[track_caller]
    pub fn worker_alive(&self, id: &str) {
        let end = Instant::now() + PATIENCE;
        let alive = |workers: &Value| {
            let workers = workers["proplets"].as_array().cloned().unwrap_or_default();
            workers.iter().any(|worker| worker["id"] == id && worker["alive"] == true)
        };
        while !alive(&self.json("GET", "/proplets", None).ok(200)) {
            assert!(Instant::now() < end, "worker {id} does not come");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
