//! A guest, told to its author: what it imports and exports, what it needs of a
//! task's arguments, and what this worker lacks for it.

use crate::config::{Config, Environment};
use crate::nn::Nn;
use crate::runtime::{GuestDescription, inspect};
use crate::worker;
use anyhow::anyhow;
use clap::ArgMatches;
use serde_json::json;

/// Tells of the guest with this code.
pub(super) fn tell(
    path: &str,
    binary: &[u8],
    matches: &ArgMatches,
    env: &Environment,
) -> anyhow::Result<()> {
    let guest = inspect(binary).map_err(|e| anyhow!("{path}: {e}"))?;
    let (config, _) = Config::load_offline(matches, env)?;
    let (needs, lacks) = (needs(&guest), lacks(&guest, &config));
    if matches.get_flag("json") {
        let mut told = json!(guest);
        told["bytes"] = binary.len().into();
        told["needs"] = needs.into();
        told["lacks"] = lacks.into();
        println!("{told}");
        return Ok(());
    }
    println!("guest     {} ({} bytes)", guest.kind, binary.len());
    for import in &guest.imports {
        let name = import.name.escape_debug();
        let signature = import.signature.as_ref().map(|s| format!(": {s}")).unwrap_or_default();
        let missing = import.missing.as_ref().map(|_| ", which is not provided");
        println!("import    {name}{signature}{}", missing.unwrap_or_default());
    }
    for export in &guest.exports {
        println!("export    {}", export.escape_debug());
    }
    for memory in &guest.memories {
        let most = memory
            .maximum
            .map_or("no bound of its own".into(), |most| format!("at most {}", mib(most)));
        println!("memory    {} at the start, {most}", mib(memory.minimum));
    }
    for need in &needs {
        println!("needs     {need}");
    }
    for lack in &lacks {
        println!("lacks     {lack}");
    }
    if lacks.is_empty() {
        println!("lacks     nothing: this worker runs it");
    }
    Ok(())
}

/// What a task with this guest has to be given.
fn needs(guest: &GuestDescription) -> Vec<String> {
    let mut needs = Vec::new();
    if guest.nn {
        needs.push("wasi-nn: importing it asks for it, `-S nn` says so".to_owned());
    }
    if guest.loads_by_name {
        needs.push(
            "`-S nn-graph=ENCODING::DIR` for each graph that it loads by its name, unless the \
             worker has it in PROPLET_NN_GRAPHS"
                .into(),
        );
    }
    if guest.files {
        needs.push("`--dir HOST[::GUEST]` for the files that it opens".into());
    }
    if !guest.command {
        needs.push(
            "`--invoke NAME`, or the task's name, for the export that is to be called".into(),
        );
    }
    needs
}

/// What this worker, by its configuration, does not have for it.
fn lacks(guest: &GuestDescription, config: &Config) -> Vec<String> {
    let mut lacks = Vec::new();
    for import in &guest.imports {
        if let Some(why) = &import.missing {
            lacks.push(format!("`{}`: {why}", import.name));
        }
    }
    let least: u64 = guest.memories.iter().map(|memory| memory.minimum).sum();
    let limit = config.limits.memory;
    if least > limit {
        lacks.push(format!(
            "memory: it begins with {}, and a task may have {} (--task-memory)",
            mib(least),
            mib(limit)
        ));
    }
    if guest.nn {
        let policy = worker::policy(config);
        let nn = Nn::new(worker::nn_config(config, &policy));
        let libraries = nn.libraries();
        if libraries.is_empty() {
            lacks.push(crate::nn::NO_BACKEND.to_owned());
        }
        if libraries.iter().all(|(_, library)| library.is_err()) {
            lacks.extend(libraries.into_iter().filter_map(|(_, library)| library.err()));
        }
    }
    if guest.network {
        lacks.push("the network: what it asks for of it is refused".into());
    }
    lacks
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
