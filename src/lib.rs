//! A read-through response cache for AWS Lambda, and the small users API that shows it at work.
//!
//! The cache is a tower layer: put [`cache::ResponseCache`] around a Lambda service, tell it which
//! requests have a key, and their answers are kept in Redis or Valkey (or in the process itself).
//!
//! # The path of a request
//!
//! ```text
//! gateway event (REST v1, HTTP v2, function URL, ALB)
//!   → telemetry     opens the record of this invocation
//!   → event         made safe and turned into an http::Request
//!   → cache::layer  no key: straight through; a key: read through the store
//!       → hit       the stored response, its body never parsed; 304 if the client has it already
//!       → miss      users → user store → answer, kept for its time to live
//!       → fault     as a miss, but nothing is kept: the cache never fails a request
//!   → telemetry     writes the line: what became of it, how long it waited for what, metrics
//! ```
//!
//! # The modules
//!
//! - [`aws`]: credentials, region and HTTPS, found when something first needs them.
//! - [`cache`]: the layer, its key, its entries, the two stores. Knows nothing of users.
//! - [`config`]: every environment variable, read once at the start; all errors at once.
//! - [`environment`]: what the binaries share: where they run, and how they end.
//! - [`event`]: raw gateway events made requests, and responses the gateway's replies.
//! - [`problem`]: error responses (RFC 9457), the one place that makes them.
//! - [`stream`]: changes of the users' table, and which keys they make old.
//! - [`telemetry`]: log lines, and one for each request that is also its metrics.
//! - [`users`]: the example API: route, method, id → response. Does not know that it is cached.
//!
//! `src/bin/users.rs` and `src/bin/invalidate.rs` wire them together.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod aws;
pub mod cache;
pub mod config;
pub mod environment;
pub mod event;
pub mod problem;
pub mod stream;
pub mod telemetry;
mod timers;
pub mod users;
