//! Background work: connection attempts, probes, reading the slots of a cluster.
//!
//! Lambda freezes a process between two requests, for seconds or hours, and background work stops with it. So after a
//! reply, pending work continues before the runtime asks for the next event (see [`after_reply`]). Without the layer
//! that ensures this, a request that would do without Redis now and then waits a while, so that the work can progress.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::breaker::{Admission, Breaker};
use crate::after_reply;
use crate::clock::{Clock, whole_ms};
use kept_timers::Timers;

/// How long pending work may delay the next event at most.
const AFTER_REPLY: Duration = Duration::from_secs(1);
/// A freeze counts as one tick, however long it is, so that it does not use up the time limit of the work.
const TICK: Duration = Duration::from_millis(25);
/// How much lost time shows that the process was frozen and not just busy.
const FROZEN_MS: u64 = 50;

#[derive(Default)]
pub(super) struct Background {
    clock: Clock,
    timers: Timers,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Each channel closes when its work has ended.
    works: Vec<watch::Receiver<()>>,
    /// Whether a request waits for the works.
    is_awaited: bool,
    /// Backs off while waiting achieves nothing.
    pace: Breaker,
    last_ran_ms: u64,
    frozen_ms: u64,
}

impl Background {
    /// Starts `work`, and drops it after it has run for `limit`.
    pub(super) fn spawn(
        self: &Arc<Self>,
        limit: Duration,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let (running, ended) = watch::channel(());
        {
            let now_ms = self.clock.now_ms();
            let mut state = self.state();
            state.works.retain(is_running);
            if state.works.is_empty() {
                (state.last_ran_ms, state.frozen_ms) = (now_ms, 0);
            }
            state.works.push(ended);
        }
        let background = Arc::clone(self);
        tokio::spawn(async move {
            let _running = running;
            let mut work = pin!(work);
            let mut left = limit;
            while !left.is_zero() {
                if background.timers.within(TICK, work.as_mut()).await.is_some() {
                    return;
                }
                background.note_tick();
                left = left.saturating_sub(TICK);
            }
        });
        self.go_on_after_reply();
    }

    /// Lets pending work continue after the reply to this request.
    pub(super) fn go_on_after_reply(self: &Arc<Self>) {
        if !after_reply::has_layer() || !self.begin_to_wait() {
            return;
        }
        let wait = Wait { background: Arc::clone(self), was_in_vain: true };
        after_reply::defer(wait.run(AFTER_REPLY));
    }

    /// Waits for pending work for up to `limit`, if freezes keep it from progressing otherwise.
    pub(super) async fn lend(self: &Arc<Self>, limit: Duration) {
        if after_reply::has_layer() || !self.is_frozen() || !self.begin_to_wait() {
            return;
        }
        Wait { background: Arc::clone(self), was_in_vain: true }.run(limit).await;
    }

    fn begin_to_wait(&self) -> bool {
        let now_ms = self.clock.now_ms();
        let mut state = self.state();
        state.works.retain(is_running);
        if state.works.is_empty()
            || state.is_awaited
            || state.pace.admit(now_ms) == Admission::Refused
        {
            return false;
        }
        state.is_awaited = true;
        true
    }

    fn next(&self) -> Option<watch::Receiver<()>> {
        let mut state = self.state();
        state.works.retain(is_running);
        state.works.first().cloned()
    }

    fn is_frozen(&self) -> bool {
        let now_ms = self.clock.now_ms();
        let mut state = self.state();
        state.works.retain(is_running);
        state.note_tick(now_ms);
        !state.works.is_empty() && state.frozen_ms >= FROZEN_MS
    }

    fn note_tick(&self) {
        let now_ms = self.clock.now_ms();
        self.state().note_tick(now_ms);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Records how much later than expected the work ran again.
    fn note_tick(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.last_ran_ms);
        // A timer is always a little late.
        if passed_ms >= whole_ms(TICK * 3 / 2) {
            let lost_ms = passed_ms - whole_ms(TICK);
            self.frozen_ms = self.frozen_ms.saturating_add(lost_ms);
        }
        self.last_ran_ms = now_ms;
    }
}

/// A request's wait for all pending work. However it ends, the next request may wait.
struct Wait {
    background: Arc<Background>,
    was_in_vain: bool,
}

impl Wait {
    async fn run(mut self, limit: Duration) {
        let all = pin!(async {
            // Work that ends may have started other work.
            while let Some(mut work) = self.background.next() {
                while work.changed().await.is_ok() {}
            }
        });
        let timers = &self.background.timers;
        self.was_in_vain = timers.within_running_time(limit, all).await.is_none();
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let now_ms = self.background.clock.now_ms();
        let mut state = self.background.state();
        state.is_awaited = false;
        if !self.was_in_vain {
            state.pace.success(now_ms);
        } else if state.pace.is_closed() {
            state.pace.fault(now_ms);
        } else {
            state.pace.probe_failed(now_ms);
        }
    }
}

fn is_running(work: &watch::Receiver<()>) -> bool {
    work.has_changed().is_ok()
}
