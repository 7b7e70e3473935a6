//! `proplet demo`: everything at once, on this machine, with real files.

mod place;
mod rows;
mod show;
mod tour;

use anyhow::bail;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::process::ExitCode;

pub(super) fn command() -> Command {
    Command::new("demo")
        .about("See it work: a broker, a worker and real files on this machine")
        .long_about(
            "Starts an MQTT broker and a worker in this process, on a free port of this machine \
             alone, and sends the worker tasks: what is in photos, when somebody speaks, what a \
             line of text says, of which types files are, and the guide's image classification. \
             Each runs once cold and then 10 times warm. A build without OpenVINO runs those whose \
             models are ONNX, and says what it leaves out.\n\n\
             In a source checkout it first fetches OpenVINO and the models (about 180 MB) with \
             fixtures/setup.py, which needs python3 with pip; what is there already is kept.",
        )
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .num_args(0..)
                .help("Photos, sound and other files to look at [default: some that are here]"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print JSON alone on standard output"),
        )
        .arg(Arg::new("keep").long("keep").action(ArgAction::SetTrue).help(
            "Leave broker and worker running until Ctrl-C, to send tasks from another terminal",
        ))
}

pub(super) fn main(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    if !cfg!(any(feature = "openvino", feature = "onnx")) {
        bail!(
            "this build can't run models: it was built with neither `openvino` nor `onnx`. One that can is \
             `cargo run --features openvino -- demo`"
        );
    }
    let files: Vec<String> =
        matches.get_many::<String>("files").into_iter().flatten().cloned().collect();
    let options =
        tour::TourOptions { keep: matches.get_flag("keep"), json: matches.get_flag("json") };
    tour::main(&files, options)
}
