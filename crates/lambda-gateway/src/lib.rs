//! Serves events of API Gateway, function URLs and load balancers with a service of HTTP requests, and never fails a
//! gateway's event with a function error.
//!
//! The events are those of an API Gateway REST API (payload 1.0), an HTTP API (2.0, or set to 1.0),
//! a function URL, and an Application Load Balancer. The request has the type and the extensions that
//! [`lambda_http`] gives it ([`RequestExt`]), so that a service written for one runs under the other.
//!
//! # Getting started
//!
//! **1.** Add both crates: `cargo add lambda-gateway lambda_http`.
//!
//! **2.** Write the service. It is a [`tower_service::Service`] from a [`Request`] to a response: a function, an axum
//! router, or a stack of layers.
//!
//! **3.** Call [`run`] instead of [`lambda_http::run`]:
//!
//! ```no_run
//! use http::Response;
//! use lambda_http::{Body, Error, Request, tower::service_fn};
//!
//! async fn hello(request: Request) -> Result<Response<Body>, Error> {
//!     Ok(Response::new(format!("hello, {}", request.uri().path()).into()))
//! }
//!
//! # async fn example() -> Result<(), Error> {
//! lambda_gateway::run(service_fn(hello)).await
//! # }
//! ```
//!
//! A [`Gateway`] in a `Runtime` of your own has more settings: a [base path](Gateway::with_base_path), what to do on a
//! [warm-up event](Gateway::on_warm_up), an [observer of replies](Gateway::on_reply), and requests [without the context
//! of their event](Gateway::without_request_context), which cost half as much.
//!
//! # Differences from `lambda_http`
//!
//! | | `lambda_http` | this crate |
//! | --- | --- | --- |
//! | an odd query string or `Host` | panics, which ends as a function error | serves the query string, and answers a malformed `Host` with 400 |
//! | a payload that is not UTF-8 or not JSON | ends as a function error | replaces what is not UTF-8, and answers what is not JSON with 400 |
//! | a header of `null` or a number, `"isBase64Encoded": "true"`, a body that is an object | ends as a function error | reads what has one sensible meaning, and leaves out the rest |
//! | a request context that the types do not fit | ends as a function error | serves the request without its context |
//! | the path of the URI | keeps the stage (unless told otherwise) and the base path of a custom domain | drops both, and percent-encodes the path as the client did, behind every gateway; [`RequestExt::raw_http_path`] is the path of the event |
//! | path parameters | hands them on as the gateway sends them | decodes them, once |
//! | a repeated header of a reply | sends its first value, in payload 2.0 | sends all values |
//! | the body of a reply | sends text or base64 as the type says, perhaps in another character set | sends it byte for byte, as text where it is UTF-8 |
//! | the body of a reply to `HEAD` | sends it | leaves it out, and says its length in `Content-Length` |
//! | a service that does not answer in time | waits until Lambda ends the invocation | answers with a 503 problem shortly before |
//! | an event of a queue, a stream or a bus | ends as a function error that does not name the source | ends as a function error that names it ([`NotARequest`]) |
//! | an event that keeps an environment warm | ends as a function error | answers with 200, after [`Gateway::on_warm_up`] |
//! | an event of a WebSocket API or of VPC Lattice | serves it, with a feature | answers with 400 |
//!
//! This crate serves every other event of these gateways that `lambda_http` serves.
//!
//! [`RequestExt`]: lambda_http::RequestExt
//! [`RequestExt::raw_http_path`]: lambda_http::RequestExt::raw_http_path

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod base_path;
mod deadline;
mod kind;
mod payload;
pub mod problem;
mod repair;
mod reply;
mod request;
mod source;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Collected};
use lambda_http::lambda_runtime::{Diagnostic, Runtime};
use lambda_http::{Error, LambdaEvent, Request, RequestExt as _};
use tower_service::Service;
use tracing::{error, warn};

pub use self::base_path::{BasePath, InvalidBasePath};
pub use self::deadline::time_to_answer;
use self::deadline::time_to_reply;
use self::kind::Kind;
pub use self::payload::{Payload, Payloads, WithPayloads};
pub use self::reply::Reply;
use self::request::{NoRequest, Reading};
pub use self::source::NotARequest;
use self::source::Source;
use kept_timers::Timers;

/// Answers the events of a function by `service` until Lambda ends it, like [`lambda_http::run`], with the differences
/// that the [crate](self) lists.
///
/// ```no_run
/// use http::Response;
/// use lambda_http::{Body, Error, Request, tower::service_fn};
///
/// # async fn example() -> Result<(), Error> {
/// let hello = service_fn(async |_: Request| Ok::<_, Error>(Response::new(Body::from("hello"))));
/// lambda_gateway::run(hello).await
/// # }
/// ```
pub async fn run<S, B>(service: S) -> Result<(), Error>
where
    S: Service<Request, Response = Response<B>>,
    S::Error: Into<Diagnostic> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: fmt::Display,
{
    Runtime::new(Gateway::new(service)).layer(Payloads).run().await
}

/// Serves gateway events by a service of HTTP requests, in a [`Runtime`] of your own.
///
/// ```no_run
/// use http::Response;
/// use lambda_http::{Body, Error, Request, lambda_runtime::Runtime, tower::service_fn};
/// use lambda_gateway::{Gateway, Payloads};
///
/// # async fn example() -> Result<(), Error> {
/// let hello = service_fn(async |_: Request| Ok::<_, Error>(Response::new(Body::from("hello"))));
/// let gateway = Gateway::new(hello).without_request_context();
/// Runtime::new(gateway).layer(Payloads).run().await
/// # }
/// ```
#[derive(Clone)]
pub struct Gateway<S> {
    service: S,
    reading: Reading,
    on_reply: fn(StatusCode),
    warm_up: WarmUp,
    timers: Timers,
}

type WarmUp = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

impl<S> Gateway<S> {
    /// Creates a gateway that calls `service`.
    pub fn new(service: S) -> Self {
        Self {
            service,
            reading: Reading { with_context: true, ..Reading::default() },
            on_reply: |_| (),
            warm_up: Arc::new(|| Box::pin(async {})),
            timers: Timers::default(),
        }
    }

    /// Removes `base_path` from each path that begins with it. Behind a load balancer or a function URL, no route tells
    /// the base path from the service's own path. Other paths stay unchanged.
    #[must_use]
    pub fn with_base_path(mut self, base_path: BasePath) -> Self {
        self.reading.base_path = base_path;
        self
    }

    /// Runs `work` on an event that only starts an environment or keeps it warm: `EventBridge`'s `Scheduled Event`, and
    /// events of plugins that send `"source": "serverless-plugin-warmup"` or `"warmer": true`. The reply is a 200, and
    /// no [observer](Self::on_reply) sees it.
    #[must_use]
    pub fn on_warm_up<F>(mut self, work: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.warm_up = Arc::new(move || Box::pin(work()));
        self
    }

    /// Calls `observer` with the status of each reply, during the call that returns it, including replies that do not
    /// involve the service.
    #[must_use]
    pub fn on_reply(self, observer: fn(StatusCode)) -> Self {
        Self { on_reply: observer, ..self }
    }

    /// Leaves out the context of an event, so that
    /// [`request_context_ref`](lambda_http::RequestExt::request_context_ref) returns `None`. Decoding the context is
    /// half of a request's cost, so use this for a service that never reads it.
    #[must_use]
    pub fn without_request_context(mut self) -> Self {
        self.reading.with_context = false;
        self
    }
}

impl<S: fmt::Debug> fmt::Debug for Gateway<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, reading, .. } = self;
        f.debug_struct("Gateway")
            .field("service", service)
            .field("reading", reading)
            .finish_non_exhaustive()
    }
}

/// An error is the service's own or [`NotARequest`], and ends the invocation with a function error.
impl<S, B> Service<LambdaEvent<Payload>> for Gateway<S>
where
    S: Service<Request, Response = Response<B>>,
    S::Error: Into<Diagnostic> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: fmt::Display,
{
    type Response = Reply;
    type Error = Diagnostic;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Diagnostic>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, event: LambdaEvent<Payload>) -> Self::Future {
        let LambdaEvent { payload, context } = event;
        let on_reply = self.on_reply;
        let answered = move |kind, response: Response<Bytes>| {
            on_reply(response.status());
            Reply::new(kind, response)
        };
        let (kind, request) = self.reading.of_event(payload.as_bytes());
        match request {
            Ok(mut request) => {
                let trace_id = context.xray_trace_id.as_deref().map(HeaderValue::from_str);
                if let Some(Ok(trace_id)) = trace_id {
                    let name = HeaderName::from_static("x-amzn-trace-id");
                    // If the headers have no room for it, still answer.
                    let _ = request.headers_mut().try_insert(name, trace_id);
                }
                let is_head = request.method() == Method::HEAD;
                let time_left = time_to_reply(&context);
                let timers = self.timers.clone();
                let answer = self.service.call(request.with_lambda_context(context));
                Box::pin(async move {
                    let answer = async {
                        let (parts, body) =
                            answer.await.map_err(Into::<Diagnostic>::into)?.into_parts();
                        let body = body.collect().await.map(Collected::to_bytes);
                        Ok::<_, Diagnostic>(body.map(|body| Response::from_parts(parts, body)))
                    };
                    let response = match timers.within(time_left, answer).await {
                        Some(Ok(Ok(response))) => response,
                        Some(Ok(Err(failure))) => {
                            unavailable(&format!("a body that cannot be read: {failure}"))
                        }
                        Some(Err(error)) => return Err(error),
                        None => unavailable("no answer in time"),
                    };
                    let response = if is_head { without_body(response) } else { response };
                    Ok(answered(kind, response))
                })
            }
            Err(NoRequest::Other(Source::Poller(source))) => Box::pin(async { Err(source.into()) }),
            Err(NoRequest::Other(Source::WarmUp)) => {
                let (work, time_left) = ((self.warm_up)(), time_to_reply(&context));
                let timers = self.timers.clone();
                Box::pin(async move {
                    timers.within(time_left, work).await;
                    Ok(Reply::new(Kind::Unknown, Response::default()))
                })
            }
            Err(NoRequest::Malformed(reason)) => {
                warn!(reason, "an event that is no request; answered with 400");
                let reply = answered(kind, problem::bad_request(reason).map(bytes));
                Box::pin(async { Ok(reply) })
            }
        }
    }
}

/// The response when the service has failed.
fn unavailable(reason: &str) -> Response<Bytes> {
    error!("{reason}; answered with 503");
    problem::unavailable().map(bytes)
}

/// The response to a `HEAD`: that of a `GET`, with the length of the omitted body (RFC 9110 §9.3.2).
fn without_body(mut response: Response<Bytes>) -> Response<Bytes> {
    let body = std::mem::take(response.body_mut());
    if !body.is_empty() {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| body.len().into());
    }
    response
}

fn bytes(body: lambda_http::Body) -> Bytes {
    match body {
        lambda_http::Body::Text(text) => text.into(),
        lambda_http::Body::Binary(bytes) => bytes.into(),
        _ => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use http_body_util::Full;
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    #[derive(Clone)]
    struct Broken;

    impl Body for Broken {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(Some(Err("cut off")))
        }
    }

    async fn reply<B>(method: &str, body: B) -> serde_json::Value
    where
        B: Body<Data = Bytes, Error: fmt::Display> + Clone + Send + 'static,
    {
        let service = service_fn(move |_: Request| {
            std::future::ready(Ok::<_, &str>(Response::new(body.clone())))
        });
        let event = include_str!("../../../events/http-existing.json").replace("\"GET\"", method);
        let event = LambdaEvent { payload: event.into(), context: lambda_http::Context::default() };
        serde_json::to_value(Gateway::new(service).oneshot(event).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_body_that_cannot_be_read_is_a_503() {
        for method in ["\"GET\"", "\"HEAD\""] {
            let reply = reply(method, Broken).await;
            assert_eq!(
                (&reply["statusCode"], &reply["headers"]["retry-after"]),
                (&503.into(), &"1".into())
            );
            assert_eq!(reply.get("body").is_some(), method == "\"GET\"");
        }
    }

    #[tokio::test]
    async fn a_head_gets_the_head_of_a_get_and_its_length() {
        let full = |body: &'static str| Full::new(Bytes::from_static(body.as_bytes()));
        let (get, head) =
            (reply("\"GET\"", full("hello")).await, reply("\"HEAD\"", full("hello")).await);
        assert_eq!((&get["body"], head.get("body")), (&"hello".into(), None));
        assert_eq!(head["headers"]["content-length"], "5");
        // A service that omits the body has set the headers itself.
        assert_eq!(reply("\"HEAD\"", full("")).await["headers"], serde_json::json!({}));
    }
}
