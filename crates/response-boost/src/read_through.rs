//! The core: look up, else load and keep, so that nothing that is old is kept and nothing is loaded
//! by everyone at once. Knows HTTP answers, but neither tower nor requests.
//!
//! [`ReadThrough::answer`] is the whole of it: [`ReadThrough::plan`] looks and decides, waiting for
//! another's fill if there is one under way, and [`ReadThrough::settle`] says what becomes of a load.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, SET_COOKIE, VARY};
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use crate::body::{self, CachedBody, Collected};
use crate::clock::{Clock, whole_ms};
use crate::faults::Faults;
use crate::lease::{self, PASS_LIFE};
use crate::report::{record, timed};
use crate::{CacheKey, CacheStatus, Entry, Expected, FaultWord, Found, Policy, Store, StoreError};

/// How long to wait before the value is looked for again: at first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// How much longer than a lease lasts one waits for it to end, so as to see that it has.
const PAST_THE_LEASE: Duration = Duration::from_millis(250);
/// Loads that take less than this are never made early: there is nothing to be gained.
const EARLY_REFRESH_FROM: Duration = Duration::from_millis(5);
/// The longest that another's load of an entry that stands is waited for.
const MAX_REFRESH_TIME: Duration = Duration::from_secs(5);
/// How many bits of a random number are used: as many as a floating point number holds.
const RANDOM_BITS: u32 = 53;
/// As much of a value as tells it from all others: an entry's unique id is within it.
const FINGERPRINT_BYTES: usize = 64;

#[derive(Debug)]
pub(crate) struct ReadThrough<S> {
    pub(crate) store: S,
    pub(crate) policy: Policy,
    pub(crate) clock: Clock,
    faults: Faults,
}

/// What a request is to be answered with.
pub(crate) enum Answer<B: Body> {
    /// An answer that may be kept, whether it came from the store or was just loaded.
    Cacheable { entry: Entry, age: Option<Duration>, status: CacheStatus },
    /// An answer that is not kept, as it was loaded.
    Uncacheable { response: Response<CachedBody<B>>, status: CacheStatus },
}

/// What to do after the look.
enum Plan {
    Answer { entry: Entry, status: CacheStatus },
    Load(Load),
}

/// Why to load, and what may become of it.
struct Load {
    right: Right,
    reason: Reason,
    /// What stands in for the answer if there is none.
    standing: Option<Entry>,
}

/// What a fill may replace.
enum Right {
    /// One's own lease.
    Lease(Bytes),
    /// The entry that was read, which begins like this.
    Entry(Bytes),
    /// Whatever is there: leases are off.
    Anything,
    Nothing,
}

#[derive(Clone, Copy)]
enum Reason {
    Miss,
    /// It was not waited for any longer.
    GaveUp,
    Stale,
    Early,
    Fault(FaultWord),
}

/// What was found under a key.
enum Seen {
    Nothing,
    Fresh {
        entry: Entry,
        left: Duration,
        fingerprint: Bytes,
    },
    /// Past its freshness, and within the time in which it may stand in.
    Stale {
        entry: Entry,
        fingerprint: Bytes,
    },
    Lease(Bytes),
    Pass,
    /// Something that is none of these, and is to be replaced if it still begins like this.
    Other(Bytes),
    /// Another Redis type.
    Foreign,
}

impl<S> ReadThrough<S> {
    pub(crate) fn new(store: S, policy: Policy, clock: Clock) -> Self {
        Self { store, policy, clock, faults: Faults::default() }
    }
}

impl<S: Store> ReadThrough<S> {
    /// The answer for `key`: the one that is kept, else the one that `load` gives, then kept.
    ///
    /// The store's faults cost time, the policy's deadline at most, and are never an error here. Of
    /// the time that is left until the whole request ends (`ends_at_ms`, if it does) the store gets
    /// half at most: the rest is for the load and for the answer's way.
    /// `Err` is `load`'s own; nothing is kept then, and no entry stands in for it.
    pub(crate) async fn answer<B: Body, E: fmt::Display>(
        &self,
        key: &CacheKey,
        ends_at_ms: Option<u64>,
        load: impl AsyncFnOnce() -> Result<Response<Collected<B>>, E>,
    ) -> Result<Answer<B>, E> {
        let mut budget = Budget { left: self.policy.deadline, ends_at_ms, clock: &self.clock };
        let plan = match self.plan(key, &mut budget).await {
            Plan::Answer { entry, status } => {
                record(|report| report.saved = Some(entry.load_cost));
                let age = Some(entry.age(self.clock.now_ms()));
                return Ok(Answer::Cacheable { entry, age, status });
            }
            Plan::Load(plan) => plan,
        };
        // The age of an answer counts from before it was asked for (RFC 9111 §4.2.3): what changes
        // while it is on its way is already older than the answer says.
        let load_started_at_ms = self.clock.now_ms();
        let loaded = timed(|report| &mut report.load, load()).await;
        // On the heap, like all that a hit does not come to: its future is moved for each request.
        Box::pin(self.settle(key, plan, load_started_at_ms, loaded, &mut budget)).await
    }

    /// An answer of the service inside with its body, if it may be kept; else the body is not waited for.
    pub(crate) async fn collect<B>(&self, response: Response<B>) -> Response<Collected<B>>
    where
        B: Body<Data = Bytes>,
        B::Error: fmt::Display,
    {
        let may_be_kept =
            self.policy.ttl_of(response.status()).is_some() && !forbids_keeping(response.headers());
        let (parts, body) = response.into_parts();
        let body = if may_be_kept {
            body::collect(body, self.policy.max_entry_bytes).await
        } else {
            Collected::Passed(CachedBody::passed(body))
        };
        Response::from_parts(parts, body)
    }

    /// Looks for an entry, and waits for the one that another is about to keep.
    async fn plan(&self, key: &CacheKey, budget: &mut Budget<'_>) -> Plan {
        // Most requests need none.
        let token = LazyLock::new(lease::new_token);
        let mut wait = Wait::default();
        let mut seen = budget.look(self, key).await;
        loop {
            // Waiting is apart from the deadline: what is asked after a pause has one of its own.
            let mut own = Budget { left: self.policy.deadline, ..*budget };
            let budget = if wait.has_begun() { &mut own } else { &mut *budget };
            let gave_up = if wait.has_begun() { Reason::GaveUp } else { Reason::Miss };
            // Either there is a plan, or another is at it: who, how long to wait for that one, and what
            // to do where the invocation has no time for it.
            let (whose, limit, in_vain) = match seen {
                Err(fault) => {
                    let detail = self.tell(&fault, "cache not read; loading without it");
                    return Plan::load(Reason::Fault(detail), Right::Nothing);
                }
                Ok(Seen::Fresh { entry, left, fingerprint }) => {
                    if let Some(status) = wait.status() {
                        return Plan::Answer { entry, status };
                    }
                    if self.is_due(&entry, left)
                        && Box::pin(self.announce(key, &entry, &token, budget)).await
                    {
                        return Plan::refresh(Reason::Early, entry, fingerprint);
                    }
                    let status = CacheStatus::Hit { ttl: left.as_secs() };
                    return Plan::Answer { entry, status };
                }
                Ok(Seen::Stale { entry, fingerprint }) => {
                    let limit = refresh_time(&entry);
                    let is_free = Box::pin(self.announce(key, &entry, &token, budget)).await;
                    let whose = fingerprint.clone();
                    let refresh = Plan::refresh(Reason::Stale, entry, fingerprint);
                    if is_free || wait.is_over(&whose, limit) {
                        return refresh;
                    }
                    wait.is_for_refresh = true;
                    (whose, limit, refresh)
                }
                Ok(Seen::Pass) => return Plan::load(gave_up, Right::Nothing),
                Ok(found) => {
                    let Some(lease) = self.policy.lease else {
                        return Plan::load(Reason::Miss, Right::Anything);
                    };
                    let limit = lease.saturating_add(PAST_THE_LEASE);
                    let expected = match &found {
                        Seen::Nothing => Some(Expected::Nothing),
                        Seen::Other(fingerprint) => Some(Expected::StartsWith(fingerprint)),
                        Seen::Foreign => Some(Expected::Foreign),
                        // It has outlasted itself: its end was lost. Its holder's fill will fail.
                        Seen::Lease(held) if wait.is_over(held, limit) => {
                            Some(Expected::StartsWith(held))
                        }
                        _ => None,
                    };
                    if let Some(expected) = expected {
                        let claim = self.store.put(key, expected, token.clone(), lease);
                        match Box::pin(budget.spend(claim)).await {
                            Ok(true) => {
                                return Plan::load(Reason::Miss, Right::Lease(token.clone()));
                            }
                            // Somebody was quicker.
                            Ok(false) => {}
                            Err(fault) => {
                                self.tell(&fault, "no lease; the answer will not be kept");
                                return Plan::load(gave_up, Right::Nothing);
                            }
                        }
                    }
                    // Not known where somebody was quicker: the next look will tell.
                    let whose = if let Seen::Lease(held) = found { held } else { Bytes::new() };
                    (whose, limit, Plan::load(Reason::GaveUp, Right::Nothing))
                }
            };
            if !wait.watch(whose, budget.until_end(), self.policy.load_limit) {
                return in_vain;
            }
            timed(|report| &mut report.wait, wait.pause(limit)).await;
            let mut own = Budget { left: self.policy.deadline, ..*budget };
            seen = Box::pin(own.look(self, key)).await;
        }
    }

    async fn look(&self, key: &CacheKey) -> Result<Seen, StoreError> {
        let value = match self.store.get(key).await? {
            Found::Nothing => return Ok(Seen::Nothing),
            Found::Foreign => return Ok(Seen::Foreign),
            Found::Value(value) if lease::is_pass(&value, self.clock.now_ms()) => {
                return Ok(Seen::Pass);
            }
            Found::Value(value) if lease::is_token(&value) => return Ok(Seen::Lease(value)),
            Found::Value(value) => value,
        };
        let fingerprint = value.slice(..value.len().min(FINGERPRINT_BYTES));
        let entry = match Entry::decode(key, &value) {
            Ok(entry) => entry,
            Err(error) => {
                warn!(%error, "what is kept under the key is no entry; replacing it");
                return Ok(Seen::Other(fingerprint));
            }
        };
        let age = entry.age(self.clock.now_ms());
        Ok(match entry.ttl.checked_sub(age).filter(|left| !left.is_zero()) {
            Some(left) => Seen::Fresh { entry, left, fingerprint },
            None if self.may_stand_in(&entry, age) => Seen::Stale { entry, fingerprint },
            None => Seen::Other(fingerprint),
        })
    }

    fn may_stand_in(&self, entry: &Entry, age: Duration) -> bool {
        age < entry.ttl.saturating_add(self.policy.stale_if_error)
    }

    /// Whether to load a fresh entry anew before it ends: the nearer its end and the longer its load
    /// took, the likelier (`XFetch`: Vattani et al., Optimal Probabilistic Cache Stampede Prevention,
    /// VLDB '15). So it is mostly one reader that does, a little before all of them would have to.
    ///
    /// But never before the last tenth of its life, so that it costs hardly more loads however many
    /// readers there are, and not when it would end meanwhile: then another loads too.
    fn is_due(&self, entry: &Entry, left: Duration) -> bool {
        let scale = entry.load_cost.as_secs_f64() * self.policy.early_refresh;
        // No random number that there is gets further than this, so most hits need none.
        let furthest = scale * f64::from(RANDOM_BITS) * std::f64::consts::LN_2;
        entry.load_cost >= EARLY_REFRESH_FROM
            && (entry.load_cost..=entry.ttl / 10).contains(&left)
            && left.as_secs_f64() <= furthest
            && left.as_secs_f64() <= scale * -random().ln()
    }

    /// Tells others that the entry is being loaded anew, so that one of them does it and not all.
    /// `false`: another is at it already. Nothing but the number of loads depends on it, so it is not
    /// asked for a second time when it fails.
    async fn announce(
        &self,
        key: &CacheKey,
        entry: &Entry,
        token: &Bytes,
        budget: &mut Budget<'_>,
    ) -> bool {
        let refresh_key = key.refresh();
        let life = refresh_time(entry);
        let announced = self.store.put(&refresh_key, Expected::Nothing, token.clone(), life);
        budget.spend(announced).await.unwrap_or_else(|fault| {
            self.tell(&fault, "refresh not announced");
            true
        })
    }

    /// What becomes of a load.
    async fn settle<B: Body, E: fmt::Display>(
        &self,
        key: &CacheKey,
        Load { right, reason, standing }: Load,
        load_started_at_ms: u64,
        loaded: Result<Response<Collected<B>>, E>,
        budget: &mut Budget<'_>,
    ) -> Result<Answer<B>, E> {
        let now_ms = self.clock.now_ms();
        if let Some(entry) = standing
            && let Some(failure) = failure(&loaded)
            && let age = entry.age(now_ms)
            && self.may_stand_in(&entry, age)
        {
            warn!(failure = failure.what, "load failed; the entry that is kept stands in");
            let status =
                CacheStatus::StoodIn { status: failure.status, ttl: ttl_left(&entry, age) };
            return Ok(Answer::Cacheable { entry, age: Some(age), status });
        }
        let response = match loaded {
            Ok(response) => response,
            Err(error) => {
                self.pass(key, &right, budget).await;
                return Err(error);
            }
        };
        let ttl = self.policy.ttl_of(response.status()).unwrap_or_default();
        let (parts, body) = response.into_parts();
        let body = match body {
            Collected::Whole(body) => body,
            Collected::Passed(body) | Collected::BrokeOff(body, _) => {
                self.pass(key, &right, budget).await;
                let response = Response::from_parts(parts, body);
                return Ok(Answer::Uncacheable { response, status: reason.status(false) });
            }
        };
        let load_cost = Duration::from_millis(now_ms.saturating_sub(load_started_at_ms));
        let response = Response::from_parts(parts, body);
        let entry = Entry::of_response(response, load_started_at_ms, load_cost, ttl);
        let stored = self.keep(key, &right, &entry, budget).await;
        Ok(Answer::Cacheable { entry, age: None, status: reason.status(stored) })
    }

    /// Whether the entry is now kept, as far as is known.
    async fn keep(
        &self,
        key: &CacheKey,
        right: &Right,
        entry: &Entry,
        budget: &mut Budget<'_>,
    ) -> bool {
        let Some(expected) = right.expected() else {
            return false;
        };
        let fresh_for = entry.ttl.saturating_sub(entry.load_cost);
        let bytes = entry.encode(key);
        if fresh_for < Duration::from_millis(1) || bytes.len() > self.policy.max_entry_bytes {
            self.pass(key, right, budget).await;
            return false;
        }
        let life = fresh_for.saturating_add(self.policy.stale_if_error);
        let kept = self.store.put(key, expected, bytes, life);
        match budget.spend(kept).await {
            Ok(kept) => kept,
            Err(fault) => {
                self.tell(&fault, "answer not kept");
                if let Right::Lease(_) = right {
                    self.remove(key, &fault, budget).await;
                }
                false
            }
        }
    }

    /// Gives up the right to fill a key, since there is nothing to fill it with: who waits for it, and
    /// who comes in the next second, loads at once. Otherwise they would queue up, each as a holder.
    async fn pass(&self, key: &CacheKey, right: &Right, budget: &mut Budget<'_>) {
        if let Right::Lease(start) | Right::Entry(start) = right {
            let pass = lease::new_pass(self.clock.now_ms());
            let put = self.store.put(key, Expected::StartsWith(start), pass, PASS_LIFE);
            if let Err(fault) = budget.spend(put).await {
                self.tell(&fault, "lease not given up");
                self.remove(key, &fault, budget).await;
            }
        }
    }

    /// Removes what the store does not let be replaced, though it answers: it may be full, or not grant
    /// the right. Others would wait in vain for a lease to end, or be given what is gone. Whatever
    /// stands there by now, to remove it is never wrong.
    async fn remove(&self, key: &CacheKey, fault: &StoreError, budget: &mut Budget<'_>) {
        if let StoreError::Reply { .. } = fault
            && let Err(fault) = budget.spend(self.store.delete(key)).await
        {
            self.tell(&fault, "not removed either; it stands until it ends");
        }
    }
}

impl<S: Store> ReadThrough<S> {
    /// Tells of a fault of the store, here where it is handled, and says its word.
    fn tell(&self, fault: &StoreError, consequence: &str) -> FaultWord {
        let word = fault.word(self.store.name());
        record(|report| {
            report.faults += 1;
            // What failed tells more than that it was not asked after that.
            if report.fault.is_none() || !matches!(fault, StoreError::BreakerOpen) {
                report.fault = Some(word);
            }
        });
        if let Some(untold) = self.faults.is_news(fault, consequence, self.clock.now_ms()) {
            let cause = std::error::Error::source(fault).map(ToString::to_string);
            let breaker_open_ms = self.store.closed_for().map(whole_ms);
            let untold = Some(untold).filter(|&untold| untold > 0);
            warn!(fault = word.to_string(), error = %fault, cause, breaker_open_ms, untold, "{consequence}");
        }
        word
    }
}

impl Plan {
    fn load(reason: Reason, right: Right) -> Self {
        Self::Load(Load { right, reason, standing: None })
    }

    /// To load what stands under the key anew. It is replaced only if it still stands there.
    fn refresh(reason: Reason, standing: Entry, fingerprint: Bytes) -> Self {
        Self::Load(Load { right: Right::Entry(fingerprint), reason, standing: Some(standing) })
    }
}

impl Right {
    fn expected(&self) -> Option<Expected<'_>> {
        match self {
            Self::Lease(start) | Self::Entry(start) => Some(Expected::StartsWith(start)),
            Self::Anything => Some(Expected::Anything),
            Self::Nothing => None,
        }
    }
}

impl Reason {
    fn status(self, stored: bool) -> CacheStatus {
        match self {
            Self::Miss => CacheStatus::Miss { stored, collapsed: None },
            Self::GaveUp => CacheStatus::Miss { stored, collapsed: Some(false) },
            Self::Stale => CacheStatus::Stale { stored, collapsed: false, early: false },
            Self::Early => CacheStatus::Stale { stored, collapsed: false, early: true },
            Self::Fault(detail) => CacheStatus::Bypass { detail },
        }
    }
}

/// A load that gave no answer to go by.
struct Failure {
    status: Option<StatusCode>,
    what: String,
}

/// The statuses are those of RFC 5861 §4.
fn failure<B: Body, E: fmt::Display>(
    loaded: &Result<Response<Collected<B>>, E>,
) -> Option<Failure> {
    match loaded {
        Ok(response) => {
            let status = response.status();
            let what = match response.body() {
                Collected::BrokeOff(_, reason) => Some(reason.clone()),
                _ => [500, 502, 503, 504].contains(&status.as_u16()).then(|| status.to_string()),
            };
            what.map(|what| Failure { status: Some(status), what })
        }
        Err(error) => Some(Failure { status: None, what: error.to_string() }),
    }
}

/// Seconds of freshness left, rounded down; negative where it is over.
fn ttl_left(entry: &Entry, age: Duration) -> i64 {
    let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    if let Some(left) = entry.ttl.checked_sub(age) {
        return whole(left);
    }
    let over = age.saturating_sub(entry.ttl);
    -whole(over) - i64::from(over.subsec_nanos() > 0)
}

/// How long another's load of an entry is waited for: twice as long as it took, and a little.
fn refresh_time(entry: &Entry) -> Duration {
    entry.load_cost.saturating_mul(2).saturating_add(POLL.1).min(MAX_REFRESH_TIME)
}

/// A number above 0, and 1 at most.
fn random() -> f64 {
    // The two numbers are exact as floating point numbers: they have no more bits than its mantissa.
    #[expect(clippy::cast_precision_loss)]
    let (number, end) =
        ((Uuid::new_v4().as_u128() >> (128 - RANDOM_BITS)) as f64, (1_u64 << RANDOM_BITS) as f64);
    (number + 1.0) / end
}

/// The waiting for another's fill.
#[derive(Default)]
struct Wait {
    /// Whose fill it is, and since when: another one gets a time of its own.
    whose: Bytes,
    since: Option<Instant>,
    pauses: u32,
    is_for_refresh: bool,
}

impl Wait {
    /// Begins to wait for this one, if it is another than before. `false`: there is no time for
    /// another pause and then for a load of one's own.
    fn watch(&mut self, whose: Bytes, until_end: Option<Duration>, load: Duration) -> bool {
        if self.since.is_none() || self.whose != whose {
            (self.whose, self.since) = (whose, Some(Instant::now()));
        }
        let needed = self.next_pause().saturating_add(load);
        until_end.is_none_or(|left| needed <= left)
    }

    /// Whether this one was waited for as long as that.
    fn is_over(&self, whose: &Bytes, limit: Duration) -> bool {
        self.whose == *whose && self.since.is_some_and(|since| since.elapsed() >= limit)
    }

    fn has_begun(&self) -> bool {
        self.pauses > 0
    }

    /// What became of the request, if it has waited and there now is an answer.
    fn status(&self) -> Option<CacheStatus> {
        self.has_begun().then_some(if self.is_for_refresh {
            CacheStatus::Stale { stored: false, collapsed: true, early: false }
        } else {
            CacheStatus::Miss { stored: false, collapsed: Some(true) }
        })
    }

    /// Waits, but not past the limit.
    async fn pause(&mut self, limit: Duration) {
        let waited = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        tokio::time::sleep(self.next_pause().min(limit.saturating_sub(waited))).await;
        self.pauses += 1;
    }

    fn next_pause(&self) -> Duration {
        POLL.0.saturating_mul(2_u32.saturating_pow(self.pauses)).min(POLL.1)
    }
}

/// How long this request may still wait for the store. The time of the load is not the store's.
#[derive(Clone, Copy, Debug)]
struct Budget<'a> {
    left: Duration,
    ends_at_ms: Option<u64>,
    clock: &'a Clock,
}

impl Budget<'_> {
    /// How long the whole request has left, if it ends.
    fn until_end(&self) -> Option<Duration> {
        let end_ms = self.ends_at_ms?;
        Some(Duration::from_millis(end_ms.saturating_sub(self.clock.now_ms())))
    }

    async fn look<S: Store>(
        &mut self,
        core: &ReadThrough<S>,
        key: &CacheKey,
    ) -> Result<Seen, StoreError> {
        self.spend_within(core.store.get_limit(), pin!(core.look(key))).await
    }

    async fn spend<T>(
        &mut self,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.spend_within(None, pin!(asked)).await
    }

    /// The same where it ends by itself, within this time if one is given. It is taken by reference: a
    /// future that is given away is moved, and stored once more.
    async fn spend_within<T>(
        &mut self,
        own_limit: Option<Duration>,
        asked: Pin<&mut impl Future<Output = Result<T, StoreError>>>,
    ) -> Result<T, StoreError> {
        let share = self.until_end().map_or(Duration::MAX, |left| left / 2);
        let limit = self.left.min(share);
        let spent = || StoreError::Timeout("deadline of the request".into());
        if limit.is_zero() {
            return Err(spent());
        }
        let started = Instant::now();
        let answer = if own_limit.is_some_and(|own| own <= limit) {
            Ok(asked.await)
        } else {
            tokio::time::timeout(limit, asked).await
        };
        self.left = self.left.saturating_sub(started.elapsed());
        answer.unwrap_or_else(|_| Err(spent()))
    }
}

/// Whether the service inside forbids that its answer is given again to somebody else, or gives a
/// header that is not text, which an entry cannot hold.
///
/// The layer is part of the origin and answers by key alone, so a `Vary` cannot be honoured but by
/// not keeping the answer, and `private` means one client's (RFC 9111 §3, §4.1, §5.2.2).
fn forbids_keeping(headers: &HeaderMap) -> bool {
    // Looked through as bytes, not by the `headers` crate: that ignores `private="x"` and drops a
    // whole header that it cannot parse. What is unclear must forbid rather than allow.
    let directive_forbids = |directive: &[u8]| {
        let name = directive.split(|&byte| byte == b'=').next().unwrap_or_default().trim_ascii();
        name.eq_ignore_ascii_case(b"no-store") || name.eq_ignore_ascii_case(b"private")
    };
    headers.values().any(|value| value.to_str().is_err())
        || headers.contains_key(VARY)
        || headers.contains_key(SET_COOKIE)
        || headers
            .get_all(CACHE_CONTROL)
            .iter()
            .any(|value| value.as_bytes().split(|&byte| byte == b',').any(directive_forbids))
}
