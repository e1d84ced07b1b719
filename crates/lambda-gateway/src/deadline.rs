//! How long an invocation may take.

use std::time::{Duration, SystemTime};

use lambda_http::Context;

/// How long an invocation may work, so that there still is an answer: nine tenths of the time that it has left.
#[must_use]
pub fn time_to_answer(invocation: &Context) -> Duration {
    time_left(invocation) * 9 / 10
}

/// How long an invocation may take before it must be answered whatever has become of it, or Lambda
/// ends it without an answer and a word: nineteen twentieths of the time that it has left, so that
/// what keeps to [`time_to_answer`] has had its turn.
pub(crate) fn time_to_reply(invocation: &Context) -> Duration {
    time_left(invocation) * 19 / 20
}

/// The time until Lambda ends an invocation. `cargo lambda watch` gives an end that is long past; an invocation that
/// runs has time left.
fn time_left(invocation: &Context) -> Duration {
    invocation.deadline().duration_since(SystemTime::now()).unwrap_or(LONGEST)
}

/// No invocation lasts longer.
const LONGEST: Duration = Duration::from_mins(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_is_past_leaves_as_much_time_as_an_invocation_can_have() {
        let mut invocation = Context::default();
        invocation.deadline = 600_000;
        assert_eq!(time_to_answer(&invocation), LONGEST * 9 / 10);
        assert!(time_to_answer(&invocation) < time_to_reply(&invocation));
    }
}
