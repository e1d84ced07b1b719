//! Log lines as JSON.

use std::fmt::{self, Write as _};

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::invocation;
use super::timestamp::timestamp;

/// The crates of this repository, by the prefix of their lines' targets.
const OWN: [&str; 3] = ["users_function", "response_boost", "lambda_gateway"];

/// Writes a log event as one JSON object, with the ids of its invocation.
///
/// (The crate's own JSON format nests the ids in another object and needs a span for each invocation, which is missing
/// if the filter passes only errors.)
pub(super) struct JsonLine;

/// The members in order. The names of our own events' fields are known, so those fields are on the top level; fields of
/// libraries may have any name.
#[derive(Serialize)]
struct LogLine<'a> {
    timestamp: String,
    level: &'a str,
    message: String,
    #[serde(flatten)]
    own: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: Map<String, Value>,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut found = Fields::default();
        event.record(&mut found);
        let metadata = event.metadata();
        let is_own = OWN.iter().any(|own| metadata.target().starts_with(own));
        let (own, fields) =
            if is_own { (found.fields, Map::new()) } else { (Map::new(), found.fields) };
        let (request_id, trace_id) = invocation::current_ids();
        let line = LogLine {
            timestamp: timestamp(),
            level: metadata.level().as_str(),
            message: found.message,
            own,
            fields,
            target: metadata.target(),
            request_id,
            trace_id,
        };
        writeln!(writer, "{}", serde_json::to_string(&line).map_err(|_| fmt::Error)?)
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    fields: Map<String, Value>,
}

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.insert(field, format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.insert(field, value);
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }
}
