//! The start and the end of each binary.

use std::process::ExitCode;

/// Neither Lambda nor an emulator started the program.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "AWS_LAMBDA_RUNTIME_API is not set: Lambda, or something that plays it, must start this program. \
     To try it here: make run"
)]
pub struct NotLambda;

/// Fails if someone started the program by hand, and says how to start it.
pub fn expect_lambda() -> Result<(), NotLambda> {
    std::env::var_os("AWS_LAMBDA_RUNTIME_API").map(drop).ok_or(NotLambda)
}

/// The exit code. An error is printed, because logging may not have started yet.
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
