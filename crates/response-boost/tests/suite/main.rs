//! The library as its users have it, over memory, a real Redis and real sockets.

mod axum;
mod claims;
mod environment;
mod guarantee;
mod redis_connections;
mod redis_faults;
mod store_contract;
