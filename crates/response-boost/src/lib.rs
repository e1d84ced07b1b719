//! A read-through response cache as a tower layer.
//!
//! [`ResponseCacheLayer`] is the layer. It asks a function of yours for the [`CacheKey`] of a request,
//! looks the key up in a [`Store`], and answers from the [`Entry`] found there; else it asks the
//! service inside and keeps what that answers, as the [`Policy`] allows.
//!
//! [`ValueCache`] is the second way in: the same for what a function of yours returns, by
//! `users.get_or_load(["user", "1"], || find(1))`. All that follows holds of values too.
//!
//! While one loads, others that ask for the same key wait for its answer, and what was read before an
//! invalidation is not kept after it. What that guarantees, word for word:
//!
//! > A request that begins after an invalidation has returned success is never answered with an older
//! > version, provided that the write is visible to loads before the invalidation starts, loads are
//! > strongly consistent, and leases are on. Requests that were already running may answer what they
//! > had read. Not covered, and bounded by the entry's remaining life: a fail-over or a restore that
//! > forgets the deletion, a demoted primary that still answers, invalidations that the stream gave up.
//! > Bounded by their own lifetime: client caches (`max-age`).
//!
//! The same holds of a [`Tag`], which names a group of entries and invalidates them all by one call.
//!
//! **What the service says of its response counts**, by RFC 9111: its `Cache-Control`, `Expires`, `Vary`, `ETag`, or the
//! extension [`Keep`], which no client sees. [`ResponseCacheLayer`] has a table of what each directive does.
//!
//! Two stores come with it: [`RedisStore`] for all environments of a function together, and
//! [`MemoryStore`] for one process alone.
//!
//! **A fault of the store never fails a request**: it makes it slower, by the policy's deadline at
//! most, and is told in the `Cache-Status` header, the [`Report`] and the log.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod after_reply;
mod audit;
mod body;
mod budget;
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
