//! What caches did for a request, for whoever wants to log or measure it.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::{CacheStatus, FaultWord};

tokio::task_local! {
    static RECORDER: Watching;
}

/// A recorder, and the one around it.
#[derive(Clone)]
struct Watching {
    recorder: Recorder,
    outer: Option<Arc<Watching>>,
}

/// What caches did for one request, and how long it waited for what. `None`: not at all.
///
/// What goes on at the same time adds up ([`ValueCache::get_or_load_many`](crate::ValueCache::get_or_load_many)), and
/// the status is that of the cache that was last done: the outermost.
///
/// A part that was given up counts as long as it was waited for. What runs beside a request, such as
/// a probe, is not in its report. What was done after the reply is not in the times of the request, and known only when
/// it is over: see [`AfterReplyLayer`](crate::AfterReplyLayer). Without that layer no request waits for it, and the next
/// one of the same cache that has a recorder tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// What became of the request. `None`: it has no key, or it is not answered.
    pub status: Option<CacheStatus>,
    /// For a connection to the store to be opened.
    pub connect: Option<Duration>,
    /// For the store's replies.
    pub command: Option<Duration>,
    /// For another's fill.
    pub wait: Option<Duration>,
    /// For the service inside.
    pub load: Option<Duration>,
    /// What the load took that this request was spared: its answer is one that was kept.
    pub saved: Option<Duration>,
    /// How often a load was made after the reply.
    pub refreshes: u32,
    /// For the service inside, in an audit.
    pub audit: Option<Duration>,
    /// How many hits were loaded again after the reply and compared with the entry
    /// ([`Policy::with_audit`](crate::Policy::with_audit)).
    pub audited: u32,
    /// How many entries differed from the service's response and were gone or replaced after the grace, as they should.
    pub audit_raced: u32,
    /// How many entries differed and still stood after the grace: an invalidation was lost. The cache removed them.
    pub audit_stale: u32,
    /// For the service inside, after the reply.
    pub refresh: Option<Duration>,
    /// For all that was left to do after the reply.
    pub after_reply: Option<Duration>,
    /// How often the store could not do what it was asked, or was not asked after a fault.
    pub faults: u32,
    /// The last of these.
    pub fault: Option<FaultWord>,
}

/// Collects a [`Report`] of what caches do while a future runs. Clones share it.
///
/// Recorders nest: each one hears of all that happens below it.
///
/// It is apart from the request and from the response, so that there is something to tell also where
/// there is no response. Without one nothing is collected.
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
    /// `future`, the caches in which tell this recorder what they do.
    pub fn watch<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        let recorder = self.clone();
        async move {
            let outer = RECORDER.try_with(|outer| Arc::new(outer.clone())).ok();
            RECORDER.scope(Watching { recorder, outer }, future).await
        }
    }

    /// What there is to tell so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Tells the recorders of the current request, if it has any.
pub(crate) fn record(change: impl Fn(&mut Report)) {
    let _ = RECORDER.try_with(|innermost| {
        let mut next = Some(innermost);
        while let Some(watching) = next {
            change(&mut watching.recorder.0.lock().unwrap_or_else(PoisonError::into_inner));
            next = watching.outer.as_deref();
        }
    });
}

/// `work`, which is done for the current request when that has its answer: its recorders are told of the load and of
/// the faults, and no times are added to those of the request.
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

/// What was done by work whose request was over by then, until another request tells of it.
#[derive(Debug, Default)]
pub(crate) struct Untold {
    is_some: AtomicBool,
    report: Mutex<Report>,
}

impl Untold {
    /// `work`, which no request waits for.
    pub(crate) async fn watch(&self, work: impl Future<Output = ()>) {
        let own = Recorder::default();
        own.watch(work).await;
        let done = own.report().of_work();
        if done != Report::default() {
            self.report.lock().unwrap_or_else(PoisonError::into_inner).add(&done);
            self.is_some.store(true, Ordering::Release);
        }
    }

    /// Tells the recorders of the current request; where it has none, another will.
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
    /// The report of work after a reply, as the report of a request has it: no times are those of the request.
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

    /// Adds what work after a reply has done.
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

/// A part of a report that is waited for.
pub(crate) type Part = fn(&mut Report) -> &mut Option<Duration>;

/// `future`, and how long it was waited for told as this part.
pub(crate) async fn timed<F: Future>(part: Part, future: F) -> F::Output {
    let _timer = Timer { part, started: Instant::now() };
    future.await
}

/// Tells its time at its end, also where what it times is cancelled.
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
