//! The `proplet` program: parses the command line and hands over to a verb.

use std::process::ExitCode;

fn main() -> ExitCode {
    proplet::cli::main()
}
