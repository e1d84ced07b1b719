//! What the line of a request costs a warm hit: the same function with it and without it, in turns,
//! in one run. Lines go to standard output, so give it a reader, as Lambda does:
//!
//! ```sh
//! cargo run --release --example telemetry_cost | cat >/dev/null
//! ```

use std::time::{Duration, Instant};

use lambda_http::tower::{Layer as _, Service, ServiceExt as _};
use lambda_http::{Context, Error, LambdaEvent, Request};
use response_boost::cache::{MemoryStore, ResponseCache};
use response_boost::config::{Config, variable};
use response_boost::event::{Gateway, Reply};
use response_boost::telemetry::{self, Telemetry};
use response_boost::users::{self, EmbeddedUsers, UsersApi, requested_user};
use serde_json::value::RawValue;

const ROUNDS: usize = 400;
const REQUESTS_A_ROUND: u32 = 500;

fn main() -> Result<(), Error> {
    let config = Config::from_lookup(|name| {
        (name == variable::AWS_LAMBDA_LOG_FORMAT).then(|| "JSON".into())
    })?;
    let namespace = config.namespace;
    let cache =
        ResponseCache::new(MemoryStore::default(), config.policy, move |request: &Request| {
            Some(namespace.key(requested_user(request)?.key_parts()))
        });
    let api = cache.layer(UsersApi::new(EmbeddedUsers));
    let mut without = Gateway::new(api.clone());
    let mut with =
        Telemetry::new(&config.log).layer(Gateway::new(api.map_request(|request: Request| {
            if let Some(route) = users::route(&request) {
                telemetry::seen_at(route);
            }
            request
        })));

    tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
        let (mut times_without, mut times_with) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            times_without.push(round(&mut without).await?);
            times_with.push(round(&mut with).await?);
        }
        let (without, with) = (median(times_without), median(times_with));
        let costs = with.saturating_sub(without);
        eprintln!("a hit without its line {without:?}, with it {with:?}: the line costs {costs:?}");
        Ok(())
    })
}

/// The time that one of many requests takes.
async fn round<S>(function: &mut S) -> Result<Duration, Error>
where
    S: Service<LambdaEvent<Box<RawValue>>, Response = Reply, Error = Error>,
{
    let payload = RawValue::from_string(include_str!("../events/http-existing.json").to_owned())?;
    let mut context = Context::default();
    "8476a536-e9f4-11e8-9739-2dfe598c3fcd".clone_into(&mut context.request_id);
    context.xray_trace_id =
        Some("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1".into());
    let started = Instant::now();
    for _ in 0..REQUESTS_A_ROUND {
        let event = LambdaEvent { payload: payload.clone(), context: context.clone() };
        function.call(event).await?;
    }
    Ok(started.elapsed() / REQUESTS_A_ROUND)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
