//! The time of a log line.

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime as Now};

/// The current time in Lambda's format (RFC 3339, UTC).
pub(super) fn timestamp() -> String {
    let mut text = String::with_capacity(32);
    // Writing to a String cannot fail.
    let _ = Now.format_time(&mut Writer::new(&mut text));
    text
}
