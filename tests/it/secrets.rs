//! What the machine shows of the worker, and what tasks could read of that.

use crate::support::{On, Stage, Task, over_both_brokers, proplet, wat};
use std::path::Path;

over_both_brokers!(
    the_key_is_not_in_the_environment_of_a_running_worker,
    nobody_reads_the_memory_of_a_running_worker,
    a_worker_whose_working_directory_is_the_root_gives_none_of_it,
);

fn the_key_is_not_in_the_environment_of_a_running_worker(on: On) {
    let stage = Stage::new(on);
    let settings = [("client-key", "found-in-the-environment"), ("api-key", ""), ("tags", "seen")];
    let worker = stage.process(&settings);
    let environ = std::fs::read(format!("/proc/{}/environ", worker.id())).expect("of a child");
    let environ = String::from_utf8_lossy(&environ);
    assert!(environ.contains("PROPLET_TAGS=seen"), "{environ}");
    assert!(environ.contains("PROPLET_CLIENT_KEY="), "{environ}");
    assert!(!environ.contains("found-in-the"), "{environ}");
    // It has the key all the same.
    stage.run(Task::wat("hello")).succeeded("hello\n");
}

fn nobody_reads_the_memory_of_a_running_worker(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[]);
    assert!(proplet::process::memory_is_hidden());
}

/// ARCHITECTURE.md, case 70.
fn a_worker_whose_working_directory_is_the_root_gives_none_of_it(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker_in(Path::new("/"), &[("executors", "1")]);
    for dir in ["/proc/self", "/sys", "/dev", "/", "/etc"] {
        let environ = Task::wat("cat").args(&["--dir", dir]).inputs(&["environ"]);
        stage.run(environ).failed(&[dir, "outside the allowed directories"]);
    }
    stage.run(Task::wat("cat").inputs(&["proc/self/environ"])).failed(&["errno"]);
}

#[test]
fn a_root_with_the_kernels_file_systems_is_refused_at_the_start() {
    for dirs in ["/", "/proc", "files:/sys/class", "/dev:rw"] {
        let args = ["worker", "--stateless", "--domain-id=d", "--channel-id=c", "--client-id=w"];
        let args = [&args[..], &["--client-key=k", "--mqtt-address=127.0.0.1:9", "--dirs", dirs]];
        let ran = proplet(&args.concat(), b"", &[]);
        assert_eq!(ran.code, Some(1), "{dirs}: {}", ran.stderr);
        let said =
            ran.stderr.contains("the allowed directory /") && ran.stderr.contains(" reaches /");
        assert!(said && ran.stderr.contains("PROPLET_DIRS"), "{dirs}: {}", ran.stderr);
    }
}

#[test]
fn running_by_hand_warns_of_the_kernels_file_systems() {
    let ran = proplet(&["run", "--dir=/proc/self::p", "-"], &wat("hello"), &[]);
    assert_eq!((ran.code, ran.text()), (Some(0), "hello\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("`--dir /proc/self` reaches /proc"), "{}", ran.stderr);
}
