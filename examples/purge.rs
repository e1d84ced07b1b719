//! Removes everything stored in a namespace: `make purge NAMESPACE=…`, with the same variables as the function
//! (`REDIS_URL` and so on).

use std::io::IsTerminal as _;
use std::process::ExitCode;

use response_boost::{Namespace, RedisStore};
use users_function::config::Config;
use users_function::environment;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    environment::exit_code(run().await)
}

async fn run() -> Result<(), String> {
    let namespace = std::env::args().nth(1).ok_or("usage: purge NAMESPACE")?;
    let namespace = Namespace::parse(&namespace)
        .map_err(|accepted| format!("{namespace} is no namespace; accepted: {accepted}"))?;
    let config = Config::from_lookup(|name| std::env::var_os(name));
    let redis = config.map_err(|error| error.to_string())?.redis;
    let redis = redis.ok_or("REDIS_URL is not set; it names the Redis to remove keys from")?;

    let is_terminal = std::io::stderr().is_terminal();
    let mut lines = 0;
    let progress = |removed| {
        // On a terminal, one line that is overwritten; in a log, a line now and then.
        if is_terminal {
            eprint!("\r{removed} keys removed");
        } else if removed / 100_000 > lines {
            lines = removed / 100_000;
            eprintln!("{removed} keys removed");
        }
    };
    let removed = RedisStore::new(redis).purge(&namespace, progress).await;
    if is_terminal {
        eprintln!();
    }
    let removed = removed.map_err(|fault| {
        let cause = std::error::Error::source(&fault).map(|cause| format!(" ({cause})"));
        format!("{fault}{}; what was removed until then is removed", cause.unwrap_or_default())
    })?;
    println!("{removed} keys of the namespace {} removed", namespace.as_str());
    Ok(())
}
