//! Until when a request must be answered.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Extensions;

use crate::clock::whole_ms;

/// When the whole request must be answered: an extension of the request.
///
/// The cache then takes no more than half of the time that is left whenever it asks its store, waits for
/// another's load only while there is time for one of its own, and cuts a load off a twelfth of that time before the
/// end. Without it a request has no end.
///
/// With the feature `lambda` a request that [`lambda_http`] or [`lambda_runtime`] has given its `Context` needs
/// none: that has the end of the invocation. This extension goes before it.
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
    /// This time on the wall clock.
    #[must_use]
    pub fn at(time: SystemTime) -> Self {
        Self { at_ms: time.duration_since(UNIX_EPOCH).map_or(0, whole_ms) }
    }

    /// This long from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        let now = Self::at(SystemTime::now());
        Self { at_ms: now.at_ms.saturating_add(whole_ms(time)) }
    }

    /// How long that is from now. One that is past is none, as in [`of`](Self::of).
    pub(crate) fn left(self, now_ms: u64) -> Option<Duration> {
        self.at_ms.checked_sub(now_ms).filter(|&left_ms| left_ms > 0).map(Duration::from_millis)
    }

    /// The one of a request, in milliseconds since the Unix epoch. One that is past is none: `cargo lambda watch`
    /// gives such, and a request that is being answered has time left.
    pub(crate) fn of(request: &Extensions, now_ms: u64) -> Option<u64> {
        let given = request.get::<Self>().map(|deadline| deadline.at_ms);
        #[cfg(feature = "lambda")]
        let given = given
            .or_else(|| request.get::<lambda_runtime::Context>().map(|context| context.deadline));
        given.filter(|&at_ms| at_ms > now_ms)
    }
}
