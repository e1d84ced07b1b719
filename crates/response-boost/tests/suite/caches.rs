//! The caches of responses and of values behind one face, so that a suite tests both by the same scenarios: ask for a
//! key, with a load. The load responds as a service does. For the cache of values a 200 is the value, a 404 or 410 is
//! `None`, and any other status is an error.

use std::convert::Infallible;
use std::fmt;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Full};
use response_boost::{
    CacheKey, Deadline, Keep, Namespace, Policy, Recorder, ResponseCacheLayer, Store, StoreError,
    ValueCache, ValueError,
};
use tower::{ServiceExt as _, service_fn};
use tower_layer::Layer as _;

pub(crate) type Request = http::Request<()>;
pub(crate) type Body = Full<Bytes>;
/// A layer that takes the key from an extension of the request.
pub(crate) type Responses<S> = ResponseCacheLayer<S, fn(&Request) -> Option<CacheKey>>;

/// Runs each scenario for responses and for values.
macro_rules! for_both {
    ($($scenario:ident),+ $(,)?) => {
        mod responses {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(crate::caches::Kind::Responses).await;
            })+
        }

        mod values {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(crate::caches::Kind::Values).await;
            })+
        }
    };
}
pub(crate) use for_both;

/// What a cache stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Responses,
    Values,
}

pub(crate) enum Cache<S> {
    Responses(Responses<S>),
    Values(ValueCache<String, S>),
}

impl<S> Clone for Cache<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Responses(layer) => Self::Responses(layer.clone()),
            Self::Values(values) => Self::Values(values.clone()),
        }
    }
}

/// What a caller gets. A value has the status 200, and `None` 404.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// The member of `Cache-Status`. Empty for a value whose load failed.
    pub(crate) cache_status: String,
}

impl Kind {
    /// How the status of an entry begins that is served because its load failed with `status`. Only a response has a
    /// status to report.
    pub(crate) fn stood_in(self, status: u16) -> String {
        match self {
            Self::Responses => format!("response-boost; fwd=stale; fwd-status={status}; ttl="),
            Self::Values => "response-boost; fwd=stale; ttl=".to_owned(),
        }
    }
}

pub(crate) fn key_of(request: &Request) -> Option<CacheKey> {
    request.extensions().get().cloned()
}

impl<S: Store> Cache<S> {
    pub(crate) fn new(kind: Kind, store: S, policy: Policy) -> Self {
        match kind {
            Kind::Responses => Self::Responses(ResponseCacheLayer::new(store, policy, key_of)),
            Kind::Values => {
                // The keys are complete.
                let namespace = Namespace::parse("unused").unwrap();
                Self::Values(ValueCache::new(store, policy, namespace))
            }
        }
    }

    pub(crate) async fn ask<F>(
        &self,
        key: &CacheKey,
        deadline: Option<Deadline>,
        load: impl Fn() -> F + Clone + Send + 'static,
    ) -> Answer
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        // On the heap: it is large, and many tests wait for it.
        Box::pin(async move {
            match self {
                Self::Responses(layer) => {
                    let service = service_fn(move |_: Request| {
                        let loaded = load();
                        async move { Ok::<_, Infallible>(loaded.await) }
                    });
                    let mut request = Request::default();
                    request.extensions_mut().insert(key.clone());
                    if let Some(deadline) = deadline {
                        request.extensions_mut().insert(deadline);
                    }
                    let response = layer.layer(service).oneshot(request).await.unwrap();
                    let (parts, body) = response.into_parts();
                    Answer {
                        status: parts.status.as_u16(),
                        body: text(body).await,
                        cache_status: parts.headers["cache-status"].to_str().unwrap().to_owned(),
                    }
                }
                Self::Values(values) => {
                    let recorder = Recorder::default();
                    let load = move || value_of(load());
                    let values = values.until(deadline);
                    let asked = values.get_or_load(key, load);
                    let (status, body) = match recorder.watch(asked).await {
                        Ok(Some(value)) => (200, value),
                        Ok(None) => (404, String::new()),
                        Err(ValueError::Load(Failed { status, body })) => (status, body),
                        Err(_) => (503, String::new()),
                    };
                    let cache_status = recorder.report().status.map(|status| status.to_string());
                    Answer { status, body, cache_status: cache_status.unwrap_or_default() }
                }
            }
        })
        .await
    }

    pub(crate) async fn invalidate(&self, key: &CacheKey) -> Result<(), StoreError> {
        match self {
            Self::Responses(layer) => layer.invalidate(key).await,
            Self::Values(values) => values.invalidate(key).await,
        }
    }
}

/// A load that failed with this response.
struct Failed {
    status: u16,
    body: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)
    }
}

async fn value_of(
    loaded: impl Future<Output = Response<Body>>,
) -> Result<(Option<String>, Keep), Failed> {
    let (mut parts, body) = loaded.await.into_parts();
    let keep = parts.extensions.remove().unwrap_or_else(|| Keep::tagged([]));
    let body = text(body).await;
    match parts.status.as_u16() {
        200 => Ok((Some(body), keep)),
        404 | 410 => Ok((None, keep)),
        status => Err(Failed { status, body }),
    }
}

async fn text<B: http_body::Body<Data = Bytes>>(body: B) -> String
where
    B::Error: fmt::Debug,
{
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
