//! Tasks beside OpenVINO alone and beside the shell-out, in one run:
//!
//! ```text
//! cargo bench --features openvino
//! cargo bench --features openvino -- --only latency --rounds 40 --json
//! ```
//!
//! What is compared runs in alternation, so that what slows this machine down
//! slows all of it. Each section prints what it measured as it ends; then come
//! a table, one `name: value` line for each measure, and whether the machine
//! was quiet enough to believe them.
//!
//! It needs what the tests need (`fixtures/setup.py` fetches it), and uses
//! `mosquitto` and `wasmtime` of the PATH, or the ones that
//! `PROPLET_BENCH_MOSQUITTO` and `PROPLET_BENCH_WASMTIME` name.

#![allow(unreachable_pub, reason = "a program exports nothing; `pub` marks what modules share")]

mod alone;
mod broker;
mod http;
mod manager;
mod ours;
mod place;
mod plot;
mod report;
mod section;
mod shellout;
mod stats;
mod worker;

// The tests' own way to OpenVINO and the models.
#[path = "../../tests/it/support/assets.rs"]
mod assets;

use clap::Parser;
use place::Place;
use report::Report;
use section::Section;
use std::path::PathBuf;

/// Measures tasks beside OpenVINO alone and beside `wasmtime run`.
#[derive(Parser)]
struct Args {
    /// Measure only these sections, comma separated.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Section>,
    /// Rounds of the alternation; each measures everything several times.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Print JSON alone on standard output.
    #[arg(long)]
    json: bool,
    /// Draw the steps of a task into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Cargo's own way to say that this is a benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let place = Place::new()?;
    let mut report = Report::new();
    for &section in Section::ALL {
        if args.only.is_empty() || args.only.contains(&section) {
            eprintln!("==> {section}");
            let before = report.len();
            section.run(&place, args.rounds, &mut report)?;
            report.tell(before);
        }
    }
    if let Some(file) = &args.plot {
        report.plot(file)?;
    }
    report.finish(args.json)
}
