//! The gateway as its users have it: events in, replies out, beside `lambda_http`.

mod differences;
mod odd_events;
mod support;
