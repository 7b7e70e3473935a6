//! The log: to standard error, as text or as JSON lines.

use super::native::{self, CapturedStderr};
use crate::config::{LogConfig, LogFormat};
use crate::escape::Escaped;
#[cfg(target_os = "linux")]
use crate::host;
use anyhow::Context as _;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber, error, warn};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// What other crates say is worth little to an operator; at the level `debug`
/// the compiler alone has hundreds of lines for each module.
const QUIET: &str = "rumqttd=error,rumqttc=warn,cranelift=warn,regalloc2=warn,wasmtime=warn,\
     rustls=warn,ureq=warn,hyper=warn";

/// A log that has been started.
pub(super) struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    as_json: Arc<AtomicBool>,
}

impl Log {
    /// From now on these directives decide on what is logged.
    pub(super) fn set_level(&self, directives: &str) -> anyhow::Result<()> {
        self.filter.reload(filter(directives)?).context("replacing the log's filter")
    }

    /// From now on its lines have this form.
    pub(super) fn set_format(&self, format: LogFormat) {
        self.as_json.store(format == LogFormat::Json, Ordering::Relaxed);
    }
}

/// Two forms of a log, of which one is written. Both hear of all spans, since
/// each keeps of them what it writes with an event.
struct Forms<T, J> {
    text: T,
    json: J,
    as_json: Arc<AtomicBool>,
}

impl<S, T, J> Layer<S> for Forms<T, J>
where
    S: Subscriber,
    T: Layer<S>,
    J: Layer<S>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.text.on_new_span(attributes, id, context.clone());
        self.json.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.text.on_record(id, values, context.clone());
        self.json.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        match self.as_json.load(Ordering::Relaxed) {
            true => self.json.on_event(event, context),
            false => self.text.on_event(event, context),
        }
    }
}

/// Starts logging, to where standard error went before it was captured, and
/// has panics logged.
pub(super) fn start(config: &LogConfig, captured: Option<&CapturedStderr>) -> anyhow::Result<Log> {
    let real = captured.map(CapturedStderr::real);
    let to = || match &real {
        Some(real) => BoxMakeWriter::new(real.clone()),
        None => BoxMakeWriter::new(std::io::stderr),
    };
    let ansi = match &real {
        Some(real) => real.is_terminal(),
        None => std::io::stderr().is_terminal(),
    };
    let as_json = Arc::new(AtomicBool::new(config.format == LogFormat::Json));
    let (filter, handle) = reload::Layer::new(filter(&config.directives)?);
    let text = tracing_subscriber::fmt::layer()
        .with_writer(to())
        .with_ansi(ansi)
        .fmt_fields(escaped_fields());
    let json = tracing_subscriber::fmt::layer()
        .with_writer(to())
        .with_ansi(false)
        .json()
        .flatten_event(true)
        .with_span_list(false);
    let forms = Forms { text, json, as_json: as_json.clone() };
    tracing_subscriber::registry().with(filter).with(forms).init();
    std::panic::set_hook(Box::new(log_panic));
    Ok(Log { filter: handle, as_json })
}

/// Starts logging as the worker says that started this process.
#[cfg(target_os = "linux")]
pub(super) fn start_as(log: &host::LogSetup) -> anyhow::Result<host::child::LogControl> {
    let format = if log.json { LogFormat::Json } else { LogFormat::Text };
    let mut captured = native::capture()?;
    let log = start(&LogConfig { directives: log.directives.clone(), format }, Some(&captured))?;
    let confined = move || {
        if let Err(e) = captured.listen() {
            warn!("what libraries write to standard error is lost: {e:#}");
        }
        // As long as this process.
        std::mem::forget(captured);
    };
    let set_level = move |directives: &str| log.set_level(directives);
    Ok(host::child::LogControl { confined: Box::new(confined), set_level: Box::new(set_level) })
}

/// Whoever panicked, a library's thread too, and whatever it says: it stays in
/// its line.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let text = panic.payload_as_str().unwrap_or("no reason given");
    let trace = Backtrace::capture();
    match trace.status() {
        BacktraceStatus::Captured => error!(thread, at, %trace, "panicked: {text}"),
        _ => error!(thread, at, "panicked: {text}"),
    }
}

fn filter(directives: &str) -> anyhow::Result<EnvFilter> {
    // What the operator says comes last, and wins.
    let all = format!("{QUIET},{directives}");
    all.parse().with_context(|| format!("log-level `{directives}`"))
}

/// The fields of a line of text, the message among them: whatever text they
/// hold, it stays one line and moves no cursor. JSON escapes by itself.
fn escaped_fields() -> impl for<'writer> FormatFields<'writer> + 'static {
    let format = |writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        match field.name() {
            "message" => {}
            name if writer.has_ansi_escapes() => {
                write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?;
            }
            name => write!(writer, "{name}=")?,
        }
        write!(Escaped(writer), "{value:?}")
    };
    debug_fn(format).delimited(" ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};
    use tracing::{info, info_span};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(in crate::cli) fn logged(ansi: bool, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(ansi)
            .fmt_fields(escaped_fields())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).expect("text")
    }

    /// ARCHITECTURE.md, case 73.
    #[test]
    fn text_from_outside_stays_in_its_line_of_the_log() {
        let evil = "a\nERROR b\r\x1b[2J\u{9b}1m\u{202e}\0";
        let escaped = r"a\nERROR b\r\u{1b}[2J\u{9b}1m\u{202e}\u{0}";
        let line = logged(false, || {
            let _span = info_span!("task", task = %evil).entered();
            info!(label = %evil, "the text {evil} is Zoë's");
        });
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(line.ends_with('\n') && !line.trim_end().contains(char::is_control), "{line:?}");
        assert_eq!(line.matches(escaped).count(), 3, "{line:?}");
        assert!(line.contains(" is Zoë's label=") && line.contains("task{task=a"), "{line:?}");
    }

    #[test]
    fn a_terminal_gets_our_own_colours_alone() {
        let line = logged(true, || info!(label = %"\x1b[31m", "text"));
        assert!(line.contains("\x1b[3mlabel\x1b[0m"), "{line:?}");
        assert!(line.contains(r"\u{1b}[31m") && !line.contains("\x1b[31m"), "{line:?}");
    }

    #[test]
    fn fields_look_as_they_did() {
        let line = logged(false, || info!(executors = 2, id = "a b", "Starting {}", "it"));
        assert!(line.ends_with("Starting it executors=2 id=\"a b\"\n"), "{line:?}");
    }
}
