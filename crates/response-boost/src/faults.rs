//! Limits how often a fault is logged: once, then it is counted, and logged again after a minute.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::StoreError;
use crate::clock::whole_ms;

/// How long a logged fault is not logged again.
const NO_NEWS_FOR: Duration = Duration::from_mins(1);
/// How many different faults to remember; bounded, because causes can contain anything.
const REMEMBERED: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Faults {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    told: Vec<Told>,
    untold: u64,
}

#[derive(Debug)]
struct Told {
    what: String,
    at_ms: u64,
}

impl Faults {
    /// Returns `Some` if the fault should be logged, with the number of faults not logged since the last one.
    pub(crate) fn is_news(
        &self,
        fault: &StoreError,
        consequence: &str,
        now_ms: u64,
    ) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // An open breaker is never worth logging.
        if matches!(fault, StoreError::BreakerOpen) {
            state.untold += 1;
            return None;
        }
        drop(state);
        let cause = std::error::Error::source(fault).map(ToString::to_string);
        self.is_new(format!("{consequence}: {fault}: {}", cause.unwrap_or_default()), now_ms)
    }

    /// The same for any problem, described by `what`.
    pub(crate) fn is_new(&self, what: String, now_ms: u64) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let told = state.told.iter().position(|told| told.what == what);
        let is_old = |told: usize| now_ms.abs_diff(state.told[told].at_ms) < whole_ms(NO_NEWS_FOR);
        if told.is_some_and(is_old) {
            state.untold += 1;
            return None;
        }
        if let Some(told) = told {
            state.told.remove(told);
        } else if state.told.len() == REMEMBERED {
            state.told.remove(0);
        }
        state.told.push(Told { what, at_ms: now_ms });
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_goes_on_is_told_once_a_minute_with_those_between_counted() {
        let faults = Faults::default();
        let refused = |cause: &str| StoreError::Refused(cause.into());
        assert_eq!(faults.is_news(&refused("a"), "not read", 0), Some(0));
        for now_ms in [1, 59_999] {
            assert_eq!(faults.is_news(&refused("a"), "not read", now_ms), None);
            assert_eq!(faults.is_news(&StoreError::BreakerOpen, "not read", now_ms), None);
        }
        assert_eq!(faults.is_news(&refused("a"), "not read", 60_000), Some(4));
        assert_eq!(faults.is_news(&refused("a"), "not read", 60_001), None);
        // Another cause or another consequence makes another fault.
        assert_eq!(faults.is_news(&refused("b"), "not read", 60_002), Some(1));
        assert_eq!(faults.is_news(&refused("a"), "not kept", 60_003), Some(0));
    }

    #[test]
    fn causes_without_end_are_not_remembered_without_end() {
        let faults = Faults::default();
        for cause in 0..1_000 {
            let fault = StoreError::Failed(cause.to_string().into());
            assert_eq!(faults.is_news(&fault, "not read", 0), Some(0));
        }
        assert_eq!(faults.state.lock().unwrap().told.len(), REMEMBERED);
    }
}
