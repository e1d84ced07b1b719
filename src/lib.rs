//! The users function: `GET /users/{id}` on AWS Lambda, cached by [`response_boost`].
//!
//! # The path of a request
//!
//! ```text
//! gateway event (REST v1, HTTP v2, function URL, ALB)
//!   → telemetry        opens the record of this invocation
//!   → lambda-gateway   turns it into a safe http::Request
//!   → response-boost   without a key: bypassed; with a key: read through the store
//!       → hit          the stored response, its body never parsed; 304 if the client has it already
//!       → miss         users → user store → response, stored for its TTL
//!       → fault        like a miss, but nothing is stored: the cache never fails a request
//!   → telemetry        writes the line: the outcome, the wait for each dependency, metrics
//! ```
//!
//! # The modules
//!
//! - [`aws`]: credentials, region and HTTPS, found on first use.
//! - [`config`]: every environment variable, read once at the start; all errors at once.
//! - [`environment`]: the start and the end of each binary.
//! - [`problem`]: the error responses of the API (RFC 9457).
//! - [`release_check`]: checks a new version before it gets requests.
//! - [`secret`]: the password of Redis, if Secrets Manager has it.
//! - [`stream`]: changes of the users' table, and the keys that they invalidate.
//! - [`telemetry`]: log lines, and one line for each request that also carries its metrics.
//! - [`users`]: the API: route, method, id → response. Does not know that it is cached.
//!
//! `src/bin/users.rs`, `src/bin/invalidate.rs` and `src/bin/release-check.rs` wire them together.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod aws;
pub mod config;
pub mod environment;
pub mod problem;
pub mod release_check;
pub mod secret;
pub mod stream;
pub mod telemetry;
pub mod users;
