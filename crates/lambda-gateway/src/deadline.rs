//! How long an invocation may take.

use std::time::{Duration, SystemTime};

use lambda_http::Context;

/// How long an invocation may work and still be able to answer: nine tenths of the time it has left.
#[must_use]
pub fn time_to_answer(invocation: &Context) -> Duration {
    time_left(invocation) * 9 / 10
}

/// When an invocation must be answered whatever its state, before Lambda ends it without an answer or a message: after
/// nineteen twentieths of the time it has left, so that work limited by [`time_to_answer`] has ended.
pub(crate) fn time_to_reply(invocation: &Context) -> Duration {
    time_left(invocation) * 19 / 20
}

/// The time until Lambda ends an invocation. `cargo lambda watch` sends deadlines that are long past, although the
/// invocation still has time.
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
