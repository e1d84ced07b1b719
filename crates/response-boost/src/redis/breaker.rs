//! The circuit breaker: which requests may call a Redis that has failed.
//!
//! After a fault, no request waits for Redis for a while. Then one request at a time may start a probe beside its load.
//! The probe closes the breaker or doubles the time it stays open.

use std::time::Duration;

use crate::clock::whole_ms;

/// All times are wall-clock times: on Lambda an environment is frozen between two requests, and the frozen time counts.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// When the first fault since the last success occurred.
    failed_at_ms: u64,
    since_ms: u64,
    for_ms: u64,
    is_probed: bool,
}

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Call Redis.
    Ask,
    /// Do without Redis.
    Refused,
    /// Do without Redis, and start a probe.
    RefusedButProbe,
}

impl Breaker {
    const FIRST_STEP: Duration = Duration::from_millis(100);
    const LAST_STEP: Duration = Duration::from_secs(5);

    /// What a request may do now. A caller that gets `RefusedButProbe` must report how its probe ended.
    pub(super) fn admit(&mut self, now_ms: u64) -> Admission {
        match &mut self.open {
            None => Admission::Ask,
            Some(open) if open.is_probed || open.lasts(now_ms) => Admission::Refused,
            Some(open) => {
                open.is_probed = true;
                Admission::RefusedButProbe
            }
        }
    }

    /// Whether requests may call Redis.
    pub(super) fn is_closed(&self) -> bool {
        self.open.is_none()
    }

    /// Records a request's fault. If the breaker is open already, nothing changes.
    pub(super) fn fault(&mut self, now_ms: u64) {
        self.open.get_or_insert_with(|| Open {
            failed_at_ms: now_ms,
            since_ms: now_ms,
            for_ms: whole_ms(Self::FIRST_STEP),
            is_probed: false,
        });
    }

    /// Records that the probe failed.
    pub(super) fn probe_failed(&mut self, now_ms: u64) {
        let last_step = whole_ms(Self::LAST_STEP);
        if let Some(open) = &mut self.open {
            let for_ms = open.for_ms.saturating_mul(2).min(last_step);
            *open = Open { since_ms: now_ms, for_ms, is_probed: false, ..*open };
        }
    }

    /// Records that Redis answered. Returns how long it had not, in milliseconds.
    pub(super) fn success(&mut self, now_ms: u64) -> u64 {
        self.open.take().map_or(0, |open| now_ms.saturating_sub(open.failed_at_ms))
    }

    /// How long the breaker stays open; `None` if it is closed.
    pub(super) fn open_for(&self, now_ms: u64) -> Option<Duration> {
        let open = self.open.as_ref()?;
        let left_ms = (open.since_ms + open.for_ms).saturating_sub(now_ms).min(open.for_ms);
        Some(Duration::from_millis(left_ms))
    }
}

impl Open {
    fn lasts(&self, now_ms: u64) -> bool {
        // If the clock was set back, the breaker must not stay open for longer.
        now_ms.checked_sub(self.since_ms).is_some_and(|passed_ms| passed_ms < self.for_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::Admission::{Ask, Refused, RefusedButProbe};
    use super::*;

    #[test]
    fn a_fault_opens_it_and_a_success_closes_it() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.admit(0), Ask);
        breaker.fault(1_000);
        assert!(!breaker.is_closed());
        assert_eq!(breaker.admit(1_099), Refused);
        assert_eq!(breaker.open_for(1_040), Some(Duration::from_millis(60)));
        assert_eq!(breaker.success(1_150), 150);
        assert!(breaker.is_closed());
        assert_eq!(breaker.open_for(1_150), None);
        assert_eq!(breaker.admit(1_099), Ask);
    }

    #[test]
    fn one_request_at_a_time_probes() {
        let mut breaker = Breaker::default();
        breaker.fault(1_000);
        assert_eq!(breaker.admit(1_100), RefusedButProbe);
        assert_eq!(breaker.admit(1_100), Refused);
        assert_eq!(breaker.admit(90_000), Refused, "for as long as the probe takes");
    }

    #[test]
    fn each_failed_probe_doubles_the_wait_up_to_five_seconds() {
        let mut breaker = Breaker::default();
        let mut now_ms = 1_000;
        breaker.fault(now_ms);
        for wait_ms in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            assert_eq!(breaker.admit(now_ms + wait_ms - 1), Refused);
            assert_eq!(breaker.admit(now_ms + wait_ms), RefusedButProbe);
            now_ms += wait_ms;
            breaker.probe_failed(now_ms);
        }
        assert_eq!(breaker.success(now_ms), now_ms - 1_000);
        breaker.fault(now_ms);
        assert_eq!(breaker.admit(now_ms + 100), RefusedButProbe, "a success starts it anew");
    }

    #[test]
    fn more_faults_while_it_is_open_change_nothing() {
        let mut breaker = Breaker::default();
        breaker.fault(1_000);
        breaker.fault(1_099);
        assert_eq!(breaker.admit(1_100), RefusedButProbe);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_hold_it_open() {
        let mut breaker = Breaker::default();
        breaker.fault(1_000_000);
        assert_eq!(breaker.admit(5_000), RefusedButProbe);
    }
}
