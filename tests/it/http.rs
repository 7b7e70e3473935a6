//! HTTP servers: ports, what a client sees of guests that misbehave, and what lasts over a crash,
//! a stop and a restart.

use crate::support::{On, PATIENCE, Process, Stage, Task, fixtures, over_both_brokers, program};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

over_both_brokers!(
    a_component_serves_on_a_port_until_it_is_stopped,
    a_guest_that_misbehaves_costs_its_own_request,
    servers_listen_where_their_tasks_say,
    what_is_no_task_for_a_server_is_told_why,
);

const HTTP: &[(&str, &str)] =
    &[("http-enabled", "true"), ("http-bind", "127.0.0.1"), ("executors", "1"), ("queue", "8")];

/// Settings with guests in the worker's process, and in one of their own.
pub fn isolations() -> Vec<Vec<(&'static str, &'static str)>> {
    let with = |isolation| [HTTP, &[("isolation", isolation)]].concat();
    let all = if cfg!(target_os = "linux") { &["none", "process"][..] } else { &["none"] };
    all.iter().map(|isolation| with(*isolation)).collect()
}

/// The server of the fixtures.
fn guest() -> Task {
    let path = fixtures().join("guests/bin/http.wasm");
    Task::module(&std::fs::read(path).expect("a guest"))
}

/// The same, at a port that is no other test's and that no client is given.
pub fn server() -> Task {
    guest().args(&["--port", &free_port().to_string()])
}

pub fn free_port() -> u16 {
    let port = || fastrand::u16(10_000..30_000);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(port).find(free).expect("there are many")
}

/// The port that a result names.
pub fn port(stage: &Stage, id: &str) -> u16 {
    let result = stage.result(id);
    let port = result.stdout().strip_prefix("started at port ").map(str::parse);
    port.unwrap_or_else(|| panic!("no server: {result:?}")).expect("a number")
}

/// What a client gets.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
    /// All of it came.
    whole: bool,
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a server that listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// Sends a request.
fn send(stream: &mut TcpStream, target: &str, body: &[u8]) {
    let head =
        format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    // A server that refuses the body may have closed the connection.
    stream.write_all(&[head.as_bytes(), body].concat()).ok();
}

/// Reads one answer; none if the connection ends before it begins.
fn read(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = stream.read(&mut buffer).unwrap_or(0);
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = bytes.windows(4).take(64 << 10).position(|four| four == b"\r\n\r\n") else {
            if read == 0 {
                return None;
            }
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = |line: &str| line.strip_prefix("content-length: ")?.parse::<usize>().ok();
        let rest = &bytes[end + 4..];
        let body = match head.lines().find_map(length) {
            Some(length) => rest.get(..length).map(<[u8]>::to_vec),
            None if head.contains("transfer-encoding: chunked") => chunks(rest),
            None => Some(Vec::new()),
        };
        if body.is_some() || read == 0 {
            let whole = body.is_some();
            let body = body.unwrap_or_else(|| rest.to_vec());
            return Some(Answer { status, head, body, whole });
        }
    }
}

/// The body in these chunks, if the last one is there.
fn chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    if !rest.ends_with(b"0\r\n\r\n") {
        return None;
    }
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|bytes| bytes == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 4 + size..)?;
    }
}

/// An answer on a connection of its own.
#[track_caller]
pub fn ask(port: u16, target: &str, body: &[u8]) -> Answer {
    let mut stream = connect(port);
    send(&mut stream, target, body);
    read(&mut stream).unwrap_or_else(|| panic!("{target}: no answer"))
}

#[track_caller]
pub fn hello(port: u16) {
    let answer = ask(port, "/", b"");
    assert_eq!((answer.status, &*answer.body), (200, &b"Hello, world!\n"[..]), "{answer:?}");
}

/// Waits until nobody listens there.
fn closed(stage: &Stage, port: u16) {
    stage.until("the port is closed", || TcpStream::connect(("127.0.0.1", port)).is_err());
}

fn a_component_serves_on_a_port_until_it_is_stopped(on: On) {
    for settings in isolations() {
        let stage = Stage::new(on);
        let _worker = stage.worker(&[&settings[..], &[("task-timeout", "20s")]].concat());
        let id = stage.start(server().env("GREETING", "good day"));
        let port = port(&stage, &id);
        hello(port);
        // Several requests on one connection, each in an instance of its own.
        let mut stream = connect(port);
        for number in 0..3 {
            let body = vec![b'0' + number; 100_000];
            send(&mut stream, "/echo", &body);
            let answer = read(&mut stream).expect("an answer");
            assert!(answer.status == 200 && answer.body == body && answer.whole, "{number}");
        }
        assert_eq!(ask(port, "/variable?GREETING", b"").body, b"good day");
        assert_eq!(ask(port, "/nowhere", b"").status, 404);
        // It holds no executor, and takes no second start.
        stage.run(Task::wat("hello")).succeeded("hello\n");
        stage.stop(&id);
        closed(&stage, port);
        assert_eq!(stage.results_in_the_end(&id), 1, "no word of its end");
    }
}

fn a_guest_that_misbehaves_costs_its_own_request(on: On) {
    for settings in isolations() {
        let stage = Stage::new(on);
        let own = [("http-timeout", "10m"), ("http-body", "100KB"), ("task-memory", "32MiB")];
        let _worker = stage.worker(&[&settings[..], &own].concat());
        let asked = free_port().to_string();
        let short = guest().args(&["-Wtimeout=400ms", "--port", &asked]);
        // One whose time is over soon, and one that has all of it on a busy machine, too.
        let short = port(&stage, &stage.start(short));
        let port = port(&stage, &stage.start(server()));
        let statuses = [
            ("/trap", 500),
            ("/exit", 500),
            ("/nothing", 500),
            ("/memory", 500),
            ("/header", 500),
            ("/fetch", 502),
        ];
        for (target, expected) in statuses {
            let answer = ask(port, target, b"http://127.0.0.1:1/");
            assert_eq!(answer.status, expected, "{target}: {answer:?}");
            hello(port);
        }
        for target in ["/loop", "/wait?3600000"] {
            assert_eq!(ask(short, target, b"").status, 504, "{target}");
        }
        assert_eq!(ask(port, "/size", &[0; 100_000]).body, b"100000\n");
        assert_eq!(ask(port, "/size", &[0; 100_001]).status, 413);
        // An answer that is cut in the middle does not look like a whole one.
        for (port, target) in [(port, "/trap-later"), (short, "/flood")] {
            let mut stream = connect(port);
            send(&mut stream, target, b"");
            let whole = read(&mut stream).is_some_and(|answer| answer.whole);
            assert!(!whole, "{target}");
        }
        hello(port);
        // One that its guest does not finish ends with the guest.
        let answer = ask(port, "/unfinished", b"");
        assert!(answer.status == 200 && answer.whole, "{answer:?}");
        // A body that never comes ends with the request's time.
        let mut stream = connect(short);
        stream
            .write_all(b"POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
            .expect("sent");
        assert_eq!(read(&mut stream).expect("an answer").status, 504);
        // Heads that are no heads.
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000));
        for head in ["GET / HTTP/1.1\r\n\r\n", "nonsense\r\n\r\n", &long] {
            let mut stream = connect(port);
            stream.write_all(head.as_bytes()).ok();
            let status = read(&mut stream).map_or(0, |answer| answer.status);
            assert!(status == 0 || (400..500).contains(&status), "{status}");
        }
        hello(port);
        stage.until("the other one is served, too", || ask(short, "/", b"").status == 200);
    }
}

fn servers_listen_where_their_tasks_say(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(HTTP);
    let first = port(&stage, &stage.start(guest()));
    let second = port(&stage, &stage.start(guest()));
    assert!(second > first && second < first + 100, "{first}, {second}");
    let asked = free_port();
    let by_port = guest().args(&["-S", "http", &format!("--port={asked}")]);
    assert_eq!(port(&stage, &stage.start(by_port)), asked);
    hello(asked);
    let by_address = guest().args(&["-Scli", "--addr", "127.0.0.1:0"]);
    hello(port(&stage, &stage.start(by_address)));
    let taken = stage.run(guest().args(&["--port", &asked.to_string()]));
    taken.failed(&["can't listen on 127.0.0.1", "--port"]);
    stage.run(guest().args(&["--port", "x"])).failed(&["a port is a number"]);
    stage.run(guest().args(&["--addr", "x"])).failed(&["ADDRESS:PORT"]);
}

fn what_is_no_task_for_a_server_is_told_why(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("http-enabled", "true"), ("daemons", "0")]);
    stage.run(server()).failed(&["busy: 0 daemons run (limit 0)"]);
    stage.run(server().set("latent", true)).failed(&["is not invoked"]);
    let stage = Stage::new(on);
    let _worker = stage.worker(&[]);
    stage.run(server()).failed(&["HTTP server", "PROPLET_HTTP_ENABLED=true"]);
}

#[test]
fn a_daemon_that_is_a_server_says_both() {
    let stage = Stage::new(On::Embedded);
    let _worker = stage.worker(HTTP);
    let id = stage.start(server().set("daemon", true));
    stage.result(&id).succeeded("");
    let second = stage.nth_result(&id, 2);
    assert!(second.stdout().starts_with("started at port "), "{second:?}");
}

#[test]
fn requests_over_the_limit_are_answered_with_503_and_the_others_wait() {
    for settings in isolations() {
        let stage = Stage::new(On::Embedded);
        let _worker = stage.worker(&[&settings[..], &[("http-requests", "1")]].concat());
        let port = port(&stage, &stage.start(server()));
        let asked = |target| {
            let mut stream = connect(port);
            send(&mut stream, target, b"");
            stream
        };
        // Two never end by themselves: one is at work, the other waits.
        let held = [asked("/wait?3600000"), asked("/wait?3600000")];
        let end = Instant::now() + PATIENCE;
        let busy = loop {
            let mut third = asked("/wait?3600000");
            third.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
            if let Some(answer) = read(&mut third) {
                break answer;
            }
            assert!(Instant::now() < end, "it takes more than it may");
        };
        assert_eq!(busy.status, 503, "{busy:?}");
        assert!(busy.head.contains("retry-after: "), "{busy:?}");
        // Clients that leave make room.
        drop(held);
        stage.until("there is room", || ask(port, "/", b"").status == 200);
    }
}

#[test]
fn guests_that_loop_hold_up_no_other() {
    for settings in isolations() {
        let stage = Stage::new(On::Embedded);
        let _worker = stage.worker(&[&settings[..], &[("http-timeout", "1h")]].concat());
        let port = port(&stage, &stage.start(server()));
        hello(port);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let looping: Vec<TcpStream> = (0..2 * processors)
            .map(|_| {
                let mut stream = connect(port);
                send(&mut stream, "/loop", b"");
                stream
            })
            .collect();
        // None of those ends by itself.
        hello(port);
        stage.run(Task::wat("hello")).succeeded("hello\n");
        drop(looping);
        hello(port);
    }
}

#[test]
fn each_client_of_a_flood_has_an_answer() {
    for settings in isolations() {
        let stage = Stage::new(On::Embedded);
        let _worker = stage.worker(&[&settings[..], &[("http-requests", "4")]].concat());
        let port = port(&stage, &stage.start(server()));
        let mut all: Vec<TcpStream> = (0..200).map(|_| connect(port)).collect();
        all.iter_mut().for_each(|stream| send(stream, "/wait?20", b""));
        let statuses: Vec<u16> =
            all.iter_mut().map(|stream| read(stream).map_or(0, |answer| answer.status)).collect();
        assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
        assert!(statuses.contains(&200), "{statuses:?}");
        hello(port);
    }
}

#[test]
fn a_server_that_is_stopped_ends_with_the_requests_that_it_has() {
    for settings in isolations() {
        let stage = Stage::new(On::Embedded);
        let _worker = stage.worker(&settings);
        let id = stage.start(server());
        let port = port(&stage, &id);
        let begun = begin(port);
        stage.stop(&id);
        closed(&stage, port);
        finish(begun);
        assert_eq!(stage.results_in_the_end(&id), 1);
    }
}

/// A request under way: its guest runs, since it answers in part.
fn begin(port: u16) -> TcpStream {
    let mut stream = connect(port);
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
        .expect("sent");
    let mut begun = [0; 12];
    stream.read_exact(&mut begun).expect("the head");
    assert_eq!(&begun, b"HTTP/1.1 200");
    stream
}

/// Sends the rest of it, and has all of the answer.
fn finish(mut begun: TcpStream) {
    begun.write_all(b"def").expect("sent");
    let mut rest = Vec::new();
    begun.read_to_end(&mut rest).expect("an end");
    let rest = String::from_utf8_lossy(&rest);
    let whole = rest.contains("abc") && rest.contains("def") && rest.ends_with("0\r\n\r\n");
    assert!(whole, "{rest}");
}

/// Sends nothing more: its connection is ended, and the answer is not a whole one.
fn is_ended(mut begun: TcpStream) {
    let mut rest = Vec::new();
    // It may be reset.
    let ended = begun.read_to_end(&mut rest);
    if let Err(e) = ended {
        assert_ne!(e.kind(), std::io::ErrorKind::WouldBlock, "it goes on");
    }
    assert!(!String::from_utf8_lossy(&rest).ends_with("0\r\n\r\n"), "it looks whole");
}

#[test]
fn a_request_that_goes_on_after_the_drain_deadline_of_its_server_is_ended() {
    for settings in isolations() {
        let stage = Stage::new(On::Embedded);
        let own = [("drain-timeout", "300ms"), ("http-timeout", "1h")];
        let _worker = stage.worker(&[&settings[..], &own].concat());
        let id = stage.start(server());
        let port = port(&stage, &id);
        let begun = begin(port);
        stage.stop(&id);
        closed(&stage, port);
        is_ended(begun);
        assert_eq!(stage.results_in_the_end(&id), 1);
        stage.run(Task::wat("hello")).succeeded("hello\n");
    }
}

#[test]
fn a_worker_that_ends_lets_requests_end_until_its_drain_deadline() {
    for settings in isolations() {
        for (drain_timeout, in_time) in [("10m", true), ("300ms", false)] {
            let stage = Stage::new(On::Embedded);
            let own = [("drain-timeout", drain_timeout), ("http-timeout", "1h")];
            let mut worker = stage.process(&[&settings[..], &own].concat());
            let port = port(&stage, &stage.start(server()));
            let begun = begin(port);
            worker.signal("TERM");
            closed(&stage, port);
            if in_time {
                finish(begun);
            } else {
                is_ended(begun);
            }
            assert!(worker.ended().success());
        }
    }
}

/// As `ulimit -n` limits it: what is over that waits, and keeps nothing else from
/// opening a file.
#[cfg(target_os = "linux")]
#[test]
fn connections_leave_descriptors_for_everything_else() {
    const LIMIT: usize = 200;
    for settings in isolations() {
        let stage = Stage::new(On::Embedded);
        let environment = stage.environment(stage.address, &settings);
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", &format!("ulimit -n {LIMIT} && exec \"$0\" worker")]);
        command.arg(env!("CARGO_BIN_EXE_proplet")).env_clear().envs(environment.variables());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let _worker = Process::spawn(command.current_dir(environment.working_dir()));
        stage.wait("the worker's introduction", |seen| {
            seen.iter().any(|seen| seen.topic == "create").then_some(())
        });
        let port = port(&stage, &stage.start(server()));
        let mut all: Vec<TcpStream> = (0..LIMIT).map(|_| connect(port)).collect();
        all.iter_mut().for_each(|stream| send(stream, "/", b""));
        let statuses = |streams: &mut [TcpStream]| {
            let status = |stream| read(stream).map_or(0, |answer| answer.status);
            streams.iter_mut().map(status).collect::<Vec<u16>>()
        };
        // Those that are taken are kept open by their clients.
        let mut later = all.split_off(LIMIT / 2);
        let first = statuses(&mut all);
        let cat = Task::wat("cat").args(&["--dir=files"]).inputs(&["rain.csv"]);
        assert!(stage.run(cat).0["error"].is_null(), "a guest opens a file");
        drop(all);
        for statuses in [first, statuses(&mut later)] {
            assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
        }
        drop(later);
        hello(port);
    }
}

/// A worker with a journal, as a process.
struct Scene {
    stage: Stage,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        Scene { stage: Stage::new(On::Embedded), dir: tempfile::tempdir().expect("a folder") }
    }

    fn worker(&self, settings: &[(&str, &str)]) -> Process {
        let state = self.dir.path().join("state");
        let own = [("stateless", "false"), ("state-dir", state.to_str().expect("a path"))];
        self.stage.process(&[&own[..], settings].concat())
    }
}

#[test]
fn a_server_serves_again_on_its_port_after_each_end_of_its_worker() {
    for settings in isolations() {
        let scene = Scene::new();
        let stage = &scene.stage;
        let mut worker = scene.worker(&settings);
        let id = stage.start(server());
        let port = port(stage, &id);
        let serves = || {
            stage.until("it serves", || {
                let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                send(&mut stream, "/", b"");
                read(&mut stream).is_some_and(|answer| answer.status == 200)
            })
        };
        serves();
        for signal in ["KILL", "TERM"] {
            worker.signal(signal);
            worker.ended();
            worker = scene.worker(&settings);
            serves();
        }
        stage.stop(&id);
        worker.logs("the daemon has stopped");
        worker.signal("KILL");
        worker.ended();
        let _worker = scene.worker(&settings);
        assert_eq!(stage.different_results_in_the_end(&id), 1, "no other word of it");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn no_connection_is_refused_while_the_runtimes_process_crashes() {
    let stage = Stage::new(On::Embedded);
    let worker = stage.process(&[HTTP, &[("isolation", "process")]].concat());
    let port = port(&stage, &stage.start(server()));
    hello(port);
    for _ in 0..2 {
        for runtime in crate::isolation::runtimes(&worker) {
            crate::isolation::crash(runtime);
        }
        // One that was taken just before the crash loses its answer; none is refused.
        stage.until("it serves again", || {
            let mut stream = connect(port);
            send(&mut stream, "/", b"");
            read(&mut stream).is_some_and(|answer| answer.status == 200)
        });
    }
}

#[test]
fn what_guests_write_and_what_became_of_requests_is_in_the_log() {
    for settings in isolations() {
        let stage = Stage::new(On::Embedded);
        let worker = stage.process(&[&settings[..], &[("http-access-log", "true")]].concat());
        let id = stage.start(server());
        let port = port(&stage, &id);
        ask(port, "/say", b"");
        worker.logs("on standard output");
        worker.logs("on standard error");
        // That its client has all of the answer ends no guest.
        assert_eq!(ask(port, "/later?100", b"").status, 200);
        worker.logs("after the answer");
        ask(port, "/trap", b"");
        let line = worker.logs("POST /trap: wasm trap");
        assert!(line.contains(&id), "{line}");
        let line = worker.logs("status=500");
        assert!(line.contains("/trap") && line.contains(&id), "{line}");
    }
}

#[test]
fn proplet_run_serves_and_says_where_until_it_is_interrupted() {
    let guest = fixtures().join("guests/bin/http.wasm");
    let mut command = program();
    command.args(["run", "--addr", "127.0.0.1:0", "-Wtimeout=500ms"]).arg(guest);
    let mut served = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()));
    let line = served.logs("Serving HTTP on http://127.0.0.1:");
    let port = line.trim_end_matches('/').rsplit(':').next().expect("a port");
    let port = port.parse().expect("a number");
    hello(port);
    assert_eq!(ask(port, "/loop", b"").status, 504);
    hello(port);
    served.signal("INT");
    assert!(served.ended().success());
}
