//! The time by which a request must be answered.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Extensions;

use crate::after_reply;
use crate::clock::{Clock, whole_ms};

/// The time by which the whole request must be answered; an extension of the request.
///
/// The cache then waits for the store no longer than half of the time left, waits for another request's load only while
/// enough time remains for its own, and cancels a load after eleven twelfths of the time left. Without this extension a
/// request has no deadline.
///
/// With the feature `lambda`, a request to which [`lambda_http`] or [`lambda_runtime`] has attached its `Context` does
/// not need the extension: the cache reads the deadline of the invocation from the `Context`. The extension takes
/// precedence.
///
/// ```
/// use std::time::Duration;
/// use response_boost::Deadline;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Deadline::after(Duration::from_secs(3)));
/// ```
///
/// [`lambda_http`]: https://docs.rs/lambda_http
/// [`lambda_runtime`]: https://docs.rs/lambda_runtime
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    at_ms: u64,
}

impl Deadline {
    /// A deadline at this time on the wall clock.
    #[must_use]
    pub fn at(time: SystemTime) -> Self {
        Self { at_ms: time.duration_since(UNIX_EPOCH).map_or(0, whole_ms) }
    }

    /// A deadline this long from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        let now = Self::at(SystemTime::now());
        Self { at_ms: now.at_ms.saturating_add(whole_ms(time)) }
    }

    /// The deadline of a request: its extension, or, with the feature `lambda`, the deadline of its invocation.
    #[must_use]
    pub fn of_request(request: &Extensions) -> Option<Self> {
        let given = request.get::<Self>().copied();
        #[cfg(feature = "lambda")]
        let given = given.or_else(|| {
            let context = request.get::<lambda_runtime::Context>();
            context.map(|context| Self { at_ms: context.deadline })
        });
        given
    }

    /// The given deadline, otherwise that of the invocation, in milliseconds since the Unix epoch. A past deadline
    /// counts as no deadline, as in [`of`](Self::of).
    pub(crate) fn left_of(given: Option<Self>, clock: &Clock) -> Option<u64> {
        let given = given.or_else(after_reply::deadline).map(|deadline| deadline.at_ms);
        given.filter(|&at_ms| at_ms > clock.now_ms())
    }

    /// The time left until the deadline. A past deadline counts as no deadline, as in [`of`](Self::of).
    pub(crate) fn left(self, now_ms: u64) -> Option<Duration> {
        self.at_ms.checked_sub(now_ms).filter(|&left_ms| left_ms > 0).map(Duration::from_millis)
    }

    /// The deadline of a request, in milliseconds since the Unix epoch. A past deadline counts as no deadline: `cargo
    /// lambda watch` sends past deadlines, although the request still has time.
    pub(crate) fn of(request: &Extensions, clock: &Clock) -> Option<u64> {
        let given = Self::of_request(request).map(|deadline| deadline.at_ms);
        given.filter(|&at_ms| at_ms > clock.now_ms())
    }
}
