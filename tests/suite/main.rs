//! The function as a whole: the real binaries over the Runtime API, in front of a real Redis.

mod support;

mod api;
mod dynamodb;
mod events;
mod http;
mod invalidation;
mod redis_cluster;
mod redis_faults;
mod redis_tls;
mod release_check;
mod secret;
mod soak;
mod stampede;
mod telemetry;
mod template;
