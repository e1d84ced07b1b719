//! The release check: checks a new version of the users function before it gets requests. Wires configuration, check
//! and `CodeDeploy` together.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use tracing::{error, info};
use users_function::config::ReleaseCheckConfig;
use users_function::release_check::{Hook, check, report};
use users_function::{environment, telemetry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    environment::exit_code(start().await)
}

async fn start() -> Result<(), Error> {
    let config = ReleaseCheckConfig::from_lookup(|name| std::env::var_os(name))?;
    telemetry::init(&config.log);
    environment::expect_lambda()?;
    let function = service_fn(async |event: LambdaEvent<Hook>| {
        telemetry::within(&event.context, async {
            let checked = check(&config).await;
            match &checked {
                Ok(()) => info!("the new version passed its release check"),
                Err(unfit) => {
                    error!(reason = unfit.to_string(), "the new version gets no requests");
                }
            }
            report(&event.payload, checked.is_ok()).await
        })
        .await
    });
    Runtime::new(function).run().await
}
