//! A process as Lambda runs it: it runs only during a request and after its reply.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use response_boost::{
    AfterReplyLayer, CacheKey, Deadline, Namespace, Policy, RedisSettings, RedisStore,
    ResponseCacheLayer,
};
use test_peers::PATIENCE;
use tokio::runtime::Runtime;
use tower::{Layer as _, ServiceExt as _, service_fn};

/// What the process does between two requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    /// It keeps running, as on a server.
    Running,
    /// It is frozen, as on Lambda, with the layer that finishes work after the reply.
    Frozen,
    /// It is frozen, without that layer.
    FrozenWithoutLayer,
}

/// One execution environment, which answers `/KEY` with a body of that name.
pub(crate) struct Environment {
    runtime: Runtime,
    answer: Box<dyn Fn(String) -> Answering>,
    between: Between,
    started: Instant,
}

type Answering = std::pin::Pin<Box<dyn Future<Output = String> + Send>>;

pub(crate) const NAMESPACE: &str = "contract";

pub(crate) fn key(name: &str) -> CacheKey {
    Namespace::parse(NAMESPACE).unwrap().key([name])
}

impl Environment {
    pub(crate) fn new(settings: RedisSettings, between: Between) -> Self {
        let policy = Policy::new(Duration::from_mins(10)).with_deadline(settings.deadline());
        let key_of =
            |request: &Request<()>| Some(key(request.uri().path().trim_start_matches('/')));
        let cache = ResponseCacheLayer::new(RedisStore::new(settings), policy, key_of);
        let service = cache.layer(service_fn(async |request: Request<()>| {
            let body = request.uri().path().to_owned();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
        }));
        let after_reply = AfterReplyLayer::new(|_: &Request<()>| Deadline::after(PATIENCE));
        let answer = move |name: String| -> Answering {
            let request = Request::builder().uri(format!("/{name}")).body(()).unwrap();
            let (plain, layered) = (service.clone(), after_reply.layer(service.clone()));
            Box::pin(async move {
                let response = match between {
                    Between::Frozen => layered.oneshot(request).await,
                    _ => plain.oneshot(request).await,
                };
                let (parts, body) = response.unwrap().into_parts();
                let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
                assert_eq!(body, format!("/{name}"));
                parts.headers["cache-status"].to_str().unwrap().to_owned()
            })
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, answer: Box::new(answer), between, started: Instant::now() }
    }

    /// Sends a request and returns its `Cache-Status`, without the name of the cache.
    pub(crate) fn get(&self, name: &str) -> String {
        let status = self.runtime.block_on((self.answer)(name.to_owned()));
        status.strip_prefix("response-boost; ").unwrap().to_owned()
    }

    pub(crate) fn between(&self) -> Between {
        self.between
    }

    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Lets time pass between two requests.
    pub(crate) fn pause(&self, time: Duration) {
        match self.between {
            Between::Running => self.runtime.block_on(async { tokio::time::sleep(time).await }),
            Between::Frozen | Between::FrozenWithoutLayer => std::thread::sleep(time),
        }
    }

    /// The responses before the first hit, with a pause after each.
    pub(crate) fn requests_until_hit(&self, name: &str, pause: Duration) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let status = self.get(name);
            let is_hit = status.starts_with("hit; ");
            seen.push(status);
            assert!(seen.len() < 100, "no hit: {seen:?}");
            if is_hit {
                return seen;
            }
            self.pause(pause);
        }
    }
}
