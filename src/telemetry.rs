//! Log lines, on standard output, where Lambda picks them up.

use std::io::IsTerminal as _;

use tracing::Level;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt as _, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// What is logged, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogSettings {
    /// `AWS_LAMBDA_LOG_FORMAT`.
    pub format: LogFormat,
    /// `RUST_LOG`, or else the level of `AWS_LAMBDA_LOG_LEVEL` for all.
    pub filter: Targets,
}

/// The form of a log line, named as Lambda names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// One JSON object a line, with `timestamp` and `level` as Lambda's own log filter reads them.
    Json,
    /// For people; in colour on a terminal.
    Text,
}

/// Starts logging. To be called once in a process; later calls change nothing.
pub fn init(settings: LogSettings) {
    // Without lambda_runtime's own subscriber: it prints no timestamp, and Lambda takes a JSON line
    // without one for INFO.
    let lines = tracing_subscriber::fmt::layer();
    let lines = match settings.format {
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stdout().is_terminal()).boxed(),
    };
    // The signer traces the requests that it signs, with their session tokens, the SDK the items that
    // it reads, and the runtime the events: not here, whatever the filter says. What fails is logged by
    // those who asked.
    let is_harmless = filter_fn(|line| {
        let target = line.target();
        let is_trace = *line.level() == Level::TRACE;
        !(target.starts_with("aws_sigv4")
            || target.starts_with("aws_smithy_runtime")
            || (target.starts_with("lambda_") && is_trace))
    });
    let filter = settings.filter.and(is_harmless);
    // Fails only where a subscriber is set already, which is then what the caller wants.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}
