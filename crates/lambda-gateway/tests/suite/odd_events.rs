//! Events with an odd value in any place.

use percent_encoding::percent_decode_str;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::support::{event, mirror, ours, reflected, theirs};

/// The members of an event that the gateway reads, of any kind.
const READ: [&str; 24] = [
    "/version",
    "/resource",
    "/routeKey",
    "/httpMethod",
    "/path",
    "/rawPath",
    "/rawQueryString",
    "/pathParameters",
    "/pathParameters/id",
    "/stageVariables",
    "/queryStringParameters",
    "/multiValueQueryStringParameters",
    "/headers",
    "/multiValueHeaders",
    "/cookies",
    "/body",
    "/isBase64Encoded",
    "/requestContext",
    "/requestContext/apiId",
    "/requestContext/domainName",
    "/requestContext/elb",
    "/requestContext/http",
    "/requestContext/http/method",
    "/requestContext/stage",
];

/// An event of each kind, with all the members that its gateway can send.
fn kinds() -> Vec<Value> {
    fn with(mut event: Value, more: Value) -> Value {
        let Value::Object(more) = more else { panic!("{more}") };
        event.as_object_mut().unwrap().extend(more);
        event
    }

    let body = json!({ "body": "aGk=", "isBase64Encoded": true });
    let rest = with(event("rest"), body.clone());
    let rest = with(
        rest,
        json!({
            "queryStringParameters": { "a": "2" },
            "multiValueQueryStringParameters": { "a": ["1", "2"] },
            "stageVariables": { "table": "people" },
        }),
    );
    let based = json!({
        "resource": "/{proxy+}",
        "path": "/base/users/1",
        "pathParameters": { "proxy": "users/1" },
    });
    let http = with(event("http"), body.clone());
    let http = with(
        http,
        json!({
            "rawQueryString": "a=1&a=2",
            "queryStringParameters": { "a": "1,2" },
            "stageVariables": { "table": "people" },
            "cookies": ["a=1", "b=2"],
        }),
    );
    let mut staged = with(http.clone(), json!({ "rawPath": "/prod/users/1" }));
    staged["requestContext"]["stage"] = "prod".into();
    // As `cargo lambda watch` sends it.
    let mut watched = with(http.clone(), json!({ "httpMethod": "GET" }));
    watched["requestContext"].as_object_mut().unwrap().remove("apiId");
    let alb = with(event("alb"), body);
    let multi_value = with(
        alb.clone(),
        json!({
            "headers": null,
            "multiValueHeaders": { "host": ["a.example"], "accept": ["a", "b"] },
            "multiValueQueryStringParameters": { "a": ["1", "2"] },
        }),
    );
    vec![
        with(rest.clone(), based),
        with(rest.clone(), json!({ "version": "1.0" })),
        rest,
        http,
        staged,
        watched,
        event("function-url"),
        alb,
        multi_value,
    ]
}

/// Each JSON type, and strings that mean something in some place.
fn odd_values() -> Vec<Value> {
    // Deeper than `serde_json` parses.
    let deep = (0..200).fold(json!(null), |inner, _| json!([inner]));
    vec![
        json!(null),
        json!(true),
        json!(1),
        json!(-1.5e300),
        json!(""),
        json!("x"),
        json!("/"),
        json!("/orders/2"),
        json!("2"),
        json!("TRUE"),
        json!([]),
        json!(["x", null, 1, {}, []]),
        json!([["/orders/2"]]),
        json!({}),
        json!({ "a": "b", "id": 2, "c": null, "d": ["e"], "g": {} }),
        deep,
    ]
}

/// The places of all values inside an event, except those deeper than anything that is read.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    if at.matches('/').count() > 5 {
        return;
    }
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
        let place = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        places(value, &place, found);
        found.push(place);
    }
}

/// Puts a value in a place, if the event has it or its parent.
fn put(event: &mut Value, place: &str, odd: Value) {
    let (around, name) = place.rsplit_once('/').unwrap();
    match event.pointer_mut(around) {
        Some(Value::Object(members)) => {
            members.insert(name.replace("~1", "/").replace("~0", "~"), odd);
        }
        Some(Value::Array(items)) => {
            if let Some(item) = name.parse::<usize>().ok().and_then(|name| items.get_mut(name)) {
                *item = odd;
            }
        }
        _ => {}
    }
}

fn text(value: &Value) -> Option<String> {
    // What nests more deeply than `serde_json` reads counts as absent, with all that is in it.
    serde_json::from_str::<Value>(&value.to_string()).ok()?;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Array(values) => values.iter().filter_map(text).next_back(),
        Value::Null | Value::Object(_) => None,
    }
}

/// Whether this is the path that the event requests, judged by its own members: the event's path, or the end of that if
/// a stage or, by the route, a base path comes before it.
fn is_asked(path: &str, event: &Value) -> bool {
    let http = &event["requestContext"]["http"];
    let could_be = |method: &str| method.is_empty() || method.parse::<http::Method>().is_ok();
    let other = text(&event["httpMethod"]);
    let payloads: &[bool] = match http {
        // An event that names a method in both places is payload 2.0 if the first one could be a method.
        Value::Object(members) => match members.get("method").and_then(text) {
            Some(method) if other.is_none() || could_be(&method) => &[true],
            _ => &[false],
        },
        // Serde reads an object from a list of its members as well.
        Value::Array(_) if other.is_none() => &[true],
        // It contradicts itself twice: either path is its own.
        Value::Array(_) => &[true, false],
        _ => &[false],
    };
    payloads.iter().any(|&is_v2| is_asked_of(path, event, is_v2))
}

fn is_asked_of(path: &str, event: &Value, is_v2: bool) -> bool {
    let context = &event["requestContext"];
    let [first, second] = if is_v2 { ["rawPath", "path"] } else { ["path", "rawPath"] };
    let asked = text(&event[first]).or_else(|| text(&event[second])).unwrap_or_default();
    let slash = if asked.starts_with('/') { "" } else { "/" };
    let asked = format!("{slash}{asked}");

    // Some gateways have decoded it, others have not.
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let is_path = |text: &str| decoded(path) == text || decoded(path) == decoded(text);
    if is_path(&asked) {
        return true;
    }
    let stage = text(&context["stage"]).unwrap_or_default();
    if asked.strip_prefix(&format!("/{stage}")).is_some_and(is_path) {
        return true;
    }
    let route = if is_v2 {
        text(&event["routeKey"]).and_then(|key| Some(key.split_once(' ')?.1.to_owned()))
    } else {
        text(&event["resource"])
    };
    let route = route.unwrap_or_default();
    let is_route = match route.split_once("/{") {
        Some((fixed, _)) => path.starts_with(&format!("{fixed}/")),
        None => is_path(&route),
    };
    is_route && (0..asked.len()).any(|at| asked.is_char_boundary(at) && is_path(&asked[at..]))
}

/// Checks what must hold for every event that a gateway or something similar has sent. Returns whether each crate
/// serves it.
async fn check(event: &Value) -> [bool; 2] {
    let bytes = event.to_string().into_bytes();
    let reply = ours(mirror(), &bytes).await;
    let reply = reply.unwrap_or_else(|error| panic!("a function error: {error}\n{event}"));
    let is_served = reply["statusCode"] == 200;
    let asked = is_served.then(|| reflected(&reply));
    if let Some(asked) = &asked {
        let path = asked["path"].as_str().unwrap();
        assert!(is_asked(path, event), "{path} of {event}");
    }
    let Ok(theirs) = theirs(mirror(), &bytes).await else { return [is_served, false] };
    // A server MUST reject it (RFC 9112 §3.2).
    if reply["body"].as_str().is_some_and(|body| body.contains("The Host header is no host")) {
        return [false, true];
    }
    let asked = asked.unwrap_or_else(|| panic!("lambda_http serves it: {event}\n{reply}"));
    let theirs = reflected(&theirs);
    assert_eq!(asked["body"], theirs["body"], "body of {event}");
    let http = &event["requestContext"]["http"];
    let methods = [http.get(0).unwrap_or(&http["method"]), &event["httpMethod"]].map(text);
    let or_get = |method: String| if method.is_empty() { "GET".to_owned() } else { method };
    match methods.map(|method| method.map(or_get)) {
        // It contradicts itself. `lambda_http` chooses by the types of members that have nothing to do with it.
        [Some(one), Some(other)] if one != other => {
            assert!(asked["method"] == *one || asked["method"] == *other, "method of {event}");
        }
        _ => assert_eq!(asked["method"], theirs["method"], "method of {event}"),
    }
    [true, true]
}

#[tokio::test]
async fn an_odd_member_never_ends_in_an_error_nor_in_another_path_nor_worse_than_in_lambda_http() {
    let (mut served, mut served_by_lambda_http) = (0, 0);
    for real in kinds() {
        let mut all = READ.map(str::to_owned).to_vec();
        places(&real, "", &mut all);
        all.sort_unstable();
        all.dedup();
        assert_eq!(check(&real).await, [true, true], "{real}");
        for place in &all {
            for odd in odd_values() {
                let mut event = real.clone();
                put(&mut event, place, odd);
                let [ours, theirs] = check(&event).await;
                served += usize::from(ours);
                served_by_lambda_http += usize::from(theirs);
            }
        }
    }
    assert!(
        served > served_by_lambda_http && served_by_lambda_http > 1_000,
        "{served}, {served_by_lambda_http}"
    );
}

/// `lambda_http` reads an object from a list of its members as well.
#[tokio::test]
async fn a_method_in_a_list_counts_beside_another_odd_member_too() {
    let payload_2 = |event: &Value| event["requestContext"]["http"].is_object();
    let mut event = kinds().into_iter().find(payload_2).unwrap();
    event.as_object_mut().unwrap().remove("httpMethod");
    event["requestContext"]["http"] = serde_json::json!([""]);
    event["multiValueQueryStringParameters"] = true.into();
    assert_eq!(check(&event).await, [true, true], "{event}");
}

// `PROPTEST_CASES` sets the number of cases.
#[test]
fn any_odd_members_together_do_no_more() {
    let damage = (any::<Index>(), select(odd_values()));
    let events = (select(kinds()), prop::collection::vec(damage, 2..5));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let config = ProptestConfig { source_file: Some(file!()), ..ProptestConfig::default() };
    let checked = TestRunner::new(config).run(&events, |(mut event, damages)| {
        for (place, odd) in damages {
            let mut all = READ.map(str::to_owned).to_vec();
            places(&event, "", &mut all);
            let place: &String = place.get(&all);
            put(&mut event, place, odd);
        }
        runtime.block_on(check(&event));
        Ok(())
    });
    checked.unwrap();
}
