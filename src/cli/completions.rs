//! `proplet completions` and `proplet man`: what a shell and `man` know of this
//! program, made from its command line.

use anyhow::Context as _;
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(super) const MAN: &str = "man";

pub(super) fn command() -> Command {
    Command::new("completions")
        .about("Print a shell's completions of this command line")
        .after_help(
            "Examples:\n  \
             proplet completions bash > /etc/bash_completion.d/proplet\n  \
             proplet completions zsh > \"${fpath[1]}/_proplet\"\n  \
             proplet completions fish > ~/.config/fish/completions/proplet.fish",
        )
        .arg(
            Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell)),
        )
}

pub(super) fn man_command() -> Command {
    Command::new(MAN)
        .about("Write the manual pages, one for each verb")
        .after_help("Example:\n  proplet man /usr/local/share/man/man1 && man proplet-worker")
        .arg(
            Arg::new("directory")
                .value_name("DIRECTORY")
                .help("Where to; without, the page of the program itself is printed")
                .value_parser(value_parser!(PathBuf)),
        )
}

pub(super) fn main(matches: &ArgMatches, program: &mut Command) -> anyhow::Result<ExitCode> {
    let shell = *matches.get_one::<Shell>("shell").context("no shell was named")?;
    let mut text = Vec::new();
    clap_complete::generate(shell, program, "proplet", &mut text);
    io::stdout().write_all(&text).context("writing the completions")?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(matches: &ArgMatches, program: Command) -> anyhow::Result<ExitCode> {
    match matches.get_one::<PathBuf>("directory") {
        Some(directory) => pages(directory, program)?,
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(program).render(&mut text)?;
            io::stdout().write_all(&text).context("writing the manual page")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn pages(directory: &Path, program: Command) -> anyhow::Result<()> {
    let shown = directory.display();
    std::fs::create_dir_all(directory).with_context(|| format!("making the folder {shown}"))?;
    clap_mangen::generate_to(program, directory)
        .with_context(|| format!("writing manual pages to {shown}"))
}
