//! What the binaries share: where they run, and how they end.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use lambda_http::Context;

/// The program was not started by Lambda, or by something that plays it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "AWS_LAMBDA_RUNTIME_API is not set: Lambda, or something that plays it, must start this program. \
     To try it here: make run"
)]
pub struct NotLambda;

/// Tells somebody who has started the program by hand how it is meant to be started.
pub fn expect_lambda() -> Result<(), NotLambda> {
    std::env::var_os("AWS_LAMBDA_RUNTIME_API").map(drop).ok_or(NotLambda)
}

/// The exit code; an error is printed, since there may be no log to write to yet.
pub fn exit_code<E: std::fmt::Display>(ended: Result<(), E>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "see above")]
            {
                eprintln!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}

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
pub fn time_to_reply(invocation: &Context) -> Duration {
    let left = invocation.deadline().duration_since(SystemTime::now()).ok();
    left.map_or(LONGEST, |left| left * 19 / 20)
}

/// No invocation lasts longer.
const LONGEST: Duration = Duration::from_mins(15);
