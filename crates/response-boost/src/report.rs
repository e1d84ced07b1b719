//! What the caches did for a request, to log or measure it.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::{CacheStatus, FaultWord};

tokio::task_local! {
    static RECORDER: Watching;
}

/// A recorder, and the recorder around it.
#[derive(Clone)]
struct Watching {
    recorder: Recorder,
    outer: Option<Arc<Watching>>,
}

/// What the caches did for one request, and how long the request waited for each part. `None`: it did not wait for that
/// part.
///
/// The times of parts that run concurrently add up
/// ([`ValueCache::get_or_load_many`](crate::ValueCache::get_or_load_many)). If several caches took part, the status is
/// that of the last one to finish: the outermost.
///
/// A part that was cancelled counts until then. Work beside the request, such as a probe of the connection, is not
/// reported. Work after the reply does not count towards the times of the request, and is reported only when it is
/// done: see [`AfterReplyLayer`](crate::AfterReplyLayer). Without that layer no request waits for the work, so the next
/// request of the same cache that has a recorder reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The outcome of the request. `None`: it has no key, or it got no answer.
    pub status: Option<CacheStatus>,
    /// Time spent opening a connection to the store.
    pub connect: Option<Duration>,
    /// Time spent waiting for replies of the store.
    pub command: Option<Duration>,
    /// Time spent waiting for another request's load.
    pub wait: Option<Duration>,
    /// Time spent in the inner service.
    pub load: Option<Duration>,
    /// How long the load of the served entry took, which this request was spared.
    pub saved: Option<Duration>,
    /// How many loads ran after the reply to refresh an entry.
    pub refreshes: u32,
    /// Time spent in the inner service for audits, after the reply.
    pub audit: Option<Duration>,
    /// How many hits the cache loaded again after the reply, to compare them with the entry
    /// ([`Policy::with_audit`](crate::Policy::with_audit)).
    pub audited: u32,
    /// How many entries differed from the service's response, but were gone or replaced after the grace period, as they
    /// should be.
    pub audit_raced: u32,
    /// How many entries differed and were still stored after the grace period, because an invalidation was lost. The
    /// cache removed them.
    pub audit_stale: u32,
    /// Time spent in the inner service to refresh entries, after the reply.
    pub refresh: Option<Duration>,
    /// Time spent on all work after the reply.
    pub after_reply: Option<Duration>,
    /// How often a call to the store failed, or was skipped after a fault.
    pub faults: u32,
    /// The last fault.
    pub fault: Option<FaultWord>,
}

/// Collects a [`Report`] of what caches do while a future runs. Clones share the report.
///
/// Recorders nest: each one records everything within its future.
///
/// It is separate from request and response, because a request that gets no response has a report too. Without a
/// recorder, nothing is collected.
///
/// ```
/// use response_boost::Recorder;
///
/// # async fn answer() {}
/// # async fn example() {
/// let recorder = Recorder::default();
/// recorder.watch(answer()).await;
/// println!("{:?}", recorder.report().status);
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Report>>);

impl Recorder {
    /// Runs `future`, and records what its caches do.
    pub fn watch<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        let recorder = self.clone();
        async move {
            let outer = RECORDER.try_with(|outer| Arc::new(outer.clone())).ok();
            RECORDER.scope(Watching { recorder, outer }, future).await
        }
    }

    /// The report so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Changes the reports of all recorders around the current request.
pub(crate) fn record(change: impl Fn(&mut Report)) {
    let _ = RECORDER.try_with(|innermost| {
        let mut next = Some(innermost);
        while let Some(watching) = next {
            change(&mut watching.recorder.0.lock().unwrap_or_else(PoisonError::into_inner));
            next = watching.outer.as_deref();
        }
    });
}

/// Runs `work` after the reply to the current request, and adds loads and faults of `work` to the reports of that
/// request. It does not change the times of the request itself.
pub(crate) fn afterwards<F: Future>(work: F) -> impl Future<Output = F::Output> + use<F> {
    let of_request = RECORDER.try_with(Clone::clone).ok();
    async move {
        let Some(of_request) = of_request else { return work.await };
        let own = Recorder::default();
        let output = own.watch(work).await;
        let done = own.report().of_work();
        RECORDER.scope(of_request, async { record(|report| report.add(&done)) }).await;
        output
    }
}

/// A report of work whose request was already over. Another request will report it.
#[derive(Debug, Default)]
pub(crate) struct Untold {
    is_some: AtomicBool,
    report: Mutex<Report>,
}

impl Untold {
    /// Runs `work`, for which no request waits, and records it.
    pub(crate) async fn watch(&self, work: impl Future<Output = ()>) {
        let own = Recorder::default();
        own.watch(work).await;
        let done = own.report().of_work();
        if done != Report::default() {
            self.report.lock().unwrap_or_else(PoisonError::into_inner).add(&done);
            self.is_some.store(true, Ordering::Release);
        }
    }

    /// Adds it to the reports of the current request. If the request has no recorder, a later one will.
    pub(crate) fn tell(&self) {
        if self.is_some.load(Ordering::Acquire) && RECORDER.try_with(|_| ()).is_ok() {
            self.is_some.store(false, Ordering::Relaxed);
            let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            let done = std::mem::take(&mut *report);
            drop(report);
            record(|report| report.add(&done));
        }
    }
}

impl Report {
    /// The report of work after a reply, in the form in which a request reports it: a load counts as a refresh.
    fn of_work(self) -> Self {
        let Self { load, audit, audited, audit_raced, audit_stale, faults, fault, .. } = self;
        Self {
            refreshes: load.is_some().into(),
            refresh: load,
            audit,
            audited,
            audit_raced,
            audit_stale,
            faults,
            fault,
            ..Self::default()
        }
    }

    /// Adds a report of work after a reply.
    fn add(&mut self, done: &Self) {
        for (sum, part) in [(&mut self.refresh, done.refresh), (&mut self.audit, done.audit)] {
            if let Some(part) = part {
                *sum.get_or_insert_default() += part;
            }
        }
        self.refreshes += done.refreshes;
        self.audited += done.audited;
        self.audit_raced += done.audit_raced;
        self.audit_stale += done.audit_stale;
        self.faults += done.faults;
        self.fault = self.fault.or(done.fault);
    }
}

/// The field of a report for the time of one part.
pub(crate) type Part = fn(&mut Report) -> &mut Option<Duration>;

/// Runs `future`, and adds the time it took to this part.
pub(crate) async fn timed<F: Future>(part: Part, future: F) -> F::Output {
    let is_recorded = RECORDER.try_with(|_| ()).is_ok();
    let _timer = is_recorded.then(|| Timer { part, started: Instant::now() });
    future.await
}

/// Records its time when it is dropped, so that cancelled parts count too.
struct Timer {
    part: Part,
    started: Instant,
}

impl Drop for Timer {
    fn drop(&mut self) {
        let waited = self.started.elapsed();
        record(|report| *(self.part)(report).get_or_insert_default() += waited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_parts_of_a_request_add_up_also_where_one_is_given_up() {
        let recorder = Recorder::default();
        let request = recorder.watch(async {
            timed(|report| &mut report.command, tokio::time::sleep(SECOND)).await;
            timed(|report| &mut report.command, tokio::time::sleep(SECOND)).await;
            let load = timed(|report| &mut report.load, std::future::pending::<()>());
            let _ = tokio::time::timeout(SECOND, load).await;
            timed(|report| &mut report.wait, std::future::pending::<()>()).await;
        });
        assert!(tokio::time::timeout(4 * SECOND, request).await.is_err());
        let Report { connect, command, wait, load, .. } = recorder.report();
        assert_eq!([connect, command], [None, Some(2 * SECOND)]);
        assert_eq!([wait, load], [Some(SECOND); 2]);
    }

    #[tokio::test]
    async fn each_recorder_hears_of_all_that_happens_below_it() {
        let (outer, inner) = (Recorder::default(), Recorder::default());
        let fault = async || record(|report| report.faults += 1);
        outer
            .watch(async {
                inner.watch(fault()).await;
                fault().await;
            })
            .await;
        assert_eq!([outer.report().faults, inner.report().faults], [2, 1]);
    }

    #[tokio::test]
    async fn requests_at_the_same_time_have_a_report_each_and_nobody_needs_one() {
        let (one, other) = (Recorder::default(), Recorder::default());
        let fault = async || {
            tokio::task::yield_now().await;
            record(|report| report.faults += 1);
        };
        tokio::join!(one.watch(fault()), other.watch(async { (fault().await, fault().await) }));
        fault().await;
        assert_eq!([one.report().faults, other.report().faults], [1, 2]);
    }
}
