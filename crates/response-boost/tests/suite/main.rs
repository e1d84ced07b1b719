//! The library as its users have it, over memory, a real Redis and real sockets.

mod axum;
mod examples;
mod guarantee;
mod leases;
mod store_contract;
