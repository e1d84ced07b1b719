//! Gateway events: from the raw JSON of an invocation to a request and back.
//!
//! The events are those of an API Gateway REST API (payload 1.0), an HTTP API (2.0), a function
//! URL, and an Application Load Balancer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpResponse;
use lambda_http::request::{LambdaRequest, RequestContext};
use lambda_http::tower::Service;
use lambda_http::{Adapter, Body, IntoResponse, LambdaEvent, Request, RequestExt as _};
use serde::Serialize;
use serde_json::value::RawValue;
use tracing::warn;

use crate::problem;

/// Serves gateway events by a service of HTTP requests.
///
/// It does what [`lambda_http::run`] does, but an event that is none of the known kinds, or that
/// cannot be made a request, is answered with a 400 problem: there it would end as a function
/// error, which a gateway shows as its own 500 or 502.
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
#[expect(missing_debug_implementations, reason = "lambda_http's adapter has none")]
pub struct Gateway<S, R: 'static> {
    adapter: Adapter<'static, R, S>,
}

/// What an invocation ends with; serialized, it is what the gateway reads.
#[derive(Debug, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Reply<T> {
    /// The answer of the service, in the form that suits the event.
    Answer(T),
    /// The problem of an event of no known kind, in the form that all kinds of gateway take.
    Refused(Box<ApiGatewayV2httpResponse>),
}

impl<S, R> Gateway<S, R>
where
    S: Service<Request, Response = R>,
    S::Future: Send + 'static,
    R: IntoResponse + 'static,
{
    /// Serves by `service`.
    pub fn new(service: S) -> Self {
        Self { adapter: Adapter::from(service) }
    }
}

impl<S, R> Service<LambdaEvent<Box<RawValue>>> for Gateway<S, R>
where
    S: Service<Request, Response = R>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: IntoResponse + 'static,
{
    type Response =
        Reply<<Adapter<'static, R, S> as Service<LambdaEvent<LambdaRequest>>>::Response>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.adapter.poll_ready(cx)
    }

    fn call(&mut self, event: LambdaEvent<Box<RawValue>>) -> Self::Future {
        let LambdaEvent { payload, context } = event;
        let answer =
            serde_json::from_str::<LambdaRequest>(payload.get()).ok().and_then(|payload| {
                // lambda_http panics on some hosts and query strings. It does so while it makes the
                // request, before the service is called, so nothing is left half done.
                let adapter = AssertUnwindSafe(&mut self.adapter);
                catch_unwind(move || { adapter }.call(LambdaEvent { payload, context })).ok()
            });
        match answer {
            Some(answer) => Box::pin(async move { answer.await.map(Reply::Answer) }),
            None => Box::pin(async { Ok(Reply::Refused(Box::new(refusal()))) }),
        }
    }
}

/// The path that was asked for as the gateway gives it, without the stage in front.
///
/// Neither decoded nor normalized.
#[must_use]
pub fn path(request: &Request) -> &str {
    let path = request.raw_http_path();
    // An HTTP API leaves a named stage in the path. (A REST API takes it off itself.)
    if let Some(RequestContext::ApiGatewayV2(context)) = request.request_context_ref()
        && let Some(stage) = context.stage.as_deref()
        && let Some(rest) = path.strip_prefix('/').and_then(|path| path.strip_prefix(stage))
        && rest.starts_with('/')
        && stage != "$default"
    {
        return rest;
    }
    path
}

/// What the gateway's own route found in the place of `{name}`; `None` where it has no such route.
#[must_use]
pub fn path_parameter<'request>(request: &'request Request, name: &str) -> Option<&'request str> {
    request.path_parameters_ref().and_then(|parameters| parameters.first(name))
}

fn refusal() -> ApiGatewayV2httpResponse {
    warn!("an event of no known kind; answered with 400");
    let (parts, body) = problem::bad_request(
        "This is no event of an API Gateway, a function URL or a load balancer",
    )
    .into_parts();
    let mut response = ApiGatewayV2httpResponse::default();
    response.status_code = parts.status.as_u16().into();
    response.headers = parts.headers;
    response.body = Some(body).filter(|body| *body != Body::Empty);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(event: &serde_json::Value) -> Request {
        lambda_http::request::from_str(&event.to_string()).unwrap()
    }

    #[test]
    fn the_path_of_an_http_api_is_without_its_stage() {
        for (stage, raw_path, path_without_stage) in [
            ("$default", "/users/1", "/users/1"),
            ("$default", "/$default/users", "/$default/users"),
            ("prod", "/prod/users/1", "/users/1"),
            ("prod", "/production/users/1", "/production/users/1"),
            ("prod", "/users/1", "/users/1"),
            ("prod", "/prod", "/prod"),
            ("prod", "/prod/", "/"),
        ] {
            let http = serde_json::json!({ "method": "GET", "path": raw_path });
            let request = request(&serde_json::json!({
                "version": "2.0",
                "rawPath": raw_path,
                "requestContext": { "stage": stage, "http": http },
            }));
            assert_eq!(path(&request), path_without_stage, "stage {stage}, path {raw_path}");
        }
    }

    #[test]
    fn the_path_of_a_rest_api_has_no_stage_to_take_off() {
        let request = request(&serde_json::json!({
            "path": "/Prod/users/1",
            "httpMethod": "GET",
            "requestContext": { "stage": "Prod", "httpMethod": "GET" },
        }));
        assert_eq!(path(&request), "/Prod/users/1");
    }
}
