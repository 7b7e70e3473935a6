//! The log: to standard error, as text or as JSON lines.

use crate::config::{LogConfig, LogFormat};
use anyhow::Context as _;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// What other crates say is worth little to an operator; at the level `debug`
/// the compiler alone has hundreds of lines for each module.
const QUIET: &str = "rumqttd=error,rumqttc=warn,cranelift=warn,regalloc2=warn,wasmtime=warn,\
     rustls=warn,ureq=warn,hyper=warn";

/// Starts logging.
pub(super) fn start(config: &LogConfig) -> anyhow::Result<()> {
    // What the operator says comes last, and wins.
    let directives = format!("{QUIET},{}", config.directives);
    let filter: EnvFilter =
        directives.parse().with_context(|| format!("log-level `{}`", config.directives))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).with_span_list(false).init(),
    }
    Ok(())
}
