//! Measures what the line of a request adds to a warm hit: the same function with the line, without it, and with as
//! many bytes written directly, alternating in one run. Direct writes cost what any line would cost. Lines go to
//! standard output, so give it a reader, as on Lambda (waking the reader is most of the cost):
//!
//! ```sh
//! cargo run --release --example telemetry_cost | cat >/dev/null
//! ```

use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use lambda_gateway::{Gateway, Payload, Reply};
use lambda_http::{Context, Error, LambdaEvent, Request};
use lambda_runtime::{Diagnostic, LambdaInvocation};
use response_boost::{MemoryStore, ResponseCacheLayer};
use tower::{Layer as _, Service, ServiceExt as _};
use users_function::config::{Config, variable};
use users_function::telemetry::{self, Telemetry};
use users_function::users::{EmbeddedUsers, Route, UsersApi, routed};

const ROUNDS: usize = 400;
const REQUESTS_A_ROUND: u32 = 500;
/// About the length of a hit's line.
const LINE_BYTES: usize = 660;

fn main() -> Result<(), Error> {
    let config = Config::from_lookup(|name| {
        (name == variable::AWS_LAMBDA_LOG_FORMAT).then(|| "JSON".into())
    })?;
    let namespace = config.namespace;
    let cache =
        ResponseCacheLayer::new(MemoryStore::default(), config.policy, move |request: &Request| {
            Some(namespace.key(Route::of(request).user()?.key_parts()))
        });
    let api = cache.layer(UsersApi::new(EmbeddedUsers));
    let mut without = Gateway::new(api.clone()).map_request(event);
    let with = Gateway::new(api.map_request(|request| {
        let request = routed(request);
        if let Some(pattern) = Route::of(&request).pattern() {
            telemetry::seen_at(pattern);
        }
        request
    }))
    .on_reply(telemetry::answered);
    let mut with = Telemetry::new(&config.log).layer(with.map_request(event));

    tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
        let (mut times_without, mut times_bare, mut times_with) = (vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            times_without.push(round(&mut without, &[]).await?);
            times_bare.push(round(&mut without, &[b' '; LINE_BYTES]).await?);
            times_with.push(round(&mut with, &[]).await?);
        }
        let [without, bare, with] = [times_without, times_bare, times_with].map(median);
        let (costs, own) = (with.saturating_sub(without), with.saturating_sub(bare));
        eprintln!(
            "a hit {without:?}, with its line {with:?}: that costs {costs:?}, {own:?} more than to \
             write so many bytes"
        );
        Ok(())
    })
}

/// The average time of a request.
async fn round<S>(function: &mut S, bare: &[u8]) -> Result<Duration, Error>
where
    S: Service<LambdaInvocation, Response = Reply, Error = Diagnostic>,
{
    let body = Bytes::from_static(include_bytes!("../events/http-existing.json"));
    let mut context = Context::default();
    "8476a536-e9f4-11e8-9739-2dfe598c3fcd".clone_into(&mut context.request_id);
    context.xray_trace_id =
        Some("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1".into());
    let started = Instant::now();
    for _ in 0..REQUESTS_A_ROUND {
        let (parts, ()) = Response::new(()).into_parts();
        let (body, context) = (body.clone(), context.clone());
        let reply = function.call(LambdaInvocation { parts, body, context }).await;
        reply.map_err(|error| error.error_message)?;
        if !bare.is_empty() {
            std::io::stdout().write_all(bare)?;
            std::io::stdout().flush()?;
        }
    }
    Ok(started.elapsed() / REQUESTS_A_ROUND)
}

/// Builds the event as the runtime does.
fn event(LambdaInvocation { body, context, .. }: LambdaInvocation) -> LambdaEvent<Payload> {
    LambdaEvent { payload: body.into(), context }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
