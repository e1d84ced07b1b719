//! Logs and metrics: log lines, and one line for each request that also carries its metrics. All go to standard output,
//! where Lambda collects them.
//!
//! As JSON (`AWS_LAMBDA_LOG_FORMAT=JSON`) each line is one object of the schema in `docs/log-line.schema.json`;
//! `docs/logs.md` explains its members. The line of a request is also a document of CloudWatch's embedded metric
//! format. As text, lines are for people and carry no metrics.
//!
//! Each line is written at once, by one system call; the line of a request after its response was sent. Nothing is left
//! to write when the runtime asks for the next event and Lambda may freeze the process.

mod invocation;
mod json;
mod label;
mod metrics;
mod timestamp;

use std::io::IsTerminal as _;

use tracing::{Level, error};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt as _, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use self::invocation::{Recorded, Telemetry, answered, not_a_request, seen_at, within};
use self::json::JsonLine;
pub use self::label::{InvalidLabel, Label};

/// What is logged, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogSettings {
    /// `AWS_LAMBDA_LOG_FORMAT`.
    pub format: LogFormat,
    /// `RUST_LOG`, otherwise the level of `AWS_LAMBDA_LOG_LEVEL` for everything.
    pub filter: Targets,
    /// The dimension `service` of all metrics. `POWERTOOLS_SERVICE_NAME`.
    pub service: Label,
    /// The namespace of the metrics in CloudWatch. `POWERTOOLS_METRICS_NAMESPACE`.
    pub metrics_namespace: Label,
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

/// Starts logging. Call it once in a process; later calls change nothing.
pub fn init(settings: &LogSettings) {
    // Not `lambda_runtime`'s own subscriber: it prints no timestamp, and Lambda treats a JSON line without one as INFO.
    let lines = tracing_subscriber::fmt::layer();
    let lines = match settings.format {
        LogFormat::Json => lines.event_format(JsonLine).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stdout().is_terminal()).boxed(),
    };
    // Some traces are never logged, whatever the filter says: the signer's contain signed requests with session tokens,
    // the SDK's the items that it reads, and the runtime's the events. Callers log what fails. The runtime's lines
    // about panics and function errors are left out too, because they say nothing.
    let is_harmless = filter_fn(|line| {
        let target = line.target();
        let is_trace = *line.level() == Level::TRACE;
        !(target.starts_with("aws_sigv4")
            || target.starts_with("aws_smithy_runtime")
            || target.starts_with("lambda_runtime::layers::panic")
            || (target.starts_with("lambda_") && is_trace))
    });
    let filter = settings.filter.clone().and(is_harmless);
    // This fails only if a subscriber is already set, which is then what the caller wants.
    if tracing_subscriber::registry().with(lines.with_filter(filter)).try_init().is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let location = panic.location().map(ToString::to_string);
            // Only a literal: a formatted message may contain anything.
            let reason = panic.payload().downcast_ref::<&str>();
            error!(location, reason, "panicked");
        }));
    }
}
