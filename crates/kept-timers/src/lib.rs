//! Limits the time of futures by timers that are reused.
//!
//! ```
//! use std::time::Duration;
//! use kept_timers::Timers;
//!
//! # async fn example() {
//! let timers = Timers::default();
//! let second = Duration::from_secs(1);
//! assert_eq!(timers.within(second, async { 1 }).await, Some(1));
//! assert_eq!(timers.within(second, std::future::pending::<()>()).await, None);
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()
//! #     .unwrap().block_on(example());
//! ```

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime;
use tokio::time::{Instant, Sleep, sleep_until};

/// Reusable timers that limit the time of futures; clones share them.
///
/// Setting a new timer wakes tokio's driver by a system call; postponing one that is set does not. So each timer serves
/// one future after another. The pool has as many timers as futures run at the same time.
#[derive(Clone, Debug, Default)]
pub struct Timers {
    idle: Arc<Mutex<Vec<Timer>>>,
}

/// A longer limit is as good as none, and could overflow the clock.
const LONGEST: Duration = Duration::from_hours(24 * 365);

#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// A timer is useless in another runtime.
    runtime: runtime::Id,
}

impl Timers {
    /// Returns the output of `future`, or `None` if it takes longer than `limit`.
    pub async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let mut timer = self.set(Instant::now() + limit.min(LONGEST));
        let output = tokio::select! {
            // An output that is ready at the last moment counts.
            biased;
            output = pin!(future) => Some(output),
            () = &mut timer.sleep => None,
        };
        self.idle().push(timer);
        output
    }

    /// Returns the output of `future`, or `None` if it takes longer than `limit` of this process's running time.
    ///
    /// A plain limit would expire at once when a frozen process resumes, before it could read a reply that arrived long
    /// ago. Here a freeze counts as one tick, however long it is.
    ///
    /// The future is passed by reference, because passing it by value moves it and stores it a second time.
    pub async fn within_running_time<F: Future>(
        &self,
        limit: Duration,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        const TICKS: u32 = 4;
        for _ in 0..TICKS {
            if let Some(output) = self.within(limit / TICKS, future.as_mut()).await {
                return Some(output);
            }
        }
        None
    }

    fn set(&self, ends_at: Instant) -> Timer {
        let runtime = runtime::Handle::current().id();
        match self.idle().pop() {
            Some(mut timer) if timer.runtime == runtime => {
                timer.sleep.as_mut().reset(ends_at);
                timer
            }
            _ => Timer { sleep: Box::pin(sleep_until(ends_at)), runtime },
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Timer>> {
        // Nothing panics while it holds the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;
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

    #[tokio::test]
    async fn a_limit_may_be_longer_than_a_clock_can_tell() {
        let timers = Timers::default();
        assert_eq!(timers.within(Duration::MAX, std::future::ready(7)).await, Some(7));
    }

    #[test]
    fn a_timer_does_not_outlive_its_runtime() {
        let timers = Timers::default();
        for _ in 0..2 {
            let runtime = Builder::new_current_thread().enable_time().build().unwrap();
            let nothing = timers.within(SECOND / 100, std::future::pending::<()>());
            assert_eq!(runtime.block_on(nothing), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_freeze_counts_for_a_part_of_the_limit_only() {
        let timers = Timers::default();
        let started = Instant::now();
        let frozen = async {
            // Like a freeze, the clock jumps: nothing else is polled meanwhile.
            tokio::time::advance(60 * SECOND).await;
            sleep(SECOND / 2).await;
        };
        let in_time = timers.within_running_time(SECOND, pin!(frozen)).await;
        assert_eq!(in_time, Some(()));
        let late = timers.within_running_time(SECOND, pin!(sleep(2 * SECOND))).await;
        assert_eq!((late, started.elapsed()), (None, 61 * SECOND + SECOND / 2));
    }
}
