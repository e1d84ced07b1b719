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
//! - **Path parameters are decoded**, once, whether the gateway has done it or not.
//! - All values of a repeated header are there, in the request and in the reply.
//! - A request context that `lambda_http`'s types do not fit is left out.
//!
//! [`RequestExt`]: lambda_http::RequestExt
//! [`RequestExt::raw_http_path`]: lambda_http::RequestExt::raw_http_path

mod reply;
mod request;

use std::pin::Pin;
use std::task::{Context, Poll};

use lambda_http::http::header::{HeaderName, HeaderValue};
use lambda_http::tower::Service;
use lambda_http::{IntoResponse, LambdaEvent, Request, RequestExt as _};
use serde_json::value::RawValue;
use tracing::warn;

pub use self::reply::Reply;
use crate::problem;

/// Serves gateway events by a service of HTTP requests: what [`lambda_http::run`] does, but as the
/// [module](self) says.
///
/// ```no_run
/// use lambda_http::http::Response;
/// use lambda_http::{Body, Error, Request, lambda_runtime, tower::service_fn};
/// use response_boost::event::Gateway;
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
}

impl<S> Gateway<S> {
    /// Serves by `service`.
    pub fn new(service: S) -> Self {
        Self { service, with_context: true }
    }

    /// Leaves out the context of an event ([`RequestExt::request_context_ref`] is then `None`), for a
    /// service that never looks at it: to decode it is half of what a request costs.
    #[must_use]
    pub fn without_request_context(self) -> Self {
        Self { with_context: false, ..self }
    }
}

impl<S> Service<LambdaEvent<Box<RawValue>>> for Gateway<S>
where
    S: Service<Request>,
    S::Response: IntoResponse,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, event: LambdaEvent<Box<RawValue>>) -> Self::Future {
        let LambdaEvent { payload, context } = event;
        let (kind, request) = request::of_event(payload.get(), self.with_context);
        match request {
            Ok(mut request) => {
                let trace_id = context.xray_trace_id.as_deref().map(HeaderValue::from_str);
                if let Some(Ok(trace_id)) = trace_id {
                    let name = HeaderName::from_static("x-amzn-trace-id");
                    // No room for it is no reason not to answer.
                    let _ = request.headers_mut().try_insert(name, trace_id);
                }
                let answer = self.service.call(request.with_lambda_context(context));
                Box::pin(async move {
                    let response = answer.await?.into_response();
                    Ok(Reply::new(kind, response.await))
                })
            }
            Err(reason) => {
                warn!(reason, "an event that is no request; answered with 400");
                let reply = Reply::new(kind, problem::bad_request(reason));
                Box::pin(async { Ok(reply) })
            }
        }
    }
}

/// The form of an event, and so of the reply to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Payload 1.0: of a REST API, or of an HTTP API that is set to it.
    V1,
    /// Payload 2.0: of an HTTP API or a function URL.
    V2,
    /// Of an Application Load Balancer.
    Alb,
    /// None of these, so the reply must be one that all of them can read.
    Unknown,
}
