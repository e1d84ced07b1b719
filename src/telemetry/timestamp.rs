//! The time of a line.

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime as Now};

/// The time now, as Lambda wants it (RFC 3339, UTC).
pub(super) fn timestamp() -> String {
    let mut text = String::with_capacity(32);
    // Writing to a String cannot fail.
    let _ = Now.format_time(&mut Writer::new(&mut text));
    text
}
