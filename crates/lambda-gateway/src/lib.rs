//! Gateway events: from the raw JSON of an invocation to a request, and from a response to the
//! reply.
//!
//! The events are those of an API Gateway REST API (payload 1.0), an HTTP API (2.0, or set to 1.0),
//! a function URL, and an Application Load Balancer. What comes of them is the request that
//! [`lambda_http`] would make, with the same extensions ([`RequestExt`]), but for this:
//!
//! - **No event panics or ends in a function error.** `lambda_http` panics on some hosts, query
//!   strings and bodies, and refuses a whole event for one header or claim that is not as it expects.
//!   Here what can be served is served, and the rest is answered with a 400 problem.
//! - **The path of the URI is the same wherever the function stands behind:** percent-encoded,
//!   without a stage and without the base path of a custom domain. (An HTTP API decodes the path; the
//!   others leave it as the client sent it.) [`RequestExt::raw_http_path`] is the one of the event.
//! - **No invocation ends without a reply.** A service that has not answered shortly before Lambda
//!   would end the invocation is given up, and the reply is a 503 problem.
//! - **Path parameters are decoded**, once, whether the gateway has done it or not.
//! - All values of a repeated header are there, in the request and in the reply.
//! - **The body of a reply is the service's, byte for byte**, as text where it is UTF-8 and encoded where
//!   it is not. `lambda_http` goes by its type, and may change its character set.
//! - A request context that `lambda_http`'s types do not fit is left out.
//!
//! [`RequestExt`]: lambda_http::RequestExt
//! [`RequestExt::raw_http_path`]: lambda_http::RequestExt::raw_http_path

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod deadline;
mod kind;
pub mod problem;
mod reply;
mod request;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Collected};
use lambda_http::{LambdaEvent, Request, RequestExt as _};
use serde_json::value::RawValue;
use tower_service::Service;
use tracing::{error, warn};

pub use self::deadline::time_to_answer;
use self::deadline::time_to_reply;
pub use self::reply::Reply;
use kept_timers::Timers;

/// Serves gateway events by a service of HTTP requests: what [`lambda_http::run`] does, but as the
/// [module](self) says.
///
/// ```no_run
/// use http::Response;
/// use lambda_http::{Body, Error, Request, lambda_runtime, tower::service_fn};
/// use lambda_gateway::Gateway;
///
/// # async fn example() -> Result<(), Error> {
/// let hello = service_fn(async |_: Request| Ok::<_, Error>(Response::new(Body::from("hello"))));
/// lambda_runtime::run(Gateway::new(hello)).await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Gateway<S> {
    service: S,
    with_context: bool,
    on_reply: fn(StatusCode),
    timers: Timers,
}

impl<S> Gateway<S> {
    /// Serves by `service`.
    pub fn new(service: S) -> Self {
        Self { service, with_context: true, on_reply: |_| (), timers: Timers::default() }
    }

    /// Calls `observer` with the status of each reply, within the call that gives it: also of those that the
    /// service has no part in.
    #[must_use]
    pub fn on_reply(self, observer: fn(StatusCode)) -> Self {
        Self { on_reply: observer, ..self }
    }

    /// Leaves out the context of an event ([`request_context_ref`](lambda_http::RequestExt::request_context_ref) is then `None`), for a
    /// service that never looks at it: to decode it is half of what a request costs.
    #[must_use]
    pub fn without_request_context(self) -> Self {
        Self { with_context: false, ..self }
    }
}

impl<S, B> Service<LambdaEvent<Box<RawValue>>> for Gateway<S>
where
    S: Service<Request, Response = Response<B>>,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: fmt::Display,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, event: LambdaEvent<Box<RawValue>>) -> Self::Future {
        let LambdaEvent { payload, context } = event;
        let on_reply = self.on_reply;
        let answered = move |kind, response: Response<Bytes>| {
            on_reply(response.status());
            Reply::new(kind, response)
        };
        let (kind, request) = request::of_event(payload.get(), self.with_context);
        match request {
            Ok(mut request) => {
                let trace_id = context.xray_trace_id.as_deref().map(HeaderValue::from_str);
                if let Some(Ok(trace_id)) = trace_id {
                    let name = HeaderName::from_static("x-amzn-trace-id");
                    // No room for it is no reason not to answer.
                    let _ = request.headers_mut().try_insert(name, trace_id);
                }
                let is_head = request.method() == Method::HEAD;
                let time_left = time_to_reply(&context);
                let timers = self.timers.clone();
                let answer = self.service.call(request.with_lambda_context(context));
                Box::pin(async move {
                    let answer = async {
                        let (parts, body) = answer.await?.into_parts();
                        let body = body.collect().await.map(Collected::to_bytes);
                        Ok(body.map(|body| Response::from_parts(parts, body)))
                    };
                    let reason = match timers.within(time_left, answer).await {
                        Some(Ok(Ok(response))) => return Ok(answered(kind, response)),
                        Some(Ok(Err(failure))) => format!("a body that cannot be read: {failure}"),
                        Some(Err(error)) => return Err(error),
                        None => "no answer in time".to_owned(),
                    };
                    error!("{reason}; answered with 503");
                    let no_body = |_| Bytes::new();
                    let problem = problem::unavailable();
                    let problem = if is_head { problem.map(no_body) } else { problem.map(bytes) };
                    Ok(answered(kind, problem))
                })
            }
            Err(reason) => {
                warn!(reason, "an event that is no request; answered with 400");
                let reply = answered(kind, problem::bad_request(reason).map(bytes));
                Box::pin(async { Ok(reply) })
            }
        }
    }
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
    use tower::{ServiceExt as _, service_fn};

    use super::*;

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

    #[tokio::test]
    async fn a_body_that_cannot_be_read_is_a_503() {
        let service = service_fn(async |_: Request| Ok::<_, &str>(Response::new(Broken)));
        let event = include_str!("../../../events/http-existing.json").to_owned();
        let payload = RawValue::from_string(event).unwrap();
        let event = LambdaEvent { payload, context: lambda_http::Context::default() };
        let reply = Gateway::new(service).oneshot(event).await.unwrap();
        let reply = serde_json::to_value(&reply).unwrap();
        assert_eq!(
            (&reply["statusCode"], &reply["headers"]["retry-after"]),
            (&503.into(), &"1".into())
        );
    }
}
