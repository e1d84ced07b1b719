//! The cache around a Lambda service of your own, here one that greets by name.

use std::time::Duration;

use http::{Method, Response};
use lambda_gateway::Gateway;
use lambda_http::{Body, Error, Request};
use lambda_runtime::{LambdaInvocation, Runtime};
use response_boost::{
    AfterReplyLayer, Deadline, MemoryStore, Namespace, Policy, ResponseCacheLayer,
};
use tower::{ServiceBuilder, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // 1. What may be kept, and for how long.
    let policy = Policy::new(Duration::from_secs(30));

    // 2. Which requests have an answer to keep, and under what: everything the answer depends on.
    //    `None` means not cached. If it depends on who asks, the caller belongs into the key.
    let namespace = Namespace::parse("greetings")?;
    let key_of = move |request: &Request| {
        let is_read = [Method::GET, Method::HEAD].contains(request.method());
        is_read.then(|| namespace.key(["to", name(request)]))
    };

    // 3. Where it is kept. For all environments together: `RedisStore::new(RedisSettings::parse(url)?)`.
    let store = MemoryStore::default();

    // 4. The layer around the service; `Gateway` takes the events of all kinds of gateway.
    let service = ServiceBuilder::new()
        .layer(ResponseCacheLayer::new(store, policy, key_of))
        .service(service_fn(greet));

    // 5. What a request leaves to do is done after its reply, before Lambda freezes the environment.
    let after_reply = AfterReplyLayer::new(|invocation: &LambdaInvocation| {
        Deadline::at(invocation.context.deadline())
    });
    Runtime::new(Gateway::new(service)).layer(after_reply).run().await
}

/// What the cache saves you from doing each time.
async fn greet(request: Request) -> Result<Response<Body>, Error> {
    Ok(Response::new(format!("Hello, {}!\n", name(&request)).into()))
}

fn name(request: &Request) -> &str {
    request.uri().path().trim_start_matches('/')
}
