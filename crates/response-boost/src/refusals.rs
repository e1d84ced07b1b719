//! Whether the store accepts this process's writes.
//!
//! A Redis that answers may still refuse to write: it is full, it is a replica, the user may not run scripts. If the
//! process took leases anyway, it could fill none of them, and others would wait in vain.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::whole_ms;

/// The store's last reply to a fill or a renewal of this process, and how long leases are off after a refusal.
///
/// Times are wall-clock times, as in the connection's breaker: the time of a freeze counts.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    has_accepted: bool,
    since_ms: u64,
    /// Zero: the last write was not refused.
    for_ms: u64,
}

impl Refusals {
    const FIRST_STEP: Duration = Duration::from_millis(100);
    const LAST_STEP: Duration = Duration::from_secs(5);

    /// Whether this process should take no leases now.
    pub(crate) fn forbid(&self, now_ms: u64) -> bool {
        let state = self.state();
        // If the clock was set back, leases must not stay off for longer.
        now_ms.checked_sub(state.since_ms).is_some_and(|passed_ms| passed_ms < state.for_ms)
    }

    /// Whether the last write was accepted. `false` if nothing was written yet.
    pub(crate) fn has_accepted(&self) -> bool {
        self.state().has_accepted
    }

    pub(crate) fn accepted(&self) {
        *self.state() = State { has_accepted: true, ..State::default() };
    }

    /// Records a refusal. Each one in a row doubles the time without leases.
    pub(crate) fn refused(&self, now_ms: u64) {
        let mut state = self.state();
        let (first, last) = (whole_ms(Self::FIRST_STEP), whole_ms(Self::LAST_STEP));
        let for_ms = (state.for_ms * 2).clamp(first, last);
        *state = State { has_accepted: false, since_ms: now_ms, for_ms };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_in_a_row_forbids_leases_for_twice_as_long_up_to_five_seconds() {
        let refusals = Refusals::default();
        assert!(!refusals.forbid(0) && !refusals.has_accepted());
        let mut now_ms = 1_000;
        for wait_ms in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            refusals.refused(now_ms);
            assert!(refusals.forbid(now_ms + wait_ms - 1));
            now_ms += wait_ms;
            assert!(!refusals.forbid(now_ms) && !refusals.has_accepted());
        }
        refusals.accepted();
        assert!(!refusals.forbid(now_ms) && refusals.has_accepted());
        refusals.refused(now_ms);
        assert!(!refusals.forbid(now_ms + 100), "an acceptance starts it anew");
    }

    #[test]
    fn a_clock_that_is_set_back_forbids_nothing() {
        let refusals = Refusals::default();
        refusals.refused(1_000_000);
        assert!(!refusals.forbid(5_000));
    }
}
