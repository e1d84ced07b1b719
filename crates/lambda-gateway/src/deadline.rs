//! How long an invocation may take.

use std::time::{Duration, SystemTime};

use lambda_http::Context;

/// Until when an invocation may work, so that there still is an answer: nine tenths of the time that
/// it has left.
#[must_use]
pub fn time_to_answer(invocation: &Context) -> SystemTime {
    let now = SystemTime::now();
    let left = invocation.deadline().duration_since(now).ok();
    // `cargo lambda watch` gives an end that is long past; an invocation that runs has time left.
    now + left.map_or(LONGEST, |left| left * 9 / 10)
}

/// How long an invocation may take before it must be answered whatever has become of it, or Lambda
/// ends it without an answer and a word: nineteen twentieths of the time that it has left, so that
/// what keeps to [`time_to_answer`] has had its turn.
#[must_use]
pub(crate) fn time_to_reply(invocation: &Context) -> Duration {
    let left = invocation.deadline().duration_since(SystemTime::now()).ok();
    left.map_or(LONGEST, |left| left * 19 / 20)
}

/// No invocation lasts longer.
const LONGEST: Duration = Duration::from_mins(15);
