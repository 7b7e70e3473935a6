//! `proplet inspect`: what a model is, which a guest's author has to know, and
//! what a guest is.

mod guest;

use super::run;
use crate::config::{self, Environment, Inference};
use crate::nn::{Inspection, Nn, NnConfig, PortDescription, STACK};
use anyhow::{Context as _, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

pub(super) fn command() -> Command {
    Command::new("inspect")
        .about("Say what a model takes and gives and what runs it, or what a guest needs")
        .long_about(
            "Compiles a model as a worker with these settings does, and says its encoding, its \
             inputs and outputs with their indices, names, types and shapes (`?` is any size), \
             what it takes in memory, and for each backend the time that it compiled for or why \
             it does not take the model.\n\n\
             MODEL is a file (`model.xml` with its `model.bin` beside it, `model.onnx`, \
             `model.tflite`, `model.pb`) or the directory of a graph.\n\n\
             Of a guest (a file with WebAssembly, or `.wat`; `-` is standard input) it says the \
             imports and exports with their types, the memory that it begins with, the arguments \
             that it needs, and what a worker with these settings lacks for it.",
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print one JSON object in place of the lines"),
        )
        .args(config::run_args())
        .arg(Arg::new("model").value_name("MODEL|GUEST").required(true))
}

pub(super) fn main(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let env = Environment::from_process();
    let named = matches.get_one::<String>("model").context("neither model nor guest was named")?;
    if let Some(binary) = run::guest(named)? {
        guest::tell(named, &binary, matches, &env)?;
        return Ok(ExitCode::SUCCESS);
    }
    let inference = Inference::load(matches, &env)?;
    let nn = Nn::new(NnConfig {
        backend: inference.backend,
        openvino: inference.openvino(),
        ..NnConfig::default()
    });
    let path = Path::new(named);
    let model = Model::read(&nn, path)?;
    // Parsers of models recurse.
    let thread = std::thread::Builder::new().name("inspect".into()).stack_size(STACK);
    let inspected = std::thread::scope(|scope| {
        let work = || nn.inspect(model.encoding, &model.parts());
        let thread = thread.spawn_scoped(scope, work).context("starting a thread")?;
        let inspected = thread.join().map_err(|_| anyhow!("the backend panicked"))?;
        inspected.map_err(|refusal| anyhow!("{}: {refusal}", path.display()))
    })?;
    let devices = devices(&nn);
    if matches.get_flag("json") {
        println!("{}", as_json(&model, &inspected, &devices));
    } else {
        print(&model, &inspected, &devices);
    }
    Ok(ExitCode::SUCCESS)
}

struct Model {
    encoding: &'static str,
    files: Vec<Vec<u8>>,
}

impl Model {
    fn read(nn: &Nn, path: &Path) -> anyhow::Result<Model> {
        let (encoding, files) = find(nn, path)?;
        let read = |file: &PathBuf| {
            fs::read(file).with_context(|| format!("reading the model {}", file.display()))
        };
        Ok(Model { encoding, files: files.iter().map(read).collect::<anyhow::Result<_>>()? })
    }

    fn parts(&self) -> Vec<&[u8]> {
        self.files.iter().map(Vec::as_slice).collect()
    }

    fn bytes(&self) -> usize {
        self.files.iter().map(Vec::len).sum()
    }
}

/// The encoding of a file or directory, and its files in their order.
fn find(nn: &Nn, path: &Path) -> anyhow::Result<(&'static str, Vec<PathBuf>)> {
    let all = nn.files();
    let known = all.iter().map(|(_, files)| format!("`{}`", files.join("` with `")));
    let known = known.collect::<Vec<_>>().join(", ");
    if path.is_dir() {
        for (encoding, files) in &all {
            if files.iter().all(|file| path.join(file).is_file()) {
                return Ok((encoding, files.iter().map(|file| path.join(file)).collect()));
            }
        }
        return Err(anyhow!("{} holds no model: this build knows {known}", path.display()));
    }
    let suffix = |file: &Path| file.extension().map(|suffix| suffix.to_ascii_lowercase());
    let of = |files: &[&str]| suffix(Path::new(files[0])) == suffix(path);
    let (encoding, files) = all.iter().find(|(_, files)| of(files)).ok_or_else(|| {
        anyhow!("{} has the name of no model: this build knows {known}", path.display())
    })?;
    let beside = files.iter().skip(1).map(|file| {
        path.with_extension(suffix(Path::new(file)).expect("a file of a model has one"))
    });
    Ok((encoding, std::iter::once(path.to_owned()).chain(beside).collect()))
}

/// What each backend can compute on.
fn devices(nn: &Nn) -> Vec<(&'static str, Vec<String>)> {
    let backends = nn.libraries().into_iter().map(|(backend, _)| backend);
    backends.map(|backend| (backend, nn.devices(backend).unwrap_or_default())).collect()
}

fn print(model: &Model, inspected: &Inspection, devices: &[(&str, Vec<String>)]) {
    println!("encoding  {} ({} bytes)", model.encoding, model.bytes());
    for (what, ports) in [("input", &inspected.inputs), ("output", &inspected.outputs)] {
        for (index, port) in ports.iter().enumerate() {
            println!("{:<9} {index}: {}", what, port.text.escape_debug());
        }
    }
    if inspected.stateful {
        println!("state     kept between the inferences of one execution context");
    }
    println!("memory    {} bytes", inspected.memory);
    for (backend, outcome) in &inspected.backends {
        let on = devices.iter().find(|(name, _)| name == backend).map(|(_, on)| on.join(", "));
        match outcome {
            Ok(took) => println!(
                "backend   {backend}: compiled in {:.1} ms; devices: {}",
                milliseconds(*took),
                on.unwrap_or_default()
            ),
            Err(refusal) => println!("backend   {backend}: {}", refusal.escape_debug()),
        }
    }
}

fn as_json(model: &Model, inspected: &Inspection, devices: &[(&str, Vec<String>)]) -> Value {
    let backends: Vec<_> = inspected
        .backends
        .iter()
        .map(|(backend, outcome)| {
            let on = devices.iter().find(|(name, _)| name == backend).map(|(_, on)| on);
            match outcome {
                Ok(took) => {
                    json!({ "backend": backend, "compile_ms": milliseconds(*took), "devices": on })
                }
                Err(refusal) => json!({ "backend": backend, "refused": refusal, "devices": on }),
            }
        })
        .collect();
    json!({
        "encoding": model.encoding,
        "bytes": model.bytes(),
        "inputs": ports(&inspected.inputs),
        "outputs": ports(&inspected.outputs),
        "stateful": inspected.stateful,
        "memory": inspected.memory,
        "backends": backends,
    })
}

/// A fixed dimension is a number, an open one null, and one of two ends both.
fn ports(ports: &[PortDescription]) -> Vec<Value> {
    let dim = |&(min, max): &(u64, Option<u64>)| match max {
        Some(max) if max == min => json!(min),
        None if min == 0 => Value::Null,
        max => json!({ "min": min, "max": max }),
    };
    let port = |port: &PortDescription| {
        let shape: Option<Vec<_>> = port.shape.as_ref().map(|dims| dims.iter().map(dim).collect());
        json!({ "name": port.name, "type": port.element, "shape": shape })
    };
    ports.iter().map(port).collect()
}

fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 10_000.0).round() / 10.0
}
