//! Until when a request must be answered.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Extensions;

use crate::after_reply;
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

    /// That of a request: its extension, or with the feature `lambda` the end of its invocation.
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

    /// The one that is given, else that of the invocation, in milliseconds since the Unix epoch, as in
    /// [`of`](Self::of).
    pub(crate) fn left_of(given: Option<Self>, now_ms: u64) -> Option<u64> {
        let given = given.or_else(after_reply::deadline).map(|deadline| deadline.at_ms);
        given.filter(|&at_ms| at_ms > now_ms)
    }

    /// How long that is from now. One that is past is none, as in [`of`](Self::of).
    pub(crate) fn left(self, now_ms: u64) -> Option<Duration> {
        self.at_ms.checked_sub(now_ms).filter(|&left_ms| left_ms > 0).map(Duration::from_millis)
    }

    /// The one of a request, in milliseconds since the Unix epoch. One that is past is none: `cargo lambda watch`
    /// gives such, and a request that is being answered has time left.
    pub(crate) fn of(request: &Extensions, now_ms: u64) -> Option<u64> {
        let given = Self::of_request(request).map(|deadline| deadline.at_ms);
        given.filter(|&at_ms| at_ms > now_ms)
    }
}
