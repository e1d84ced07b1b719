//! Limits on the time of futures, by timers that are kept from one to the next.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// To set a new timer wakes tokio's driver, by a system call; to put off one that is set does not. So
/// each timer serves one future after the other: one at a time, and as many as there are at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    idle: Arc<Mutex<Vec<Pin<Box<Sleep>>>>>,
}

impl Timers {
    /// What `future` comes to, unless it takes longer than `limit`.
    pub(super) async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let ends_at = Instant::now() + limit;
        let mut timer = match self.idle().pop() {
            Some(mut timer) => {
                timer.as_mut().reset(ends_at);
                timer
            }
            None => Box::pin(sleep_until(ends_at)),
        };
        let output = tokio::select! {
            // What is there in the last moment counts.
            biased;
            output = pin!(future) => Some(output),
            () = &mut timer => None,
        };
        self.idle().push(timer);
        output
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Pin<Box<Sleep>>>> {
        // Nothing panics while it is held.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn each_future_has_its_own_limit_whatever_the_one_before_had() {
        let timers = Timers::default();
        for seconds in [5, 1, 9, 2] {
            let limit = seconds * SECOND;
            let started = Instant::now();
            assert_eq!(timers.within(limit, std::future::pending::<()>()).await, None);
            assert_eq!(started.elapsed(), limit);
            let in_time = timers.within(limit, sleep(limit / 2));
            assert_eq!(in_time.await, Some(()));
        }
        assert_eq!(timers.idle().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn futures_at_once_have_a_timer_each() {
        let timers = Timers::default();
        let started = Instant::now();
        let (first, second) = tokio::join!(
            timers.within(SECOND, std::future::pending::<()>()),
            timers.within(3 * SECOND, sleep(2 * SECOND)),
        );
        assert_eq!((first, second, started.elapsed()), (None, Some(()), 2 * SECOND));
        assert_eq!(timers.idle().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_that_is_dropped_takes_its_timer_with_it() {
        let timers = Timers::default();
        drop(tokio::time::timeout(SECOND, timers.within(9 * SECOND, sleep(5 * SECOND))).await);
        assert_eq!(timers.idle().len(), 0);
        assert_eq!(timers.within(SECOND, std::future::ready(7)).await, Some(7));
    }
}
