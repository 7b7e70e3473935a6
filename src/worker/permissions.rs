//! What a worker of this configuration lets its tasks have, all on one page:
//! for `proplet worker --print-policy`.

use super::setup;
use crate::config::{Config, Group};
use crate::policy::Trust;
use crate::{nn, runtime};
use serde::Serialize;
use std::fmt;

/// See the module's documentation.
#[derive(Debug, Serialize)]
pub struct Permissions {
    /// What settings decide.
    limits: Vec<Limit>,
    /// What nothing changes.
    fixed: Vec<Fixed>,
    /// What `--dir` and `-S nn-graph` may name, with everything below it.
    directories: Vec<ListedDirectory>,
    /// What a task gets that names none, and at which paths.
    unasked: Vec<Given>,
    /// What every task may load by name.
    graphs: Vec<ListedGraph>,
    /// What no task gets, whatever it asks for.
    never: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Limit {
    setting: &'static str,
    value: Option<String>,
    source: String,
    what: &'static str,
}

#[derive(Debug, Serialize)]
struct Fixed {
    what: &'static str,
    value: u64,
}

#[derive(Debug, Serialize)]
struct ListedDirectory {
    path: String,
    /// None if it can't be used.
    canonical: Option<String>,
    writable: bool,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Given {
    guest: String,
    path: String,
    writable: bool,
}

#[derive(Debug, Serialize)]
struct ListedGraph {
    encoding: String,
    path: String,
    name: Option<String>,
    problem: Option<String>,
}

/// Collects it, without starting anything.
pub fn permissions(config: &Config) -> Permissions {
    let policy = setup::policy(config);
    let limits = config.report.iter().filter(|known| {
        let group = known.setting.group;
        matches!(group, Group::Tasks | Group::Limits | Group::Caches | Group::Inference)
            || known.setting.name == "mqtt-max-packet-size"
    });
    let limits = limits.map(|known| Limit {
        setting: known.setting.name,
        value: known.value.clone(),
        source: known.source.to_string(),
        what: known.setting.help,
    });
    let fixed = runtime::fixed_limits().into_iter().chain(nn::fixed_limits());
    let roots = match &policy.trust {
        Trust::Remote { roots } => roots.as_slice(),
        Trust::Local { .. } => &[],
    };
    let directories = roots.iter().map(|root| {
        let found = (policy.resolve)(&policy.working_dir.join(&root.path));
        let private = found.as_ref().ok().and_then(|host| policy.private_below(host));
        let secrets = private.map(|file| {
            format!("holds {}, so only directories below it are granted", file.display())
        });
        let kernel = found.as_ref().ok().and_then(|host| policy.kernel_at(host));
        let kernel = kernel.map(|place| format!("reaches {}, so it is not used", place.display()));
        ListedDirectory {
            path: root.path.display().to_string(),
            canonical: found.as_ref().ok().map(|host| host.display().to_string()),
            writable: root.writable,
            problem: found.err().map(|e| e.to_string()).or(kernel).or(secrets),
        }
    });
    let unasked = policy.unasked().dirs.into_iter().map(|dir| Given {
        guest: dir.guest,
        path: dir.host.display().to_string(),
        writable: dir.writable,
    });
    let graphs = config.nn_graphs.iter().map(|graph| {
        let found = policy.trusted_graph(&graph.encoding, &graph.dir);
        ListedGraph {
            encoding: graph.encoding.clone(),
            path: graph.dir.clone(),
            name: found.as_ref().ok().map(|dir| dir.name.clone()),
            problem: found.err().map(|e| e.to_string()),
        }
    });
    Permissions {
        limits: limits.collect(),
        fixed: fixed.map(|(what, value)| Fixed { what, value }).collect(),
        directories: directories.collect(),
        unasked: unasked.collect(),
        graphs: graphs.collect(),
        never: vec![
            "the network",
            "the worker's environment",
            "standard input",
            "other processes",
            "files outside the directories above",
        ],
    }
}

fn access(writable: bool) -> &'static str {
    if writable { "read-write" } else { "read-only" }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Limits (a task may tighten some of them, never loosen one):")?;
        for Limit { setting, value, source, .. } in &self.limits {
            let value = value.as_deref().unwrap_or("-");
            writeln!(f, "  {setting:<22} {value:<14} from {source}")?;
        }
        writeln!(f, "\nFixed:")?;
        for Fixed { what, value } in &self.fixed {
            writeln!(f, "  {what:<48} {value}")?;
        }
        writeln!(f, "\nDirectories that a task may name:")?;
        if self.directories.is_empty() {
            writeln!(f, "  none")?;
        }
        for ListedDirectory { path, canonical, writable, problem } in &self.directories {
            let access = access(*writable);
            let canonical = canonical.as_deref().unwrap_or("not there");
            write!(f, "  {path} ({canonical}): {access}")?;
            match problem {
                Some(problem) => writeln!(f, "; {problem}")?,
                None => writeln!(f)?,
            }
        }
        writeln!(f, "\nDirectories that a task gets that names none:")?;
        if self.unasked.is_empty() {
            writeln!(f, "  none")?;
        }
        for Given { guest, path, writable } in &self.unasked {
            writeln!(f, "  {guest} ({path}): {}", access(*writable))?;
        }
        writeln!(f, "\nGraphs that a task may load by name:")?;
        if self.graphs.is_empty() {
            writeln!(f, "  none but those of its own `-S nn-graph`")?;
        }
        for ListedGraph { encoding, path, name, problem } in &self.graphs {
            let name = name.as_deref().unwrap_or("-");
            let problem = problem.as_deref().map(|text| format!("; {text}")).unwrap_or_default();
            writeln!(f, "  {name} ({encoding}, {path}){problem}")?;
        }
        write!(f, "\nNever: {}", self.never.join(", "))
    }
}
