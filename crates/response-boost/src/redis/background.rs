//! What goes on beside requests: attempts to connect, probes, the look for who has which slots.
//!
//! Lambda freezes a process between two requests, for seconds or hours, and whatever it was doing goes on where
//! it stopped. So what is under way when the reply has been posted goes on before the next event is asked for
//! (see [`after_reply`]). Where nothing sees to that, a request that
//! would do without Redis lends the work its own time now and then.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::breaker::{Admission, Breaker};
use crate::after_reply;
use crate::clock::{Clock, whole_ms};
use kept_timers::Timers;

/// The longest that the next event is put off.
const AFTER_REPLY: Duration = Duration::from_secs(1);
/// A freeze counts for one of these, whatever its length, so that none uses up the time of the work.
const TICK: Duration = Duration::from_millis(25);
/// From how much lost time on the process is known to be frozen, and not just busy.
const FROZEN_MS: u64 = 50;

#[derive(Default)]
pub(super) struct Background {
    clock: Clock,
    timers: Timers,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Each is closed when its work has ended.
    works: Vec<watch::Receiver<()>>,
    /// Whether somebody waits for them.
    is_awaited: bool,
    /// Backs off while it is waited in vain.
    pace: Breaker,
    last_ran_ms: u64,
    frozen_ms: u64,
}

impl Background {
    /// Begins `work`, and drops it when it has run for as long as `limit`.
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

    /// Sees to it that what is under way goes on when the reply to this request has been posted.
    pub(super) fn go_on_after_reply(self: &Arc<Self>) {
        if !after_reply::has_layer() || !self.begin_to_wait() {
            return;
        }
        let wait = Wait { background: Arc::clone(self), was_in_vain: true };
        after_reply::defer(wait.run(AFTER_REPLY));
    }

    /// Waits for what is under way no longer than `limit`, if it does not get on otherwise.
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
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Notes how much longer than it should have been it was since the work last ran.
    fn note_tick(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.last_ran_ms);
        // A timer is a little late at all times.
        if passed_ms >= whole_ms(TICK * 3 / 2) {
            let lost_ms = passed_ms - whole_ms(TICK);
            self.frozen_ms = self.frozen_ms.saturating_add(lost_ms);
        }
        self.last_ran_ms = now_ms;
    }
}

/// Somebody's waiting for all that is under way. However it ends, the next one may wait.
struct Wait {
    background: Arc<Background>,
    was_in_vain: bool,
}

impl Wait {
    async fn run(mut self, limit: Duration) {
        let all = pin!(async {
            // What ends may have begun something else.
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
