//! A read-through response cache as a tower layer.
//!
//! [`ResponseCacheLayer`] is the layer. A function that you pass derives the [`CacheKey`] from a request. The layer
//! looks the key up in a [`Store`] and answers from the [`Entry`] it finds; on a miss it calls the inner service and
//! stores the response, as the [`Policy`] allows.
//!
//! [`ValueCache`] does the same for the return value of a function: `users.get_or_load(["user", "1"], || find(1))`.
//! Everything below holds for values too.
//!
//! While one caller loads, others that ask for the same key wait for its response. A response that was loaded before an
//! invalidation is not stored after it. The guarantee, word for word:
//!
//! > A request that begins after an invalidation has returned success is never answered with an older
//! > version, provided that the write is visible to loads before the invalidation starts, loads are
//! > strongly consistent, and leases are on. Requests that were already running may answer what they
//! > had read. Not covered, and bounded by the entry's remaining life: a fail-over or a restore that
//! > forgets the deletion, a demoted primary that still answers, invalidations that the stream gave up.
//! > Bounded by their own lifetime: client caches (`max-age`).
//!
//! The same holds for a [`Tag`], which names a group of entries: one call invalidates all of them.
//!
//! **The cache obeys what the service says about its response**, as RFC 9111 defines it: `Cache-Control`, `Expires`,
//! `Vary`, `ETag`, or the extension [`Keep`], which clients never see. [`ResponseCacheLayer`] has a table of what each
//! directive does.
//!
//! The crate has two stores: [`RedisStore`], which all environments of a function share, and [`MemoryStore`], which one
//! process has to itself.
//!
//! **A fault of the store never fails a request.** It delays the request, by the policy's deadline at most, and shows
//! up in the `Cache-Status` header, the [`Report`] and the log.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

// For a module that unit tests and integration tests share.
#[cfg(all(test, feature = "cluster"))]
extern crate self as response_boost;

mod after_reply;
mod audit;
mod body;
mod budget;
#[cfg(all(test, feature = "cluster"))]
#[path = "../tests/suite/caches.rs"]
#[allow(dead_code, reason = "the suite of integration tests uses more of it")]
mod caches;
mod clock;
mod conditional;
mod deadline;
mod entry;
mod faults;
mod freshness;
mod invalidation;
mod join;
mod kept;
mod key;
mod layer;
mod lease;
mod mark;
#[cfg(feature = "memory")]
mod memory;
mod policy;
mod read_through;
#[cfg(feature = "redis")]
mod redis;
mod refusals;
mod report;
mod response;
#[cfg(all(test, feature = "memory"))]
mod rfc9111;
mod service;
mod stamps;
mod status;
mod store;
mod stream;
mod tag;
#[cfg(all(test, feature = "cluster"))]
mod tag_guarantee;
mod value;
mod value_entry;
mod wait;

pub use self::after_reply::{AfterReply, AfterReplyLayer};
pub use self::body::CachedBody;
pub use self::deadline::Deadline;
pub use self::entry::{DecodeError, Entry};
pub use self::freshness::Keep;
pub use self::key::{CacheKey, InvalidNamespace, Namespace};
pub use self::layer::ResponseCacheLayer;
#[cfg(feature = "memory")]
pub use self::memory::MemoryStore;
pub use self::policy::{InvalidBeta, InvalidRate, InvalidStatus, Policy};
#[cfg(feature = "iam")]
pub use self::redis::{AwsCredentials, IamName, IamSettings, InvalidIamName, MissingVariable};
#[cfg(feature = "tls")]
pub use self::redis::{InvalidCa, InvalidClientCertificate};
#[cfg(feature = "redis")]
pub use self::redis::{InvalidRedisUrl, RedisSettings, RedisStore};
pub use self::report::{Recorder, Report};
pub use self::service::ResponseCache;
pub use self::status::{CacheStatus, NotStored};
pub use self::store::{DynStore, Expected, FaultWord, Found, Store, StoreError};
pub use self::stream::{UndoneChange, invalidate_changes};
pub use self::tag::{InvalidTag, Tag};
pub use self::value::{IntoValue, ValueCache, ValueError, ValueKey};
