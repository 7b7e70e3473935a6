//! `proplet compile-server`: a process that compiles for another one of this
//! program, which has the other end of its standard input. Nobody types it.

use crate::host::confine::{self, Confinement};
use crate::runtime::{COMPILE_VERB, serve_compiles};
use anyhow::Context as _;
use clap::{Arg, ArgMatches, Command, value_parser};
use std::io::stdin;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

const MEMORY: &str = "memory";

pub(super) fn command() -> Command {
    let memory = Arg::new(MEMORY).required(true).value_parser(value_parser!(u64));
    Command::new(COMPILE_VERB).hide(true).arg(memory)
}

pub(super) fn main(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let memory = matches.get_one(MEMORY).copied();
    let line = stdin().as_fd().try_clone_to_owned().context("the line to who has it compile")?;
    let confinement = Confinement { memory, ..Confinement::default() };
    // What a system does not have is told once, by the worker.
    serve_compiles(UnixStream::from(line), &|| confine::apply(&confinement).map(drop))?;
    Ok(ExitCode::SUCCESS)
}
