//! What the binaries share: how they start, and how they end.

use std::process::ExitCode;

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
