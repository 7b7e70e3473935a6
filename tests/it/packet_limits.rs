//! Messages larger than the broker takes: results are cut before they are sent,
//! or after it has closed the connection on them; modules are refused.

use crate::support::{FluxMq, Habits, On, Stage, Task, over_both_brokers, program, wat};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

over_both_brokers!(
    output_that_json_makes_larger_than_the_broker_takes_is_cut_before_it_is_sent,
    a_result_that_the_broker_closes_the_connection_on_is_cut_once_more,
    a_module_larger_than_the_broker_takes_is_refused_with_the_way_around_it,
);

/// Bytes that a task keeps of a stream.
const OUTPUT: usize = 256 << 10;

/// Writes that many bytes that JSON writes as six each: `\u0001`.
fn escapes() -> Task {
    Task::wat("stdout-large-write").inputs(&[&OUTPUT.to_string(), "1"])
}

/// What stands at both ends of an output, and how many bytes it says are not
/// between them.
fn ends(text: &str) -> (&str, usize, &str) {
    let (head, rest) = text.split_once("\n[… ").expect("a line that counts the rest");
    let (missing, tail) = rest.split_once(" bytes not kept …]\n").expect("its end");
    (head, missing.parse().expect("a number"), tail)
}

/// ARCHITECTURE.md, case 81, its first half: FluxMQ closes the connection on packets
/// over 1 MiB; that of mosquitto with a limit is dropped although it is
/// acknowledged, so trying will not do.
fn output_that_json_makes_larger_than_the_broker_takes_is_cut_before_it_is_sent(on: On) {
    let stage = Stage::new(on);
    let broker = FluxMq::before(stage.address, Habits { packet: 1 << 20, ..Habits::default() });
    let _worker = stage.worker_at(broker.address, &[("executors", "1")]);
    let result = stage.run(escapes());
    let text = result.stdout();
    let (head, missing, tail) = ends(text);
    assert!(head.chars().chain(tail.chars()).all(|c| c == '\u{1}'));
    assert_eq!(head.len() + missing + tail.len(), OUTPUT);
    let size = result.0.to_string().len();
    assert!(size <= 900 << 10 && size > 890 << 10, "{size}: the limit is used");
    assert_eq!(broker.refused(), Vec::<usize>::new());
}

/// Its second half.
fn a_result_that_the_broker_closes_the_connection_on_is_cut_once_more(on: On) {
    let stage = Stage::new(on);
    let limit = Habits { packet: 300 << 10, ..Habits::default() };
    let broker = FluxMq::before(stage.address, limit);
    let _worker = stage.worker_at(broker.address, &[("executors", "1")]);
    let id = stage.start(escapes());
    let result = stage.result(&id);
    let (head, missing, tail) = ends(result.stdout());
    assert_eq!(head.len() + missing + tail.len(), OUTPUT);
    assert!(result.0.to_string().len() <= 100 << 10);
    let why = result.0["diagnostics"][0].as_str().expect("a diagnostic");
    assert!(why.contains("closed the connection 3 times"), "{why}");
    let refused = broker.refused();
    assert!(refused.len() >= 3 && refused.iter().all(|size| *size > 890 << 10), "{refused:?}");
    assert_eq!(stage.results_in_the_end(&id), 1);
}

fn a_module_larger_than_the_broker_takes_is_refused_with_the_way_around_it(on: On) {
    let stage = Stage::new(on);
    let broker = FluxMq::before(stage.address, Habits { packet: 1 << 20, ..Habits::default() });
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("large.wasm");
    let mut module = wat("hello");
    module.resize(1 << 20, 0);
    std::fs::write(&path, module).expect("written");
    let environment = stage.environment(broker.address, &[]);
    let submit = program()
        .args(["submit", "--timeout=1m"])
        .arg(&path)
        .envs(environment.variables())
        .current_dir(folder.path())
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&submit.stderr);
    assert_ne!(submit.status.code(), Some(0), "{said}");
    assert!(said.contains("closed the connection 3 times"), "{said}");
    assert!(said.contains("`--image-url`"), "{said}");
}

/// mosquitto with a limit, which acknowledges a larger packet and passes it to
/// nobody. Killed at its end.
struct Limited(Child, SocketAddr);

impl Limited {
    fn start(folder: &Path, limit: usize) -> Limited {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let config = folder.join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n\
             persistence false\nmessage_size_limit {limit}\n",
            address.port()
        );
        std::fs::write(&config, text).expect("a configuration");
        // Debian puts it where only root's PATH looks.
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let mut command = Command::new("mosquitto");
        command.env("PATH", path).arg("-c").arg(config);
        let child = command.stderr(Stdio::null()).spawn().unwrap_or_else(|e| {
            panic!("mosquitto does not start ({e}): install it (Debian: apt-get install mosquitto)")
        });
        Limited(child, address)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
#[ignore = "needs mosquitto, which .ci/run installs"]
fn mosquitto_with_a_limit_passes_the_result_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = Limited::start(folder.path(), 1_000_000);
    let stage = Stage::at(broker.1);
    let _worker = stage.worker(&[("executors", "1")]);
    let result = stage.run(escapes());
    let (head, missing, tail) = ends(result.stdout());
    assert_eq!(head.len() + missing + tail.len(), OUTPUT);
}
