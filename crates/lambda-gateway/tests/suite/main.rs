//! Tests the gateway through its public API, beside `lambda_http`: events in, replies out.

mod differences;
mod odd_events;
mod support;
