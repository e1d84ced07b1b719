//! Tests the library through its public API, over memory, a real Redis and real sockets.

mod audit;
mod axum;
mod caches;
mod claims;
mod documents;
mod environment;
mod examples;
mod guarantee;
mod leases;
mod log;
mod redis_connections;
mod redis_faults;
mod refreshes;
mod store_contract;
mod tags;
mod values;
mod variants;
