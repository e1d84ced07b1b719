//! Events with something odd at any place of theirs.

use std::panic::catch_unwind;

use http::Response;
use lambda_gateway::{Gateway, Payload};
use lambda_http::{Body, Context, Error, LambdaEvent, Request};
use serde_json::{Value, json};
use tower::{Service as _, service_fn};

const KINDS: [&str; 4] = [
    include_str!("../../../../events/rest-existing.json"),
    include_str!("../../../../events/http-existing.json"),
    include_str!("../../../../events/function-url-existing.json"),
    include_str!("../../../../events/alb-existing.json"),
];

/// A service that answers with the path that it was asked for.
fn gateway() -> impl AsyncFnMut(String) -> Result<Value, Error> {
    let mut gateway = Gateway::new(service_fn(async |request: Request| {
        Ok::<_, Error>(Response::new(Body::from(request.uri().path())))
    }));
    async move |event| {
        let event = LambdaEvent { payload: Payload::from(event), context: Context::default() };
        let reply = gateway.call(event).await.map_err(|error| error.error_message)?;
        Ok(serde_json::to_value(reply)?)
    }
}

/// The places of all values in an event.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    let members: Vec<(String, &Value)> = match value {
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), value)).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().map(|(position, item)| (position.to_string(), item)).collect()
        }
        _ => Vec::new(),
    };
    for (name, value) in members {
        places(value, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), found);
    }
}

/// The path that an event asks for, as far as its own members tell.
fn asked(event: &Value) -> String {
    fn text(value: &Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
            Value::Array(values) => values.iter().filter_map(text).next_back(),
            Value::Null | Value::Object(_) => None,
        }
    }
    let is_v2 = text(&event["requestContext"]["http"]["method"]).is_some();
    let [first, second] = if is_v2 { ["rawPath", "path"] } else { ["path", "rawPath"] };
    text(&event[first]).or_else(|| text(&event[second])).unwrap_or_default()
}

#[tokio::test]
async fn an_odd_member_never_ends_in_an_error_nor_in_another_path_nor_worse_than_in_lambda_http() {
    let mut gateway = gateway();
    let odd = [
        json!(null),
        json!(true),
        json!(1),
        json!(1.5),
        json!(""),
        json!("x"),
        json!([]),
        json!(["x", null, 1]),
        json!({}),
        json!({ "a": "b", "c": null, "d": ["e"], "f": 1, "g": {} }),
    ];
    let (mut served, mut served_by_lambda_http) = (0, 0);
    for kind in KINDS {
        let real: Value = serde_json::from_str(kind).unwrap();
        let mut all = Vec::new();
        places(&real, "", &mut all);
        assert!(all.len() > 10);
        for place in &all[1..] {
            for odd in &odd {
                let mut event = real.clone();
                *event.pointer_mut(place).unwrap() = odd.clone();
                let text = event.to_string();
                let reply = gateway(text.clone()).await.unwrap();

                let is_served = reply["statusCode"] == 200;
                let path = reply["body"].as_str().unwrap_or_default().trim_start_matches('/');
                if is_served {
                    // A route may take a base path off.
                    assert!(asked(&event).ends_with(path), "{place} {odd}: {path}");
                }
                let by_lambda_http =
                    catch_unwind(|| lambda_http::request::from_str(&text).is_ok()).unwrap_or(false);
                assert!(is_served || !by_lambda_http, "{place} {odd}: {reply}");
                served += usize::from(is_served);
                served_by_lambda_http += usize::from(by_lambda_http);
            }
        }
    }
    assert!(
        served > served_by_lambda_http && served_by_lambda_http > 300,
        "{served}, {served_by_lambda_http}"
    );
}
