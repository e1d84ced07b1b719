//! The core: look up, else load and keep, so that nothing that is old is kept and nothing is loaded
//! by everyone at once. What it stores are responses or values (see [`kept`](crate::kept)); it knows neither tower nor
//! requests.
//!
//! [`ReadThrough::answer`] is the whole of it, in steps: [`look`](ReadThrough::look), decide (a function for each
//! thing that can be seen), [`Wait`] for another's fill and look again, [`load`](ReadThrough::load), and
//! [`settle`](ReadThrough::settle) what becomes of the load.

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
use crate::kept::{Content, Failure, Loaded, Settled, Stored, Times};
use crate::lease::{Lease, Voids};
use crate::mark::{self, SHORT_LIFE};
use crate::refusals::Refusals;
use crate::report::{self, Part, Untold, record, timed};
use crate::stamps::{Stamp, Stamps, Tagging};
use crate::wait::Wait;
use crate::{
    CacheKey, CacheStatus, Expected, FaultWord, Found, NotStored, Policy, Store, StoreError, Tag,
};

/// How much longer than a lease lasts one waits for a sign of life, so as to see that it has ended.
const PAST_THE_LEASE: Duration = Duration::from_millis(250);
/// Loads that take less than this are never made early: there is nothing to be gained.
const EARLY_REFRESH_FROM: Duration = Duration::from_millis(5);
/// Which part of the time that a request has left is kept for answering when its load is cut off. A service that
/// keeps to nine tenths of that time answers before; a gateway that gives up at nineteen twentieths, after it.
const MARGIN: u32 = 12;
/// How many bits of a random number are used: as many as a floating point number holds.
const RANDOM_BITS: u32 = 53;
/// How many loads a server makes after replies at the same time. Those that there is no room for are left out: the next
/// request for their key asks for one again.
const MOST_REFRESHES: usize = 64;
/// As much of a value as tells it from all others: an entry's unique id is within it.
const FINGERPRINT_BYTES: usize = 64;
/// The part of the report for the time of a load. An audit has a part of its own.
const LOAD: Part = |report| &mut report.load;

#[derive(Debug)]
pub(crate) struct ReadThrough<S> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) clock: Clock,
}

/// What the requests of one layer have in common, whatever policy each goes by.
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

/// What a request is to be answered with.
pub(crate) enum Answer<L: Loaded, R> {
    /// An answer that may be kept, whether it came from the store or was just loaded.
    Cacheable {
        entry: L::Entry,
        age: Option<Duration>,
        status: CacheStatus,
        /// What is to be done after the reply.
        refresh: Option<R>,
    },
    /// An answer that is not kept, as it was loaded.
    Uncacheable { passed: L::Passed, status: CacheStatus },
}

/// What to do after the look.
enum Plan<S: Store, T> {
    Answer {
        entry: T,
        status: CacheStatus,
    },
    /// The entry, which begins like this, is the answer, and the cache loads it again after the reply.
    AnswerAndLoad {
        entry: T,
        status: CacheStatus,
        purpose: Purpose,
        fingerprint: Bytes,
    },
    Load(Box<Load<S, T>>),
}

/// A load that is to be made after the reply, if nobody else is at it by then.
pub(crate) struct Refresh<F> {
    purpose: Purpose,
    /// The entry that was answered begins like this.
    fingerprint: Bytes,
    standing: Standing,
    load: F,
}

/// What a load after the reply is for.
enum Purpose {
    /// To replace the entry.
    Refresh(Reason),
    /// To compare it with the entry, which has this content and these tags.
    Audit(Content, Vec<Stamp>),
}

/// What is to be known of an entry that is answered if its load gives nothing better.
#[derive(Clone, Copy)]
struct Standing {
    times: Times,
    /// How long past its freshness it may be.
    stale_for: Duration,
}

/// What came of a load.
pub(crate) struct Done<L, E> {
    started_at_ms: u64,
    /// `None`: it was cut off.
    pub(crate) loaded: Option<Result<L, E>>,
}

/// The same where another may be at it.
enum Step<S: Store, T> {
    Go(Plan<S, T>),
    /// Look again in a moment. This value is to be gone by then or to differ, or it is no sign of life after
    /// `limit`. Where there is no time to wait, load.
    Wait {
        whose: Bytes,
        limit: Duration,
        otherwise: Box<Load<S, T>>,
    },
}

/// Why to load, and what may become of it.
struct Load<S: Store, T> {
    right: Right,
    reason: Reason,
    /// What is answered if the load gives nothing better.
    standing: Option<T>,
    /// The lease of the key, or the announcement of a refresh beside it.
    lease: Option<Lease<S>>,
    /// The ids of its tags.
    stamps: Stamps,
}

/// What a fill may replace.
enum Right {
    /// One's own lease.
    Lease(Bytes),
    /// The entry that was read, which begins like this.
    Entry(Bytes),
    /// Whatever is there: leases are off.
    Anything,
    /// Nothing, for this reason. `None`: another process was waited for in vain.
    Nothing(Option<NotStored>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    Miss,
    /// It was not waited for any longer.
    GaveUp,
    Stale,
    /// The entry is fresh, and about to end.
    Early,
    Fault(FaultWord),
}

/// What was found under a key.
enum Seen<T> {
    Fresh {
        entry: T,
        left: Duration,
        fingerprint: Bytes,
    },
    /// Past its freshness, and within the time in which it may stand in.
    Stale {
        entry: T,
        fingerprint: Bytes,
    },
    /// There is nothing to keep: load.
    Pass,
    Vacant(Vacancy),
}

/// What was found beside a key whose entry is past its freshness.
enum Announced {
    /// A refresh has failed a moment ago, with this status if it had one.
    Failed(Option<StatusCode>),
    /// Whoever announced it cannot store anything.
    Pass,
    Vacant(Vacancy),
}

/// Where a lease may be put.
enum Vacancy {
    Nothing,
    /// Another lease is there.
    Lease(Bytes),
    /// Something that is of no use, and is to be replaced if it still begins like this.
    Other(Bytes),
    /// Another Redis type.
    Foreign,
}

/// What comes of the wish for a lease.
enum Taken<S: Store> {
    Lease(Lease<S>),
    /// Another has it. Not known who where somebody was quicker: the next look will tell.
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

    /// The same for a request that goes by another policy.
    pub(crate) fn with_policy(&self, policy: Arc<Policy>) -> Self {
        Self { shared: Arc::clone(&self.shared), policy, clock: self.clock.clone() }
    }

    /// The time for the store of a request that ends then, if it does.
    pub(crate) fn budget(&self, ends_at_ms: Option<u64>) -> Budget<'_> {
        Budget::new(self.policy.deadline, ends_at_ms, &self.clock)
    }
}

impl<S: Store> ReadThrough<S> {
    /// The answer for `key`: the one that is kept, else the one that `load` gives, then kept.
    ///
    /// The store's faults cost time, the policy's deadline at most, and are never an error here. Of
    /// the time that is left until the whole request ends (`ends_at_ms`, if it does) the store gets
    /// half at most: the rest is for the load and for the answer's way.
    /// `Err` is `load`'s own; nothing is kept then, and no entry stands in for it.
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
            // On the heap, like all that a hit does not come to: its future is moved for each request.
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

    /// Loads an entry anew whose request has its answer, unless another is at it, has just failed to, or has put
    /// something in its place; or audits it. It is optional work: whatever it meets, it leaves it at that.
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
            // Between the reply and the announcement another may have been through with it.
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

    /// Does this after the reply, and tells of it in the report of the request. Where it is spawned the request does not
    /// wait for that, and the next one tells of it.
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
            // What becomes of the load takes its time too, but no more than the load.
            let limit = after_reply::limit(left);
            limit.saturating_sub(self.policy.deadline.min(limit / 2))
        });
        self.policy.load_limit.min(until_end)
    }

    async fn look<T: Stored>(&self, key: &CacheKey) -> Result<Seen<T>, StoreError> {
        Ok(self.seen(key, self.shared.store.get(key).await?))
    }

    /// What it is that was found under a key.
    fn seen<T: Stored>(&self, key: &CacheKey, found: Found) -> Seen<T> {
        let value = match found {
            Found::Nothing => return Seen::Vacant(Vacancy::Nothing),
            Found::Foreign => return Seen::Vacant(Vacancy::Foreign),
            Found::Value(value) if mark::is_pass(&value, self.clock.now_ms()) => {
                return Seen::Pass;
            }
            Found::Value(value) if mark::token_of(&value).is_some() => {
                return Seen::Vacant(Vacancy::Lease(value));
            }
            Found::Value(value) => value,
        };
        let fingerprint = fingerprint(&value);
        let entry = match T::decode(key, &value) {
            Ok(entry) => entry,
            Err(error) => {
                // After a release that has changed a type it is so for each key.
                let now_ms = self.clock.now_ms();
                if let Some(untold) = self.shared.undecodable.is_new(error.to_string(), now_ms) {
                    let untold = Some(untold).filter(|&untold| untold > 0);
                    warn!(%error, untold, "what is kept under the key is no entry; replacing it");
                }
                return Seen::Vacant(Vacancy::Other(fingerprint));
            }
        };
        let now_ms = self.clock.now_ms();
        let left = entry.times().fresh_for(now_ms);
        match Some(left).filter(|left| !left.is_zero()) {
            Some(left) => Seen::Fresh { entry, left, fingerprint },
            None if self.standing(&entry).may_stand_in(now_ms) => {
                Seen::Stale { entry, fingerprint }
            }
            None => Seen::Vacant(Vacancy::Other(fingerprint)),
        }
    }

    /// Reads the ids of the tags, before the load. Where they cannot be had, what is loaded is not stored.
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
                    // Those who wait would each come to this, one after the other.
                    self.pass(key, plan, SHORT_LIFE, budget).await;
                }
                plan.right = Right::Nothing(Some(NotStored::of(&fault, word)));
            }
        }
    }

    /// What to do with what was seen; where another is loading, with what is seen after that.
    async fn plan<T: Stored>(
        self: &Arc<Self>,
        key: &CacheKey,
        tagging: Option<&Tagging>,
        mut seen: Result<Seen<T>, StoreError>,
        budget: &mut Budget<'_>,
    ) -> Plan<S, T> {
        let mut wait = Wait::new(budget.until_end(), self.policy.load_limit);
        // The stale entry that was there when the waiting began.
        let mut in_hand = None;
        loop {
            // Waiting is apart from the deadline: what is asked after a pause has one of its own.
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

    /// The store cannot be asked: load without it. What was seen before may stand in.
    fn without_store<T>(&self, fault: &StoreError, standing: Option<T>) -> Plan<S, T> {
        let reason = Reason::Fault(self.tell(fault, "cache not read; loading without it"));
        let load = Load::new(reason, Right::Nothing(None));
        Plan::Load(Box::new(Load { standing, ..load }))
    }

    /// There is no answer: who takes the lease loads and fills, the others wait for that.
    ///
    /// A process whose fills the store refuses takes no lease, and waits for nobody: it loads for itself.
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

    /// The entry is past its freshness: one loads it anew, and the others wait for that. Where that has just failed,
    /// the entry is answered at once.
    ///
    /// The announcement of a refresh stands beside the entry, under a key of its own. Nothing but the number of
    /// loads depends on it: a fill replaces the entry alone that was read.
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

    /// The entry is fresh and about to end: load it anew if nobody else is at it, nobody has just failed to, and
    /// the store takes what is loaded. In all other cases the entry is the answer.
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

    /// What was found beside a key.
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

    /// Takes the lease of `key`, unless another has it who is alive.
    ///
    /// A lease of this process itself whose load is over is taken at once, and one that has given no sign of life
    /// for longer than it lasts, as it has lost its expiry. Where another's is met at first, the store is asked
    /// for one all the same: a store that refuses to give any would refuse the fill too, and there is nothing to
    /// wait for.
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

    /// Puts a token under `key` if there is what is expected.
    async fn claim(
        self: &Arc<Self>,
        key: &CacheKey,
        expected: Expected<'_>,
        life: Duration,
        budget: &mut Budget<'_>,
    ) -> Taken<S> {
        // Made before it is claimed, so that it is released where the reply is lost or not waited for.
        let mut lease = Lease::new(self, key, life);
        let claim = self.shared.store.put(key, expected, lease.token().clone(), life);
        match budget.spend(claim).await {
            Ok(true) => Taken::Lease(lease),
            Ok(false) => {
                lease.is_gone();
                // It would be there all the same where the reply is to another try.
                self.shared.voids.add(lease.token().clone());
                Taken::Another(Bytes::new())
            }
            Err(fault) => {
                // These say that it was not put there. (It holds nobody up, so it may be asked for again.)
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

    /// Whether an entry past its freshness may be served while it is loaded anew.
    fn may_revalidate<T: Stored>(&self, entry: &T) -> bool {
        let (times, window) = (entry.times(), entry.stale_for(&self.policy).while_revalidate);
        times.age(self.clock.now_ms()) < times.ttl.saturating_add(window)
    }

    fn refreshes_after_reply(&self) -> bool {
        !self.policy.refreshes_inline && after_reply::can_load()
    }

    /// Whether to load a fresh entry anew before it ends: the nearer its end and the longer its load
    /// took, the likelier (`XFetch`: Vattani et al., Optimal Probabilistic Cache Stampede Prevention,
    /// VLDB '15). So it is mostly one reader that does, a little before all of them would have to.
    ///
    /// But never before the last tenth of its life, so that it costs hardly more loads however many
    /// readers there are, and not when it would end meanwhile: then another loads too.
    fn is_due(&self, times: Times, left: Duration) -> bool {
        let scale = times.load_cost.as_secs_f64() * self.policy.early_refresh;
        // No random number that there is gets further than this, so most hits need none.
        let furthest = scale * f64::from(RANDOM_BITS) * std::f64::consts::LN_2;
        times.load_cost >= EARLY_REFRESH_FROM
            && (times.load_cost..=times.ttl / 10).contains(&left)
            && left.as_secs_f64() <= furthest
            && left.as_secs_f64() <= scale * -random().ln()
    }

    /// Loads, and sees to what becomes of the load.
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

    /// Loads, within the time that there is for it, and keeps the lease alive meanwhile.
    async fn run<L, E>(
        &self,
        lease: &mut Option<Lease<S>>,
        limit: Duration,
        load: impl Future<Output = Result<L, E>>,
        part: Part,
    ) -> Done<L, E> {
        // The age of an answer counts from before it was asked for (RFC 9111 §4.2.3): what changes
        // while it is on its way is already older than the answer says.
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

    /// How long a load may take: as long as the policy says, and so that there is time left to answer.
    ///
    /// An early refresh is optional: it takes twice as long as the load before it at most, and a little, and no
    /// longer than the entry is fresh, which is the answer then.
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

    /// The status of the answer where a load gave nothing better than the entry that stands. `None`: it did, or the
    /// entry is too old.
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
        // If it was fresh when it was chosen, it is answered whatever the refresh does.
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

    /// What becomes of a load, where no entry stands in for it.
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

    /// Stores the entry. `Err`: it is not stored, as far as is known, and why if that is known.
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
                // The lease has gone while its holder was loading: withdrawn, or by others.
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

    /// Puts into an entry, which is to live for so long, the ids of its tags. `Err`: it may not be stored.
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
            // The lease is released, for another to load.
            Err(why) => Err(Some(why)),
        }
    }

    /// Gives up the right to fill a key, since there is nothing to fill it with: who waits for it, and
    /// who comes within this life, loads at once. Otherwise they would queue up, each as a holder.
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

    /// Takes back what the store does not let be replaced by a script, though it answers: it may be full, or not
    /// grant the right. Others would wait in vain for a lease to end, or be given what is gone.
    ///
    /// What it puts there holds no answer, so that whatever it replaces, it is never wrong. Whether it did.
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
    /// Tells of a fault of the store, here where it is handled, and says its word.
    pub(crate) fn tell(&self, fault: &StoreError, consequence: &str) -> FaultWord {
        let word = fault.word(self.shared.store.name());
        record(|report| {
            report.faults += 1;
            // What failed tells more than that it was not asked after that.
            if report.fault.is_none() || !matches!(fault, StoreError::BreakerOpen) {
                report.fault = Some(word);
            }
        });
        if let Some(untold) = self.shared.faults.is_news(fault, consequence, self.clock.now_ms()) {
            let cause = std::error::Error::source(fault).map(ToString::to_string);
            let breaker_open_ms = self.shared.store.closed_for().map(whole_ms);
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

    /// The entry is the answer, and is loaded anew after the reply.
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
    /// Why it gives no answer that takes the place of an entry that stands.
    fn failure(&self, is_fresh: bool) -> Option<Failure> {
        let what = match &self.loaded {
            Some(Ok(loaded)) => return loaded.failure(is_fresh),
            Some(Err(error)) => error.to_string(),
            None => "cut off at its limit".to_owned(),
        };
        Some(Failure { status: None, what })
    }
}

impl<T: Stored> Seen<T> {
    /// The tags of an entry.
    fn stamps(&self) -> &[Stamp] {
        match self {
            Self::Fresh { entry, .. } | Self::Stale { entry, .. } => entry.stamps(),
            Self::Pass | Self::Vacant(_) => &[],
        }
    }

    /// The same with an entry that is of no use, since one of its tags is dead.
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
    /// Whether what was seen is the entry that may be replaced.
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

    /// To load what stands under the key anew.
    fn refresh(reason: Reason, standing: T, right: Right, lease: Option<Lease<S>>) -> Self {
        Self { standing: Some(standing), lease, ..Self::new(reason, right) }
    }

    /// What must be under the key for a fill; `None`: nothing may be stored.
    fn expected(&self) -> Option<Expected<'_>> {
        match &self.right {
            Right::Lease(_) if self.lease.as_ref().is_none_or(Lease::has_gone) => None,
            Right::Lease(start) | Right::Entry(start) => Some(Expected::StartsWith(start)),
            Right::Anything => Some(Expected::Anything),
            Right::Nothing(_) => None,
        }
    }

    /// The token is replaced, or nobody waits for it to be.
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
    /// What a fault of the store means for the response that it should have stored.
    pub(crate) fn of(fault: &StoreError, word: FaultWord) -> Self {
        match fault {
            StoreError::Reply { .. } => Self::FillRefused,
            _ => Self::Fault(word),
        }
    }
}

impl Wait {
    /// Why a request loads that has waited, or has not.
    fn reason(&self) -> Reason {
        if self.has_begun() { Reason::GaveUp } else { Reason::Miss }
    }
}

impl Budget<'_> {
    /// Where it is not the first look, it tells what is under a key by its [`Found::Foreign`] too.
    async fn look<S: Store, T: Stored>(
        &mut self,
        core: &ReadThrough<S>,
        key: &CacheKey,
        tagging: Option<&Tagging>,
        is_again: bool,
    ) -> Result<Seen<T>, StoreError> {
        let limit = core.shared.store.get_limit();
        // What an entry without tags does not come to is on the heap.
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
                // Whoever waits mostly finds no entry yet, and so needs no tags.
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

    /// What was seen, if its tags are alive.
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

/// An entry that is fresh for so long is the answer.
fn hit(left: Duration) -> CacheStatus {
    CacheStatus::Hit { ttl: whole_seconds(left), refreshes: false }
}

fn whole_seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

fn fingerprint(value: &Bytes) -> Bytes {
    value.slice(..value.len().min(FINGERPRINT_BYTES))
}

/// Seconds of freshness left, rounded down; negative where it is over.
fn ttl_left(times: Times, now_ms: u64) -> i64 {
    let age = times.age(now_ms);
    if let Some(left) = times.ttl.checked_sub(age) {
        return whole_seconds(left);
    }
    let over = age.saturating_sub(times.ttl);
    -whole_seconds(over) - i64::from(over.subsec_nanos() > 0)
}

/// How long the announcement of a refresh lives without a sign of life: no longer than a lease, and no longer than
/// the load may take, so that none is left when the next refresh is due.
fn announcement_life(standing: Times, lease: Duration) -> Duration {
    twice_the_load(standing).min(lease)
}

/// Twice as long as the load of an entry took, and a little.
fn twice_the_load(standing: Times) -> Duration {
    standing.load_cost.saturating_mul(2).saturating_add(Wait::LONGEST_PAUSE)
}

/// A number above 0, and 1 at most.
pub(crate) fn random() -> f64 {
    // The two numbers are exact as floating point numbers: they have no more bits than its mantissa.
    #[expect(clippy::cast_precision_loss)]
    let (number, end) =
        ((Uuid::new_v4().as_u128() >> (128 - RANDOM_BITS)) as f64, (1_u64 << RANDOM_BITS) as f64);
    (number + 1.0) / end
}
