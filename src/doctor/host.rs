//! The machine: processor, memory, clock, port.

use super::Finding;
use crate::config::{Config, Environment, Isolation};
use crate::host::confine;
use crate::status;
use crate::usage::Container;
use crate::worker;
use std::net::TcpListener;
use std::time::{Duration, SystemTime};
use sysinfo::System;

const MIB: u64 = 1 << 20;

/// This program is not older than that: 2026-01-01.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);
/// Nor will it be in use then: 2100-01-01.
const LATEST: Duration = Duration::from_secs(4_102_444_800);

pub(super) fn check(config: &Config, env: &Environment) -> Vec<Finding> {
    let (executors, cores) = (config.executors.get(), env.cores().get());
    let processor = if executors > cores {
        Finding::warning(
            "processor",
            format!(
                "{executors} tasks may run at the same time on {cores} cores: each will take longer; \
                 PROPLET_EXECUTORS={cores} is the default"
            ),
        )
    } else {
        Finding::ok("processor", format!("{cores} cores for {executors} tasks at the same time"))
    };
    let mut system = System::new();
    system.refresh_memory();
    let (total, limited) = match Container::now().limit {
        Some(limit) if limit < system.total_memory() => (limit, " by the container's limit"),
        _ => (system.total_memory(), ""),
    };
    let mut findings = vec![processor, memory(config, total, limited), isolation(config)];
    if config.isolation == Isolation::Process {
        findings.push(runtime_memory(config));
        findings.extend(confinement());
    }
    findings
}

/// Where guests and models run.
fn isolation(config: &Config) -> Finding {
    let message = match config.isolation {
        Isolation::Process => {
            "guests and models run in a process of their own, which may crash and has no key"
        }
        Isolation::None => {
            "guests and models run in the worker's process: what breaks it breaks the worker and has \
             its key; without PROPLET_ISOLATION=none they have one of their own"
        }
    };
    Finding::ok("isolation", message)
}

/// What the process with the guests and models may take.
fn runtime_memory(config: &Config) -> Finding {
    let budget = worker::runtime_memory(config);
    let message = format!(
        "the process with the guests and models may take {} MiB beyond what it starts with: {}",
        budget.bytes / MIB,
        budget.bound
    );
    if budget.bytes < config.limits.memory {
        return Finding::warning(
            "runtime memory",
            format!("{message}, less than PROPLET_TASK_MEMORY gives one task; lower that one"),
        );
    }
    Finding::ok("runtime memory", message)
}

/// Whether the system can confine that process.
fn confinement() -> Vec<Finding> {
    let missing = confine::missing();
    if missing.is_empty() {
        let message = "this system has Landlock and seccomp, which confine that process";
        return vec![Finding::ok("confinement", message)];
    }
    missing.into_iter().map(|missing| Finding::warning("confinement", missing)).collect()
}

/// Whether what tasks and caches may take is there.
fn memory(config: &Config, total: u64, limited: &str) -> Finding {
    let executors = config.executors.get() as u64;
    let tasks = executors.saturating_mul(config.limits.memory);
    let caches = [config.module_cache, config.graph_cache, config.file_cache];
    let caches = caches.into_iter().fold(0, u64::saturating_add);
    let may = tasks.saturating_add(caches);
    let sum = format!(
        "{executors} tasks of {} MiB and {} MiB of caches may take {} MiB of {} MiB{limited}",
        config.limits.memory / MIB,
        caches / MIB,
        may / MIB,
        total / MIB
    );
    if total == 0 {
        Finding::warning("memory", "the system does not tell how much memory there is")
    } else if may > total {
        Finding::warning(
            "memory",
            format!(
                "{sum}: the system may end the worker when they do; lower PROPLET_TASK_MEMORY, \
                 PROPLET_EXECUTORS, PROPLET_GRAPH_CACHE, PROPLET_MODULE_CACHE or \
                 PROPLET_FILE_CACHE"
            ),
        )
    } else {
        Finding::ok("memory", sum)
    }
}

pub(super) fn clock() -> Vec<Finding> {
    vec![clock_at(SystemTime::now())]
}

fn clock_at(now: SystemTime) -> Finding {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // The far future has no such form.
    let text = if since < Duration::from_secs(200_000_000_000) {
        humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
    } else {
        format!("{} s after 1970", since.as_secs())
    };
    if (EARLIEST..LATEST).contains(&since) {
        Finding::ok("clock", format!("it is {text}"))
    } else {
        Finding::failed(
            "clock",
            format!(
                "the clock says {text}: certificates will be refused and times will mislead; set it, \
                 with NTP for instance"
            ),
        )
    }
}

/// Whether the health check has its port.
pub(super) fn port(config: &Config) -> Vec<Finding> {
    let Some(listen) = config.monitoring.listen else {
        return vec![Finding::warning(
            "status port",
            "PROPLET_METRICS_ENABLED is false: health checks and metrics have nothing to ask",
        )];
    };
    let finding = match TcpListener::bind(listen) {
        Ok(_) => Finding::ok("status port", format!("{listen} is free for a worker")),
        Err(e) => match status::ask(listen, "ready") {
            Ok(answer) if answer.proplet_id == config.credentials.client_id => {
                Finding::ok("status port", format!("this worker runs, and is {}", answer.status))
            }
            Ok(answer) => Finding::warning(
                "status port",
                format!(
                    "worker {} has {listen}; each worker of a machine needs a PROPLET_METRICS_PORT of \
                     its own",
                    answer.proplet_id
                ),
            ),
            Err(_) => Finding::warning(
                "status port",
                format!(
                    "{listen} can't be listened on ({e}), so the worker will have no health check and \
                     no metrics; choose another PROPLET_METRICS_PORT or PROPLET_METRICS_BIND"
                ),
            ),
        },
    };
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_clock_that_was_never_set_is_noticed() {
        assert_eq!(clock_at(SystemTime::now()).verdict, Verdict::Ok);
        for seconds in [0, 1_000_000_000, 1 << 40] {
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(clock_at(then).verdict, Verdict::Failed, "{seconds}");
        }
    }

    fn config(settings: &[(&str, &str)]) -> (Config, Environment) {
        let mut env = Environment::new("/");
        for name in ["DOMAIN_ID", "CHANNEL_ID", "CLIENT_ID", "CLIENT_KEY"] {
            env = env.with(&format!("PROPLET_{name}"), "x");
        }
        for (name, value) in settings {
            env = env.with(name, *value);
        }
        (Config::from_environment(&env).expect("a configuration"), env)
    }

    #[test]
    fn what_confines_the_process_for_guests_is_told_where_there_is_one() {
        let rows = |isolation| {
            let (config, env) = config(&[("PROPLET_ISOLATION", isolation)]);
            let rows = check(&config, &env);
            let told = |name| rows.iter().any(|row| row.check == name);
            (told("isolation"), told("runtime memory"), told("confinement"))
        };
        assert_eq!(rows("none"), (true, false, false));
        if cfg!(target_os = "linux") {
            assert_eq!(rows("process"), (true, true, true));
        }
    }

    #[test]
    fn limits_beyond_the_memory_are_noticed() {
        let (config, _) = config(&[]);
        assert_eq!(memory(&config, 8 << 30, "").verdict, Verdict::Ok);
        assert_eq!(memory(&config, 1 << 30, "").verdict, Verdict::Warning);
    }
}
