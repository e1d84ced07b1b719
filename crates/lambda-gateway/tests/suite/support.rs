//! Runs a service behind this crate and behind `lambda_http`, on the bytes of an event.

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use lambda_gateway::{Gateway, Payload, Payloads};
use lambda_http::lambda_runtime::{Diagnostic, LambdaInvocation};
use lambda_http::request::LambdaRequest;
use lambda_http::{Adapter, Body, Context, LambdaEvent, Request, RequestExt as _};
use serde_json::{Value, json};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

/// The end of an invocation: a reply, or the message of the function error.
pub(crate) type End = Result<Value, String>;

pub(crate) type Answer = Response<Full<Bytes>>;

/// The reply of [`lambda_gateway::run`] to an event.
pub(crate) async fn ours<S>(service: S, event: &[u8]) -> End
where
    S: Service<Request, Response = Answer, Error = Diagnostic, Future: Send + 'static>,
{
    let mut gateway = Gateway::new(service);
    // `lambda_runtime` parses the event as JSON between its layers and the handler.
    let runtime = service_fn(move |LambdaInvocation { body, context, .. }| {
        let reply = serde_json::from_slice::<Payload>(&body)
            .map(|payload| gateway.call(LambdaEvent { payload, context }));
        async {
            reply.map_err(|error| error.to_string())?.await.map_err(|error| error.error_message)
        }
    });
    let invocation = LambdaInvocation {
        parts: Response::new(()).into_parts().0,
        body: Bytes::copy_from_slice(event),
        context: Context::default(),
    };
    let reply = Payloads.layer(runtime).oneshot(invocation).await?;
    Ok(serde_json::to_value(reply).unwrap())
}

/// The reply of [`lambda_http::run`] to an event. A panic counts as a function error, as in `lambda_runtime`.
pub(crate) async fn theirs<S>(service: S, event: &[u8]) -> End
where
    S: Service<Request, Response = Answer, Error = Diagnostic, Future: Send + 'static>
        + Send
        + 'static,
{
    let payload: LambdaRequest =
        serde_json::from_slice(event).map_err(|error| error.to_string())?;
    let reply = tokio::spawn(async move {
        Adapter::from(service).call(LambdaEvent { payload, context: Context::default() }).await
    });
    match reply.await {
        Ok(reply) => Ok(serde_json::to_value(reply.map_err(|error| error.error_message)?).unwrap()),
        Err(panic) => Err(panic.to_string()),
    }
}

/// A service that answers with the request that it got, as JSON.
pub(crate) fn mirror() -> impl Service<
    Request,
    Response = Answer,
    Error = Diagnostic,
    Future = std::future::Ready<Result<Answer, Diagnostic>>,
> + Clone
+ Send
+ 'static {
    service_fn(|request: Request| std::future::ready(Ok(reflection(&request))))
}

fn reflection(request: &Request) -> Answer {
    let headers: Vec<(&str, String)> = request
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    let parameters = request.path_parameters();
    let parameters: Vec<(&str, &str)> = parameters.iter().collect();
    let body = match request.body() {
        Body::Text(text) => json!(text),
        Body::Binary(bytes) => json!(bytes),
        _ => Value::Null,
    };
    let asked = json!({
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "query": request.uri().query(),
        "raw_path": request.raw_http_path(),
        "headers": headers,
        "parameters": parameters,
        "body": body,
        "has_context": request.request_context_ref().is_some(),
    });
    let answer = Response::builder().header("content-type", "application/json");
    answer.body(asked.to_string().into()).unwrap()
}

/// The request that a [`mirror`] got.
pub(crate) fn reflected(reply: &Value) -> Value {
    assert_eq!(reply["statusCode"], 200, "{reply}");
    serde_json::from_str(reply["body"].as_str().unwrap()).unwrap()
}

/// An event of `events/`.
pub(crate) fn event(kind: &str) -> Value {
    let text = match kind {
        "rest" => include_str!("../../../../events/rest-existing.json"),
        "http" => include_str!("../../../../events/http-existing.json"),
        "function-url" => include_str!("../../../../events/function-url-existing.json"),
        "alb" => include_str!("../../../../events/alb-existing.json"),
        _ => panic!("no event of {kind}"),
    };
    serde_json::from_str(text).unwrap()
}
