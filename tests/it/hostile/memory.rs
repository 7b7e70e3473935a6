//! Thousands of hostile tasks leave the worker's memory as it was.
//!
//! The tasks run in a process of their own, so that other tests do not count.
//! By hand, for as many as you like:
//!
//! ```sh
//! HOSTILE_TASKS=10000 cargo test --features openvino --test it -- \
//!     --ignored --exact --nocapture hostile::memory::hostile_tasks
//! ```

use super::guests;
use crate::support::{Bench, fixtures, wat};
use proplet::nn::{Nn, NnConfig};
use proplet::runtime::{InstancePool, Requests, Runtime, RuntimeConfig, Stdio};
use proplet::sources::Fetcher;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const TASKS: &str = "HOSTILE_TASKS";

/// What may be added after the first two fifths, in bytes: by then the caches are
/// full. A leak of 10 KiB a task is more, from 2,500 tasks on.
const SLACK: u64 = 16 << 20;

#[test]
fn memory_stays_flat_over_hostile_tasks() {
    let program = std::env::current_exe().expect("a program");
    let output = Command::new(program)
        .args(["--ignored", "--exact", "--nocapture", "hostile::memory::hostile_tasks"])
        .env(TASKS, std::env::var(TASKS).unwrap_or_else(|_| "1000".into()))
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{said}");
}

#[test]
#[ignore = "run by the test above, in a process of its own, or by hand"]
fn hostile_tasks() {
    let count: usize = std::env::var(TASKS).map_or(10_000, |n| n.parse().expect("a number"));
    let mut bench = bench();
    // Of the guests alone: what is compiled is to be the same in each round.
    bench.policy.limits.run = Some(Duration::from_millis(30));
    let modules: Vec<_> = guests()
        .into_iter()
        .filter(|name| cfg!(feature = "openvino") || !name.starts_with("nn-"))
        .map(|name| (wat(&name), name))
        .collect();
    let mut verdicts = BTreeMap::<String, usize>::new();
    let mut marks = vec![];
    println!("tasks  resident MiB");
    for n in 0..=count {
        if n % (count / 10).max(1) == 0 {
            marks.push(resident());
            println!("{n:>5}  {:.1}", resident() as f64 / f64::from(1 << 20));
        }
        let (module, name) = &modules[n % modules.len()];
        let inputs: &[&str] = match name.as_str() {
            "stdout-flood" => &["1000000"],
            "sleep" => &["1"],
            "busy" => &["1"],
            "nn-load-distinct" => &["3"],
            "nn-load-garbage-xml" => &["20"],
            "nn-xml-bomb" => &["1000"],
            name if name.starts_with("nn-") => &[],
            _ => &["x", "y"],
        };
        // Now and then a module that is new, and one that does not compile.
        let module = match n % 7 {
            3 => [module.as_slice(), &custom_section(n)].concat(),
            5 if n % 5 == 0 => [&module[..module.len() / 2], &n.to_le_bytes()].concat(),
            _ => module.clone(),
        };
        let nn = ["-S", "nn,nn-graph=openvino::models/tiny"];
        let args: &[&str] = if name.starts_with("nn-") { &nn } else { &[] };
        let outcome = bench.guest(module).cli_args(args).inputs(inputs).run();
        let verdict = outcome.verdict.err().map_or_else(|| "ok".to_owned(), |e| format!("{e:?}"));
        let kind = verdict.split(['(', ' ']).next().unwrap_or_default().to_owned();
        *verdicts.entry(kind).or_default() += 1;
    }
    println!("{verdicts:?}");
    let (settled, end) = (marks[2 * marks.len() / 5], marks[marks.len() - 1]);
    assert!(end < settled + SLACK, "from {settled} to {end} bytes");
}

/// One that makes the module another one, with nothing else changed.
fn custom_section(n: usize) -> Vec<u8> {
    [&[0, 10, 1, b'n'][..], &n.to_le_bytes()].concat()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().expect("a number") * 1024
}

/// With caches that are full soon, so that what they keep is not taken for a
/// leak.
fn bench() -> Bench {
    let mut bench = Bench::with_nn(Nn::new(nn_config())).root(fixtures().join("models"), false);
    let fetcher = Fetcher::new(10 << 20, None, None);
    let config = RuntimeConfig {
        module_cache: 4 << 20,
        // As by default a slot keeps 64 KiB then, not 32 MiB of what it has held.
        file_cache: 1 << 20,
        disk: None,
        compilers: 2,
        compile_apart: None,
        fetch: Arc::new(move |spec, cancel| fetcher.code(spec, cancel)),
        stdio: Stdio::Captured,
        pool: Some(InstancePool { instances: 2, memory: 64 << 20 }),
        requests: Requests { at_once: 4, nice: 0, memory: 0 },
        outbound: None,
    };
    let runtime = Runtime::new(&config, bench.runtime.nn().clone()).expect("a runtime");
    bench.runtime = Arc::new(runtime);
    bench
}

#[cfg(feature = "openvino")]
fn nn_config() -> NnConfig {
    NnConfig { cache_bytes: 4 << 20, ..super::nn::config() }
}

#[cfg(not(feature = "openvino"))]
fn nn_config() -> NnConfig {
    NnConfig::default()
}
