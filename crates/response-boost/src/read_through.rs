//! The core: looks an entry up, or loads and stores it. It stores nothing that is already invalidated, and of many
//! requests for one key only one loads. It serves responses and values alike (see [`kept`](crate::kept)), and knows
//! neither tower nor requests.
//!
//! [`ReadThrough::answer`] runs all steps: [`look`](ReadThrough::look) the key up; decide what to do, in one function
//! for each possible finding; [`Wait`] for another request's load and look again; [`load`](ReadThrough::load); and
//! [`settle`](ReadThrough::settle) the result of the load.

use std::convert::Infallible;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::Semaphore;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::after_reply;
use crate::audit::{Audit, Suspect, Suspicions};
use crate::budget::Budget;
use crate::clock::{Clock, whole_ms};
use crate::faults::Faults;
use crate::kept::{Content, LoadFailure, Loaded, Settled, Stored, Times};
use crate::lease::{Lease, Voids};
use crate::mark::{self, SHORT_LIFE};
use crate::refusals::Refusals;
use crate::report::{self, Part, Untold, record, timed};
use crate::stamps::{Stamp, Stamps, Tagging};
use crate::wait::Wait;
use crate::{
    CacheKey, CacheStatus, Expected, FaultWord, Found, NotStored, Policy, Store, StoreError, Tag,
};

/// How much longer than the life of a lease a request waits for a sign of life, to be sure that the lease has expired.
const PAST_THE_LEASE: Duration = Duration::from_millis(250);
/// Entries that load faster than this are never refreshed early, since that would gain nothing.
const EARLY_REFRESH_FROM: Duration = Duration::from_millis(5);
/// The inverse of the share of the remaining time that a load must leave for the answer. A load may use eleven
/// twelfths: more than a service that limits itself to nine tenths, so the service answers first, and less than a
/// gateway that times out at nineteen twentieths, so the gateway still gets the cache's answer.
const MARGIN: u32 = 12;
/// The number of random bits: as many as the mantissa of an `f64`.
const RANDOM_BITS: u32 = 53;
/// How many loads after replies may run at the same time. Further ones are skipped, because the next request for the
/// key asks for another.
const MOST_REFRESHES: usize = 64;
/// How many leading bytes identify a value: they include the unique id of an entry.
const FINGERPRINT_BYTES: usize = 64;
/// Where the report counts the time of a load. An audit has a field of its own.
const LOAD: Part = |report| &mut report.load;

#[derive(Debug)]
pub(crate) struct ReadThrough<S> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) clock: Clock,
}

/// What all requests of one layer share, whatever their policies.
#[derive(Debug)]
pub(crate) struct Shared<S> {
    pub(crate) store: S,
    pub(crate) voids: Voids,
    pub(crate) refusals: Refusals,
    pub(crate) suspicions: Suspicions,
    pub(crate) untold: Untold,
    faults: Faults,
    undecodable: Faults,
    refreshes: Semaphore,
}

/// The answer to one request.
pub(crate) enum Answer<L: Loaded, R> {
    /// A cacheable result, from the store or from a load.
    Cacheable {
        entry: L::Entry,
        age: Option<Duration>,
        status: CacheStatus,
        /// The load to run after the reply.
        refresh: Option<R>,
    },
    /// A result that may not be stored.
    Uncacheable { passed: L::Passed, status: CacheStatus },
}

/// What to do after the lookup.
enum Plan<S: Store, T> {
    Answer {
        entry: T,
        status: CacheStatus,
    },
    /// Serve the entry, which begins with `fingerprint`, and load it again after the reply.
    AnswerAndLoad {
        entry: T,
        status: CacheStatus,
        purpose: Purpose,
        fingerprint: Bytes,
    },
    Load(Box<Load<S, T>>),
}

/// A load to run after the reply, unless another request is already loading by then.
pub(crate) struct Refresh<F> {
    purpose: Purpose,
    /// The first bytes of the entry that was served.
    fingerprint: Bytes,
    standing: Standing,
    load: F,
}

/// Why to load after the reply.
enum Purpose {
    /// Replace the entry.
    Refresh(Reason),
    /// Compare the result with the entry, which has this content and these tags.
    Audit(Content, Vec<Stamp>),
}

/// The times of an entry that the cache serves if its load fails.
#[derive(Clone, Copy)]
struct Standing {
    times: Times,
    /// How long past its freshness the cache may serve it.
    stale_for: Duration,
}

/// The result of a load.
pub(crate) struct Done<L, E> {
    started_at_ms: u64,
    /// `None`: it exceeded its limit.
    pub(crate) loaded: Option<Result<L, E>>,
}

/// What to do next, if another request may already be loading.
enum Step<S: Store, T> {
    Go(Plan<S, T>),
    /// Look again after a pause. If this value is unchanged after `limit`, its holder is dead. If the request has no
    /// time to wait, it does `otherwise`.
    Wait {
        whose: Bytes,
        limit: Duration,
        otherwise: Box<Load<S, T>>,
    },
}

/// A load to run, and what to do with its result.
struct Load<S: Store, T> {
    right: Right,
    reason: Reason,
    /// The entry to serve if the load fails.
    standing: Option<T>,
    /// The lease on the key, or on the key beside it that announces a refresh.
    lease: Option<Lease<S>>,
    /// The ids of the tags before the load.
    stamps: Stamps,
}

/// What a fill may replace.
enum Right {
    /// This request's own lease.
    Lease(Bytes),
    /// The entry that this request read, which begins like this.
    Entry(Bytes),
    /// Anything: leases are off.
    Anything,
    /// Nothing, for this reason. `None`: the reason is not known, because the request waited in vain for another one or
    /// could not reach the store.
    Nothing(Option<NotStored>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    Miss,
    /// The request stopped waiting for another one's load.
    GaveUp,
    Stale,
    /// The entry is fresh, but about to expire.
    Early,
    Fault(FaultWord),
}

/// What a lookup found under a key.
enum Seen<T> {
    Fresh {
        entry: T,
        left: Duration,
        fingerprint: Bytes,
    },
    /// No longer fresh, but may still be served stale.
    Stale {
        entry: T,
        fingerprint: Bytes,
    },
    /// A pass: load, and store nothing.
    Pass,
    Vacant(Vacancy),
}

/// What a lookup found beside the key of a stale entry.
enum Announced {
    /// A refresh has just failed, with this status if the service sent one.
    Failed(Option<StatusCode>),
    /// The process that announced a refresh cannot store its result.
    Pass,
    Vacant(Vacancy),
}

/// What a lease may replace.
enum Vacancy {
    Nothing,
    /// Another lease.
    Lease(Bytes),
    /// A useless value, to be replaced if it still begins like this.
    Other(Bytes),
    /// A value of another Redis type.
    Foreign,
}

/// The outcome of an attempt to take a lease.
enum Taken<S: Store> {
    Lease(Lease<S>),
    /// Another request holds the lease, which has this value. Empty if that request was quicker: the next lookup shows
    /// its value.
    Another(Bytes),
    Fault(StoreError),
}

impl<S> ReadThrough<S> {
    pub(crate) fn new(store: S, policy: Policy, clock: Clock) -> Self {
        let (voids, refusals, suspicions, untold, faults, undecodable) = Default::default();
        let refreshes = Semaphore::new(MOST_REFRESHES);
        let shared = Arc::new(Shared {
            store,
            voids,
            refusals,
            suspicions,
            untold,
            faults,
            undecodable,
            refreshes,
        });
        Self { shared, policy: Arc::new(policy), clock }
    }

    /// The same core, for a request with its own policy.
    pub(crate) fn with_policy(&self, policy: Arc<Policy>) -> Self {
        Self { shared: Arc::clone(&self.shared), policy, clock: self.clock.clone() }
    }

    /// How long a request that ends at `ends_at_ms` may wait for the store.
    pub(crate) fn budget(&self, ends_at_ms: Option<u64>) -> Budget<'_> {
        Budget::new(self.policy.deadline, ends_at_ms, &self.clock)
    }
}

impl<S: Store> ReadThrough<S> {
    /// Answers a request for `key` with the stored entry, or with the result of `load`, which it stores if it may.
    ///
    /// Faults of the store are never an error here. They delay the request by the policy's deadline at most. If the
    /// whole request ends at `ends_at_ms`, the store gets at most half of the time left: the load and the transfer of
    /// the answer need the rest.
    ///
    /// `Err` is the error of `load`, when no entry may be served instead. Nothing is stored then.
    pub(crate) async fn answer<L: Loaded, E: fmt::Display, F>(
        self: &Arc<Self>,
        key: &CacheKey,
        tagging: Option<&Tagging>,
        ends_at_ms: Option<u64>,
        load: F,
    ) -> Result<Answer<L, Refresh<F>>, E>
    where
        F: Future<Output = Result<L, E>>,
    {
        self.shared.untold.tell();
        if self.policy.audit.is_some() {
            self.look_for_suspects();
        }
        let mut budget = self.budget(ends_at_ms);
        let plan = match budget.look::<_, L::Entry>(self, key, tagging, false).await {
            _ if tagging.is_some_and(|tagging| !tagging.is_valid()) => {
                Plan::load(Reason::Miss, Right::Nothing(Some(NotStored::Tags)))
            }
            Ok(Seen::Fresh { entry, left, fingerprint }) if !self.is_due(entry.times(), left) => {
                let status = hit(left);
                if self.policy.audit.is_some_and(Audit::samples)
                    && !self.shared.suspicions.has(&fingerprint)
                    && after_reply::can_load()
                {
                    let purpose = Purpose::Audit(entry.content(), entry.stamps().to_vec());
                    Plan::AnswerAndLoad { entry, status, purpose, fingerprint }
                } else {
                    Plan::Answer { entry, status }
                }
            }
            // On the heap, like everything that a hit does not need: this future is moved for each request.
            seen => Box::pin(self.plan(key, tagging, seen, &mut budget)).await,
        };
        let (entry, status, refresh) = match plan {
            Plan::Answer { entry, status } => (entry, status, None),
            Plan::AnswerAndLoad { entry, status, purpose, fingerprint } => {
                (entry, status, Some((purpose, fingerprint)))
            }
            Plan::Load(plan) => {
                let until_end = budget.until_end();
                let limit = self.load_limit(&plan, until_end);
                let loaded = self.load(key, tagging, plan, limit, load, &mut budget);
                return Box::pin(loaded).await;
            }
        };
        let times = entry.times();
        record(|report| report.saved = Some(times.load_cost));
        let age = Some(times.age(self.clock.now_ms()));
        let refresh = refresh.map(|(purpose, fingerprint)| Refresh {
            purpose,
            fingerprint,
            standing: self.standing(&entry),
            load,
        });
        Ok(Answer::Cacheable { entry, age, status, refresh })
    }

    /// Loads an entry again after the request has its answer. It gives up if the entry is no longer there, or if
    /// another request is loading it or has just failed to. An audit only compares the result. All of this is optional,
    /// so the first fault ends it.
    pub(crate) async fn refresh<L: Loaded, E: fmt::Display>(
        self: Arc<Self>,
        key: CacheKey,
        tagging: Option<Box<Tagging>>,
        Refresh { purpose, fingerprint, standing, load }: Refresh<
            impl Future<Output = Result<L, E>>,
        >,
        ends_at_ms: Option<u64>,
    ) {
        let Ok(_room) = self.shared.refreshes.try_acquire() else { return };
        let mut budget = self.budget(ends_at_ms);
        let reason = match purpose {
            Purpose::Refresh(reason) => reason,
            Purpose::Audit(content, stamps) => {
                let limit = self.limit_after_reply(budget.until_end());
                let done = self.run(&mut None, limit, load, |report| &mut report.audit).await;
                let entry = Suspect { key, fingerprint, stamps };
                return self.audit(entry, &content, done);
            }
        };
        let mut plan = Box::new(Load::<S, L::Entry>::new(reason, Right::Entry(fingerprint)));
        if let Some(lease) = self.policy.lease {
            if self.shared.refusals.forbid(self.clock.now_ms()) {
                return;
            }
            let life = announcement_life(standing.times, lease);
            let announced = self.claim(&key.refresh(), Expected::Nothing, life, &mut budget).await;
            let lease = match announced {
                Taken::Lease(lease) => lease,
                Taken::Another(_) => return,
                Taken::Fault(fault) => {
                    self.tell(&fault, "refresh not announced, and not made");
                    return;
                }
            };
            // Another request may have refreshed the entry since the reply.
            plan.lease = Some(lease);
            let seen = budget.look::<_, L::Entry>(&self, &key, tagging.as_deref(), true).await;
            if !seen.is_ok_and(|seen| plan.right.is_entry(&seen)) {
                return;
            }
        }
        if let Some(tagging) = &tagging {
            self.stamp(&key, tagging, &mut plan, &mut budget).await;
            if plan.expected().is_none() {
                return;
            }
        }
        let limit = self.limit_after_reply(budget.until_end());
        let mut budget = self.budget(ends_at_ms);
        let done = self.run(&mut plan.lease, limit, load, LOAD).await;
        if let Some(status) = self.stood_in(standing, reason, &mut plan.lease, &done) {
            debug!(cache_status = %status, "not refreshed after the reply");
            return;
        }
        match self.settle::<L, E, Infallible>(&key, plan, done, &mut budget).await {
            Ok(Answer::Cacheable { status, .. } | Answer::Uncacheable { status, .. }) => {
                debug!(cache_status = %status, "refreshed after the reply");
            }
            Err(error) => warn!(%error, "refresh after the reply failed"),
        }
    }

    /// Runs `work` after the reply, and adds it to the request's report. If `work` is spawned, the request does not
    /// wait for it, and a later request reports it.
    pub(crate) fn defer(&self, work: impl Future<Output = ()> + Send + 'static) {
        if after_reply::has_layer() {
            return after_reply::defer(report::afterwards(work));
        }
        let shared = Arc::clone(&self.shared);
        after_reply::defer(async move { shared.untold.watch(work).await });
    }

    /// How long a load after the reply may take.
    fn limit_after_reply(&self, until_end: Option<Duration>) -> Duration {
        let until_end = until_end.map_or(Duration::MAX, |left| {
            // Storing the result takes time too, but reserve no more for it than for the load.
            let limit = after_reply::limit(left);
            limit.saturating_sub(self.policy.deadline.min(limit / 2))
        });
        self.policy.load_limit.min(until_end)
    }

    async fn look<T: Stored>(&self, key: &CacheKey) -> Result<Seen<T>, StoreError> {
        Ok(self.seen(key, self.shared.store.get(key).await?))
    }

    /// Classifies what a lookup found.
    fn seen<T: Stored>(&self, key: &CacheKey, found: Found) -> Seen<T> {
        let now_ms = self.clock.now_ms();
        let value = match found {
            Found::Nothing => return Seen::Vacant(Vacancy::Nothing),
            Found::Foreign => return Seen::Vacant(Vacancy::Foreign),
            Found::Value(value) if mark::is_pass(&value, now_ms) => return Seen::Pass,
            Found::Value(value) if mark::token_of(&value).is_some() => {
                return Seen::Vacant(Vacancy::Lease(value));
            }
            Found::Value(value) => value,
        };
        let fingerprint = fingerprint(&value);
        let entry = match T::decode(key, &value) {
            Ok(entry) => entry,
            Err(error) => {
                // After a release that changed a type, this happens for every key, so the log is limited.
                if let Some(untold) = self.shared.undecodable.is_new(error.to_string(), now_ms) {
                    let untold = Some(untold).filter(|&untold| untold > 0);
                    warn!(%error, untold, "what is kept under the key is no entry; replacing it");
                }
                return Seen::Vacant(Vacancy::Other(fingerprint));
            }
        };
        let left = entry.times().fresh_for(now_ms);
        match Some(left).filter(|left| !left.is_zero()) {
            Some(left) => Seen::Fresh { entry, left, fingerprint },
            None if self.standing(&entry).may_stand_in(now_ms) => {
                Seen::Stale { entry, fingerprint }
            }
            None => Seen::Vacant(Vacancy::Other(fingerprint)),
        }
    }

    /// Reads the ids of the tags before the load. If that fails, the result of the load is not stored.
    async fn stamp<T>(
        &self,
        key: &CacheKey,
        tagging: &Tagging,
        plan: &mut Load<S, T>,
        budget: &mut Budget<'_>,
    ) {
        if plan.expected().is_none() {
            return;
        }
        match budget.spend(tagging.stamp(&self.shared.store)).await {
            Ok(stamps) => plan.stamps = stamps,
            Err(fault) => {
                let word = self.tell(&fault, "tags not read; the answer will not be kept");
                if let Right::Lease(_) = plan.right {
                    // Without a pass, each waiting request would take the lease and fail here too, one after another.
                    self.pass(key, plan, SHORT_LIFE, budget).await;
                }
                plan.right = Right::Nothing(Some(NotStored::of(&fault, word)));
            }
        }
    }

    /// Decides what to do with the result of the lookup. If another request is loading, waits and looks again.
    async fn plan<T: Stored>(
        self: &Arc<Self>,
        key: &CacheKey,
        tagging: Option<&Tagging>,
        mut seen: Result<Seen<T>, StoreError>,
        budget: &mut Budget<'_>,
    ) -> Plan<S, T> {
        let mut wait = Wait::new(budget.until_end(), self.policy.load_limit);
        // The stale entry that the last lookup found.
        let mut in_hand = None;
        loop {
            // Waiting does not count towards the deadline, so each lookup after a pause has a deadline of its own.
            let mut own = budget.with(self.policy.deadline);
            let budget = if wait.has_begun() { &mut own } else { &mut *budget };
            let step = match seen {
                Err(fault) => return self.without_store(&fault, in_hand),
                Ok(Seen::Fresh { entry, left, fingerprint }) => {
                    return match wait.status() {
                        Some(status) => Plan::Answer { entry, status },
                        None if self.refreshes_after_reply() => {
                            let ttl = whole_seconds(left);
                            Plan::after_reply(Reason::Early, entry, ttl, fingerprint)
                        }
                        None => self.refresh_early(key, entry, left, fingerprint, budget).await,
                    };
                }
                Ok(Seen::Stale { entry, fingerprint })
                    if self.may_revalidate(&entry) && self.refreshes_after_reply() =>
                {
                    let ttl = ttl_left(entry.times(), self.clock.now_ms());
                    return Plan::after_reply(Reason::Stale, entry, ttl, fingerprint);
                }
                Ok(Seen::Stale { entry, fingerprint }) => {
                    self.refresh_stale(key, entry, fingerprint, &wait, budget).await
                }
                Ok(Seen::Pass) => {
                    return Plan::load(wait.reason(), Right::Nothing(Some(NotStored::Pass)));
                }
                Ok(Seen::Vacant(vacancy)) => self.fill(key, &vacancy, &wait, budget).await,
            };
            let (whose, limit, mut otherwise) = match step {
                Step::Go(plan) => return plan,
                Step::Wait { whose, limit, otherwise } => (whose, limit, otherwise),
            };
            if !wait.watch(whose, otherwise.standing.is_some(), budget.until_end()) {
                if let Right::Nothing(why) = &mut otherwise.right {
                    *why = Some(NotStored::NoTime);
                }
                return Plan::Load(otherwise);
            }
            in_hand = otherwise.standing;
            timed(|report| &mut report.wait, wait.pause(limit)).await;
            seen = budget.with(self.policy.deadline).look(self, key, tagging, true).await;
        }
    }

    /// The store failed, so load without it. If the load fails too, a stale entry seen before is served.
    fn without_store<T>(&self, fault: &StoreError, standing: Option<T>) -> Plan<S, T> {
        let reason = Reason::Fault(self.tell(fault, "cache not read; loading without it"));
        let load = Load::new(reason, Right::Nothing(None));
        Plan::Load(Box::new(Load { standing, ..load }))
    }

    /// The store has no usable entry. The request that gets the lease loads and stores; the others wait for its result.
    ///
    /// While the store refuses this process's writes, requests take no leases and wait for nobody: each loads for
    /// itself.
    async fn fill<T: Stored>(
        self: &Arc<Self>,
        key: &CacheKey,
        vacancy: &Vacancy,
        wait: &Wait,
        budget: &mut Budget<'_>,
    ) -> Step<S, T> {
        let Some(life) = self.policy.lease else {
            return Step::Go(Plan::load(Reason::Miss, Right::Anything));
        };
        if self.shared.refusals.forbid(self.clock.now_ms()) {
            let right = Right::Nothing(Some(NotStored::FillRefused));
            return Step::Go(Plan::load(wait.reason(), right));
        }
        match self.take(key, vacancy, life, wait, budget).await {
            Taken::Lease(lease) => {
                let right = Right::Lease(lease.token().clone());
                let load = Load::new(Reason::Miss, right);
                Step::Go(Plan::Load(Box::new(Load { lease: Some(lease), ..load })))
            }
            Taken::Another(whose) => Step::Wait {
                whose,
                limit: life.saturating_add(PAST_THE_LEASE),
                otherwise: Box::new(Load::new(Reason::GaveUp, Right::Nothing(None))),
            },
            Taken::Fault(fault) => {
                let word = self.tell(&fault, "no lease; the answer will not be kept");
                let right = Right::Nothing(Some(NotStored::of(&fault, word)));
                Step::Go(Plan::load(wait.reason(), right))
            }
        }
    }

    /// The entry is stale. One request reloads it, and the others wait for the result. If a reload has just failed, the
    /// entry is served at once.
    ///
    /// The refresh is announced under a key of its own, beside the entry. The announcement only limits the number of
    /// loads: correctness does not depend on it, because a fill replaces only the entry that was read.
    async fn refresh_stale<T: Stored>(
        self: &Arc<Self>,
        key: &CacheKey,
        entry: T,
        fingerprint: Bytes,
        wait: &Wait,
        budget: &mut Budget<'_>,
    ) -> Step<S, T> {
        let refresh =
            |entry, right, lease| Box::new(Load::refresh(Reason::Stale, entry, right, lease));
        let go = |load| Step::Go(Plan::Load(load));
        let Some(lease) = self.policy.lease else {
            return go(refresh(entry, Right::Entry(fingerprint), None));
        };
        if self.shared.refusals.forbid(self.clock.now_ms()) {
            return go(refresh(entry, Right::Nothing(Some(NotStored::FillRefused)), None));
        }
        let beside = key.refresh();
        let right = Right::Entry(fingerprint);
        let vacancy = match budget.spend(self.shared.store.get(&beside)).await {
            Ok(found) => match self.announced(found) {
                Announced::Failed(status) => {
                    let ttl = ttl_left(entry.times(), self.clock.now_ms());
                    let status = CacheStatus::StoodIn { status, ttl };
                    return Step::Go(Plan::Answer { entry, status });
                }
                Announced::Pass => return go(refresh(entry, right, None)),
                Announced::Vacant(vacancy) => vacancy,
            },
            Err(fault) => {
                self.tell(&fault, "refresh not announced");
                return go(refresh(entry, right, None));
            }
        };
        let life = announcement_life(entry.times(), lease);
        match self.take(&beside, &vacancy, life, wait, budget).await {
            Taken::Lease(lease) => go(refresh(entry, right, Some(lease))),
            Taken::Another(whose) => Step::Wait {
                whose,
                limit: life.saturating_add(PAST_THE_LEASE),
                otherwise: refresh(entry, right, None),
            },
            Taken::Fault(fault) => {
                self.tell(&fault, "refresh not announced");
                go(refresh(entry, right, None))
            }
        }
    }

    /// The entry is fresh but about to expire. Reloads it, unless another request is doing so or has just failed to, or
    /// the store refuses writes. Otherwise the entry is the answer.
    async fn refresh_early<T: Stored>(
        self: &Arc<Self>,
        key: &CacheKey,
        entry: T,
        left: Duration,
        fingerprint: Bytes,
        budget: &mut Budget<'_>,
    ) -> Plan<S, T> {
        let lease = match self.policy.lease {
            None => None,
            Some(lease) => {
                let (beside, life) = (key.refresh(), announcement_life(entry.times(), lease));
                let is_forbidden = self.shared.refusals.forbid(self.clock.now_ms());
                let taken = if is_forbidden {
                    Taken::Another(Bytes::new())
                } else {
                    self.claim(&beside, Expected::Nothing, life, budget).await
                };
                if let Taken::Fault(fault) = &taken {
                    self.tell(fault, "refresh not announced");
                }
                let Taken::Lease(lease) = taken else {
                    return Plan::Answer { entry, status: hit(left) };
                };
                Some(lease)
            }
        };
        let load = Load::refresh(Reason::Early, entry, Right::Entry(fingerprint), lease);
        Plan::Load(Box::new(load))
    }

    /// Classifies what a lookup found beside a key.
    fn announced(&self, found: Found) -> Announced {
        let now_ms = self.clock.now_ms();
        let value = match found {
            Found::Nothing => return Announced::Vacant(Vacancy::Nothing),
            Found::Foreign => return Announced::Vacant(Vacancy::Foreign),
            Found::Value(value) => value,
        };
        if let Some(status) = mark::failure_of(&value, now_ms) {
            Announced::Failed(status)
        } else if mark::is_pass(&value, now_ms) {
            Announced::Pass
        } else if mark::token_of(&value).is_some() {
            Announced::Vacant(Vacancy::Lease(value))
        } else {
            Announced::Vacant(Vacancy::Other(fingerprint(&value)))
        }
    }

    /// Takes the lease on `key`, unless its holder is another request that is alive.
    ///
    /// It takes over at once a lease of this process whose load has ended. It also takes over a lease that has shown no
    /// sign of life for longer than its life: something removed its TTL. When a request first meets another's lease, it
    /// tries to claim one anyway. A store that refuses the claim would refuse the fill too, so waiting would be
    /// pointless.
    async fn take(
        self: &Arc<Self>,
        key: &CacheKey,
        vacancy: &Vacancy,
        life: Duration,
        wait: &Wait,
        budget: &mut Budget<'_>,
    ) -> Taken<S> {
        let limit = life.saturating_add(PAST_THE_LEASE);
        let is_void =
            |held| mark::token_of(held).is_some_and(|token| self.shared.voids.has(&token));
        let expected = match vacancy {
            Vacancy::Nothing => Expected::Nothing,
            Vacancy::Other(start) => Expected::StartsWith(start),
            Vacancy::Foreign => Expected::Foreign,
            Vacancy::Lease(held) if is_void(held) || wait.is_over(held, limit) => {
                Expected::StartsWith(held)
            }
            Vacancy::Lease(_) if !wait.has_begun() => Expected::Nothing,
            Vacancy::Lease(held) => return Taken::Another(held.clone()),
        };
        match (self.claim(key, expected, life, budget).await, vacancy) {
            (Taken::Another(_), Vacancy::Lease(held)) => Taken::Another(held.clone()),
            (taken, _) => taken,
        }
    }

    /// Stores a new token under `key`, if the key holds what is expected.
    async fn claim(
        self: &Arc<Self>,
        key: &CacheKey,
        expected: Expected<'_>,
        life: Duration,
        budget: &mut Budget<'_>,
    ) -> Taken<S> {
        // Created before the claim, so that dropping it releases the lease even if the reply is lost or not awaited.
        let mut lease = Lease::new(self, key, life);
        let claim = self.shared.store.put(key, expected, lease.token().clone(), life);
        match budget.spend(claim).await {
            Ok(true) => Taken::Lease(lease),
            Ok(false) => {
                lease.is_gone();
                // The token may be stored anyway, if this reply belongs to a second attempt.
                self.shared.voids.add(lease.token().clone());
                Taken::Another(Bytes::new())
            }
            Err(fault) => {
                // These faults mean that the token was not stored. Unlike a refused fill, a refused claim makes nobody
                // wait, so the next request may claim at once.
                if let StoreError::Reply { .. } | StoreError::BreakerOpen = fault {
                    lease.is_gone();
                }
                Taken::Fault(fault)
            }
        }
    }

    fn standing<T: Stored>(&self, entry: &T) -> Standing {
        Standing { times: entry.times(), stale_for: entry.stale_for(&self.policy).longest() }
    }

    /// Whether a stale entry may be served while it is reloaded.
    fn may_revalidate<T: Stored>(&self, entry: &T) -> bool {
        let (times, window) = (entry.times(), entry.stale_for(&self.policy).while_revalidate);
        times.age(self.clock.now_ms()) < times.ttl.saturating_add(window)
    }

    fn refreshes_after_reply(&self) -> bool {
        !self.policy.refreshes_inline && after_reply::can_load()
    }

    /// Whether to reload a fresh entry before it expires. The closer its end and the longer its load took, the likelier
    /// (`XFetch`: Vattani et al., Optimal Probabilistic Cache Stampede Prevention, VLDB '15). So usually a single
    /// reader reloads it, shortly before all of them would have to.
    ///
    /// Only in the last tenth of the TTL, so that even many readers cause few additional loads. And only if the entry
    /// outlives the load, because another request would load too once it has expired.
    fn is_due(&self, times: Times, left: Duration) -> bool {
        let scale = times.load_cost.as_secs_f64() * self.policy.early_refresh;
        // No random number gives more than this, so most hits need none.
        let furthest = scale * f64::from(RANDOM_BITS) * std::f64::consts::LN_2;
        times.load_cost >= EARLY_REFRESH_FROM
            && (times.load_cost..=times.ttl / 10).contains(&left)
            && left.as_secs_f64() <= furthest
            && left.as_secs_f64() <= scale * -random().ln()
    }

    /// Loads, and handles the result.
    async fn load<L: Loaded, E: fmt::Display, R>(
        self: &Arc<Self>,
        key: &CacheKey,
        tagging: Option<&Tagging>,
        mut plan: Box<Load<S, L::Entry>>,
        limit: Duration,
        load: impl Future<Output = Result<L, E>>,
        budget: &mut Budget<'_>,
    ) -> Result<Answer<L, R>, E> {
        if let Some(tagging) = tagging {
            self.stamp(key, tagging, &mut plan, budget).await;
        }
        let done = self.run(&mut plan.lease, limit, load, LOAD).await;
        if let Some(entry) = plan.standing.take() {
            let standing = self.standing(&entry);
            if let Some(status) = self.stood_in(standing, plan.reason, &mut plan.lease, &done) {
                let age = Some(standing.times.age(self.clock.now_ms()));
                return Ok(Answer::Cacheable { entry, age, status, refresh: None });
            }
        }
        self.settle(key, plan, done, budget).await
    }

    /// Runs a load within its limit, and renews the lease meanwhile.
    async fn run<L, E>(
        &self,
        lease: &mut Option<Lease<S>>,
        limit: Duration,
        load: impl Future<Output = Result<L, E>>,
        part: Part,
    ) -> Done<L, E> {
        // The age of a response counts from before its request (RFC 9111 §4.2.3), since the data may change while the
        // response is on its way.
        let started_at_ms = self.clock.now_ms();
        let loading = tokio::time::timeout(limit, load);
        let loading = async {
            match lease {
                Some(lease) => lease.during(loading).await,
                None => loading.await,
            }
        };
        let loaded = timed(part, loading).await.ok();
        Done { started_at_ms, loaded }
    }

    /// How long a load may take: the policy's limit, or less so that the request has time left to answer.
    ///
    /// An early refresh is optional. It may take a little more than twice as long as the previous load, and no longer
    /// than the entry stays fresh, because the entry is the answer if the refresh fails.
    fn load_limit<T: Stored>(&self, load: &Load<S, T>, until_end: Option<Duration>) -> Duration {
        let until_end = until_end.map_or(Duration::MAX, |left| left / MARGIN * (MARGIN - 1));
        let limit = self.policy.load_limit.min(until_end);
        match &load.standing {
            Some(entry) if load.reason == Reason::Early => {
                let times = entry.times();
                limit.min(times.fresh_for(self.clock.now_ms())).min(twice_the_load(times))
            }
            _ => limit,
        }
    }

    /// The status if the load failed and the existing entry is served instead. `None`: the load succeeded, or the entry
    /// is too old to serve.
    fn stood_in<L: Loaded, E: fmt::Display>(
        &self,
        standing: Standing,
        reason: Reason,
        lease: &mut Option<Lease<S>>,
        done: &Done<L, E>,
    ) -> Option<CacheStatus> {
        let is_early = reason == Reason::Early;
        let failure = done.failure(is_early)?;
        let now_ms = self.clock.now_ms();
        // An early refresh started from a fresh entry, which is served whatever happened to the refresh.
        if !is_early && !standing.may_stand_in(now_ms) {
            return None;
        }
        warn!(failure = failure.what, "load failed; the entry that is kept stands in");
        if let Some(lease) = lease {
            lease.has_failed(failure.status);
        }
        let ttl = ttl_left(standing.times, now_ms);
        Some(CacheStatus::StoodIn { status: failure.status, ttl })
    }

    /// Stores the result of a load, or passes it on unstored, when no existing entry is served instead.
    async fn settle<L: Loaded, E: fmt::Display, R>(
        &self,
        key: &CacheKey,
        mut plan: Box<Load<S, L::Entry>>,
        Done { started_at_ms, loaded }: Done<L, E>,
        budget: &mut Budget<'_>,
    ) -> Result<Answer<L, R>, E> {
        let now_ms = self.clock.now_ms();
        let loaded = match loaded {
            Some(Ok(loaded)) => loaded,
            Some(Err(error)) => {
                self.pass(key, &mut plan, SHORT_LIFE, budget).await;
                return Err(error);
            }
            None => {
                warn!("load cut off: it takes longer than it may");
                self.pass(key, &mut plan, SHORT_LIFE, budget).await;
                let status = plan.reason.status(Err(Some(NotStored::CutOff)));
                return Ok(Answer::Uncacheable { passed: L::cut_off(), status });
            }
        };
        let load_cost = Duration::from_millis(now_ms.saturating_sub(started_at_ms));
        match loaded.settled(started_at_ms, load_cost) {
            Settled::Passed(passed, why) => {
                self.pass(key, &mut plan, mark::life_of(why), budget).await;
                let status = plan.reason.status(Err(Some(why)));
                Ok(Answer::Uncacheable { passed, status })
            }
            Settled::Kept(mut entry, named) => {
                let stored = self.keep(key, &mut plan, &mut entry, &named, budget).await;
                let times = entry.times();
                let was_older = times.load_started_at_ms < started_at_ms;
                let age = was_older.then(|| times.age(now_ms));
                let status = plan.reason.status(stored);
                Ok(Answer::Cacheable { entry, age, status, refresh: None })
            }
        }
    }

    /// Stores the entry. `Err`: it is not stored, or that is unknown; with the reason, if that is known.
    async fn keep<T: Stored>(
        &self,
        key: &CacheKey,
        plan: &mut Load<S, T>,
        entry: &mut T,
        named: &[Tag],
        budget: &mut Budget<'_>,
    ) -> Result<(), Option<NotStored>> {
        if plan.expected().is_none() {
            return Err(match plan.right {
                Right::Nothing(why) => why,
                // The lease was lost during the load: this process withdrew it after a refusal, or something removed
                // it.
                _ if self.shared.refusals.forbid(self.clock.now_ms()) => {
                    Some(NotStored::FillRefused)
                }
                _ => Some(NotStored::Invalidated),
            });
        }
        let fresh_for = entry.times().fresh_for(self.clock.now_ms());
        if fresh_for < Duration::from_millis(1) {
            self.pass(key, plan, mark::life_of(NotStored::SlowLoad), budget).await;
            return Err(Some(NotStored::SlowLoad));
        }
        let life = fresh_for.saturating_add(entry.stale_for(&self.policy).longest());
        if !(named.is_empty() && plan.stamps.is_empty()) {
            self.tag(key, plan, entry, (named, life), budget).await?;
        }
        let Some(expected) = plan.expected() else { return Err(Some(NotStored::Invalidated)) };
        let bytes = entry.encode(key);
        if bytes.len() > self.policy.max_entry_bytes {
            self.pass(key, plan, mark::life_of(NotStored::TooLarge), budget).await;
            return Err(Some(NotStored::TooLarge));
        }
        match budget.spend(self.shared.store.put(key, expected, bytes, life)).await {
            Ok(stored) => {
                self.shared.refusals.accepted();
                plan.is_over();
                if stored { Ok(()) } else { Err(Some(NotStored::Invalidated)) }
            }
            Err(fault) => {
                let word = self.tell(&fault, "answer not kept");
                if let StoreError::Reply { .. } = fault {
                    self.shared.refusals.refused(self.clock.now_ms());
                    if !matches!(plan.right, Right::Lease(_)) || self.withdraw(key, budget).await {
                        plan.is_over();
                    }
                }
                Err(Some(NotStored::of(&fault, word)))
            }
        }
    }

    /// Sets the ids of the tags in an entry that is about to be stored for `life`. `Err`: it may not be stored.
    async fn tag<T: Stored>(
        &self,
        key: &CacheKey,
        plan: &mut Load<S, T>,
        entry: &mut T,
        (named, life): (&[Tag], Duration),
        budget: &mut Budget<'_>,
    ) -> Result<(), Option<NotStored>> {
        let stamps = std::mem::take(&mut plan.stamps);
        match Box::pin(self.stamps_of(key, stamps, named, life, budget)).await {
            Ok(stamps) => {
                entry.set_stamps(stamps);
                Ok(())
            }
            Err(NotStored::Tags) => {
                self.pass(key, plan, mark::life_of(NotStored::Tags), budget).await;
                Err(Some(NotStored::Tags))
            }
            // Dropping the lease releases it, so that another request loads.
            Err(why) => Err(Some(why)),
        }
    }

    /// Replaces the lease by a pass, because this load gave nothing to store. Waiting requests, and those that arrive
    /// within `life`, load at once. Without the pass they would queue up and take the lease one after another.
    async fn pass<T>(
        &self,
        key: &CacheKey,
        plan: &mut Load<S, T>,
        life: Duration,
        budget: &mut Budget<'_>,
    ) {
        let Some(expected @ Expected::StartsWith(_)) = plan.expected() else {
            return;
        };
        let pass = mark::new_pass(self.clock.now_ms());
        match budget.spend(self.shared.store.put(key, expected, pass, life)).await {
            Ok(_) => plan.is_over(),
            Err(fault) => {
                self.tell(&fault, "lease not given up");
                if let StoreError::Reply { .. } = fault {
                    self.shared.refusals.refused(self.clock.now_ms());
                    if self.withdraw(key, budget).await {
                        plan.is_over();
                    }
                }
            }
        }
    }

    /// Overwrites the value under `key` after the store refused a conditional write: it may be full, or forbid scripts.
    /// Otherwise others would wait in vain for a lease to expire.
    ///
    /// It writes a pass, which is safe whatever it replaces, and if that fails it deletes the key. Returns whether
    /// either succeeded.
    pub(crate) async fn withdraw(&self, key: &CacheKey, budget: &mut Budget<'_>) -> bool {
        let pass = mark::new_pass(self.clock.now_ms());
        let put = self.shared.store.put(key, Expected::Anything, pass, SHORT_LIFE);
        if budget.spend(put).await.is_ok() {
            return true;
        }
        let removed = budget.spend(self.shared.store.delete(key)).await;
        if let Err(fault) = &removed {
            self.tell(fault, "not removed either; it stands until it ends");
        }
        removed.is_ok()
    }
}

impl<S: Store> ReadThrough<S> {
    /// Reports and logs a fault of the store where it is handled, and returns its word.
    pub(crate) fn tell(&self, fault: &StoreError, consequence: &str) -> FaultWord {
        let word = fault.word(self.shared.store.name());
        record(|report| {
            report.faults += 1;
            // The fault itself says more than the open breaker after it.
            if report.fault.is_none() || !matches!(fault, StoreError::BreakerOpen) {
                report.fault = Some(word);
            }
        });
        if let Some(untold) = self.shared.faults.is_news(fault, consequence, self.clock.now_ms()) {
            let cause = std::error::Error::source(fault).map(ToString::to_string);
            let breaker_open_ms = self.shared.store.breaker_open_for().map(whole_ms);
            let untold = Some(untold).filter(|&untold| untold > 0);
            warn!(fault = word.to_string(), error = %fault, cause, breaker_open_ms, untold, "{consequence}");
        }
        word
    }
}

impl<S: Store, T> Plan<S, T> {
    fn load(reason: Reason, right: Right) -> Self {
        Self::Load(Box::new(Load::new(reason, right)))
    }

    /// Serves the entry, and reloads it after the reply.
    fn after_reply(reason: Reason, entry: T, ttl: i64, fingerprint: Bytes) -> Self {
        let status = CacheStatus::Hit { ttl, refreshes: true };
        let purpose = Purpose::Refresh(reason);
        Self::AnswerAndLoad { entry, status, purpose, fingerprint }
    }
}

impl Standing {
    fn may_stand_in(self, now_ms: u64) -> bool {
        self.times.age(now_ms) < self.times.ttl.saturating_add(self.stale_for)
    }
}

impl<L: Loaded, E: fmt::Display> Done<L, E> {
    /// Why the result may not replace an existing entry. `None`: it may.
    fn failure(&self, is_fresh: bool) -> Option<LoadFailure> {
        let what = match &self.loaded {
            Some(Ok(loaded)) => return loaded.failure(is_fresh),
            Some(Err(error)) => error.to_string(),
            None => "cut off at its limit".to_owned(),
        };
        Some(LoadFailure { status: None, what })
    }
}

impl<T: Stored> Seen<T> {
    /// The tags of the entry, if one was found.
    fn stamps(&self) -> &[Stamp] {
        match self {
            Self::Fresh { entry, .. } | Self::Stale { entry, .. } => entry.stamps(),
            Self::Pass | Self::Vacant(_) => &[],
        }
    }

    /// The same after one of the entry's tags was invalidated: the entry may only be replaced.
    fn dead(self) -> Self {
        match self {
            Self::Fresh { fingerprint, .. } | Self::Stale { fingerprint, .. } => {
                Self::Vacant(Vacancy::Other(fingerprint))
            }
            other @ (Self::Pass | Self::Vacant(_)) => other,
        }
    }
}

impl Right {
    /// Whether `seen` is the entry that may be replaced.
    fn is_entry<T>(&self, seen: &Seen<T>) -> bool {
        let (Seen::Fresh { fingerprint, .. } | Seen::Stale { fingerprint, .. }) = seen else {
            return false;
        };
        matches!(self, Self::Entry(start) if start == fingerprint)
    }
}

impl<S: Store, T> Load<S, T> {
    fn new(reason: Reason, right: Right) -> Self {
        Self { right, reason, standing: None, lease: None, stamps: Stamps::default() }
    }

    /// A load that replaces the entry `standing`.
    fn refresh(reason: Reason, standing: T, right: Right, lease: Option<Lease<S>>) -> Self {
        Self { standing: Some(standing), lease, ..Self::new(reason, right) }
    }

    /// What the key must hold for a fill. `None`: nothing may be stored.
    fn expected(&self) -> Option<Expected<'_>> {
        match &self.right {
            Right::Lease(_) if self.lease.as_ref().is_none_or(Lease::has_gone) => None,
            Right::Lease(start) | Right::Entry(start) => Some(Expected::StartsWith(start)),
            Right::Anything => Some(Expected::Anything),
            Right::Nothing(_) => None,
        }
    }

    /// Skips the release of the lease: its token was replaced, or no request waits for it any more.
    fn is_over(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.is_gone();
        }
    }
}

impl Reason {
    fn status(self, stored: Result<(), Option<NotStored>>) -> CacheStatus {
        let (stored, detail) = (stored.is_ok(), stored.err().flatten());
        let stale = |early| CacheStatus::Stale { stored, collapsed: false, early, detail };
        match self {
            Self::Miss => CacheStatus::Miss { stored, collapsed: None, detail },
            Self::GaveUp => CacheStatus::Miss { stored, collapsed: Some(false), detail },
            Self::Stale => stale(false),
            Self::Early => stale(true),
            Self::Fault(detail) => CacheStatus::Bypass { detail },
        }
    }
}

impl NotStored {
    /// Why a fault of the store left the response unstored.
    pub(crate) fn of(fault: &StoreError, word: FaultWord) -> Self {
        match fault {
            StoreError::Reply { .. } => Self::FillRefused,
            _ => Self::Fault(word),
        }
    }
}

impl Wait {
    /// Why a request loads, depending on whether it has waited.
    fn reason(&self) -> Reason {
        if self.has_begun() { Reason::GaveUp } else { Reason::Miss }
    }
}

impl Budget<'_> {
    /// Looks up an entry and checks its tags. Only a repeated lookup reliably reports [`Found::Foreign`], because
    /// [`Store::get_many`] need not.
    async fn look<S: Store, T: Stored>(
        &mut self,
        core: &ReadThrough<S>,
        key: &CacheKey,
        tagging: Option<&Tagging>,
        is_again: bool,
    ) -> Result<Seen<T>, StoreError> {
        let limit = core.shared.store.get_limit();
        // On the heap: an entry without tags does not need it.
        let Some(tagging) = tagging else {
            let seen = self.spend_within(limit, pin!(core.look::<T>(key))).await?;
            if seen.stamps().is_empty() {
                return Ok(seen);
            }
            return Box::pin(self.alive(core, seen, None)).await;
        };
        Box::pin(async {
            if !tagging.is_valid() {
                return Ok(Seen::Pass);
            }
            let keys: Vec<_> = [key].into_iter().chain(tagging.keys()).collect();
            let store = &core.shared.store;
            let (seen, found) = if is_again {
                // A waiting request usually finds no entry yet, and then needs no tags.
                let seen = self.spend_within(limit, pin!(core.look::<T>(key))).await?;
                if let Seen::Pass | Seen::Vacant(_) = seen {
                    return Ok(seen);
                }
                (seen, self.look_up(store, &keys[1..]).await?)
            } else {
                let mut found = self.look_up(store, &keys).await?;
                (core.seen(key, found.remove(0)), found)
            };
            self.alive(core, seen, Some((tagging, found))).await
        })
        .await
    }

    /// What was seen, with its tags checked.
    async fn alive<S: Store, T: Stored>(
        &mut self,
        core: &ReadThrough<S>,
        seen: Seen<T>,
        tagging: Option<(&Tagging, Vec<Found>)>,
    ) -> Result<Seen<T>, StoreError> {
        let is_alive = core.is_alive(seen.stamps(), tagging, self).await?;
        Ok(if is_alive { seen } else { seen.dead() })
    }
}

/// The status of an entry that stays fresh for `left`.
fn hit(left: Duration) -> CacheStatus {
    CacheStatus::Hit { ttl: whole_seconds(left), refreshes: false }
}

fn whole_seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

fn fingerprint(value: &Bytes) -> Bytes {
    value.slice(..value.len().min(FINGERPRINT_BYTES))
}

/// Seconds of freshness left, rounded down; negative if the entry is stale.
fn ttl_left(times: Times, now_ms: u64) -> i64 {
    let age = times.age(now_ms);
    if let Some(left) = times.ttl.checked_sub(age) {
        return whole_seconds(left);
    }
    let over = age.saturating_sub(times.ttl);
    -whole_seconds(over) - i64::from(over.subsec_nanos() > 0)
}

/// How long an announcement lives without a renewal: no longer than a lease, nor than the load should take, so that it
/// has expired by the time of the next refresh.
fn announcement_life(standing: Times, lease: Duration) -> Duration {
    twice_the_load(standing).min(lease)
}

/// A little more than twice as long as the load of the entry took.
fn twice_the_load(standing: Times) -> Duration {
    standing.load_cost.saturating_mul(2).saturating_add(Wait::LONGEST_PAUSE)
}

/// A random number above 0 and at most 1.
pub(crate) fn random() -> f64 {
    // Both numbers have no more bits than the mantissa of an `f64`, so the conversion is exact.
    #[expect(clippy::cast_precision_loss)]
    let (number, end) =
        ((Uuid::new_v4().as_u128() >> (128 - RANDOM_BITS)) as f64, (1_u64 << RANDOM_BITS) as f64);
    (number + 1.0) / end
}
