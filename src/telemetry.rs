//! What operators see: log lines, and one line for each invocation that is also its metrics. All on
//! standard output, where Lambda picks them up.
//!
//! As JSON (`AWS_LAMBDA_LOG_FORMAT=JSON`) each line is one object of the schema in
//! `docs/log-line.schema.json`; `docs/logs.md` says what the members mean. The line of a request is at
//! the same time a document of CloudWatch's embedded metric format. As text, lines are for people and
//! there are no metrics.
//!
//! A line is written at once and by one call of the system; that of a request when the answer has been
//! given. Nothing is left when the next event is asked for and Lambda may freeze the process.

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
    /// `RUST_LOG`, or else the level of `AWS_LAMBDA_LOG_LEVEL` for all.
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

/// Starts logging. To be called once in a process; later calls change nothing.
pub fn init(settings: &LogSettings) {
    // Without lambda_runtime's own subscriber: it prints no timestamp, and Lambda takes a JSON line
    // without one for INFO.
    let lines = tracing_subscriber::fmt::layer();
    let lines = match settings.format {
        LogFormat::Json => lines.event_format(JsonLine).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stdout().is_terminal()).boxed(),
    };
    // The signer traces the requests that it signs, with their session tokens, the SDK the items that
    // it reads, and the runtime the events: not here, whatever the filter says. What fails is logged by
    // those who asked. Nor what the runtime says of a panic or a function error, which is nothing.
    let is_harmless = filter_fn(|line| {
        let target = line.target();
        let is_trace = *line.level() == Level::TRACE;
        !(target.starts_with("aws_sigv4")
            || target.starts_with("aws_smithy_runtime")
            || target.starts_with("lambda_runtime::layers::panic")
            || (target.starts_with("lambda_") && is_trace))
    });
    let filter = settings.filter.clone().and(is_harmless);
    // Fails only where a subscriber is set already, which is then what the caller wants.
    if tracing_subscriber::registry().with(lines.with_filter(filter)).try_init().is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let location = panic.location().map(ToString::to_string);
            // A literal. What was put together may hold anything.
            let reason = panic.payload().downcast_ref::<&str>();
            error!(location, reason, "panicked");
        }));
    }
}
