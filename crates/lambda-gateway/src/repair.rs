//! Repairs malformed events: emulators, consoles, other gateways and manual tests send a number instead of a string, a
//! list instead of one value, or nothing at all.
//!
//! A value with one sensible meaning is converted; any other value is dropped, as if the event did not have the member.
//! Well-formed events never come here.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The depth of the deepest member that is read: `requestContext`, `http`, `method`.
const DEPTH: usize = 3;

/// Converts the event to the format that gateways send. `None`: it is not JSON.
///
/// Invalid UTF-8 and unpaired surrogates become U+FFFD.
pub(crate) fn repair(event: &[u8]) -> Option<Value> {
    let text = with_whole_pairs(&String::from_utf8_lossy(event));
    let mut event = readable(serde_json::from_str(&text).ok()?, DEPTH);
    if let Value::Object(members) = &mut event {
        repair_event(members);
    }
    Some(event)
}

/// Parses a value and replaces by `null` what is JSON but `serde_json` rejects: more than 128 nested arrays, or a
/// number out of the range of `f64`. One such member does not affect the others.
fn readable(json: &RawValue, depth: usize) -> Value {
    if let Ok(value) = serde_json::from_str(json.get()) {
        return value;
    }
    let members = serde_json::from_str::<BTreeMap<String, &RawValue>>(json.get());
    match (members, depth.checked_sub(1)) {
        (Ok(members), Some(depth)) => {
            let members = members.into_iter().map(|(name, json)| (name, readable(json, depth)));
            Value::Object(members.collect())
        }
        _ => Value::Null,
    }
}

/// Replaces unpaired surrogates in escapes, whose meaning RFC 8259 §8.2 leaves open.
fn with_whole_pairs(json: &str) -> String {
    let mut whole = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(position) = rest.find('\\') {
        whole.push_str(&rest[..position]);
        rest = &rest[position..];
        let length = match (code_unit(rest), code_unit(rest.get(6..).unwrap_or_default())) {
            (Some(0xD800..0xDC00), Some(0xDC00..0xE000)) => 12,
            (Some(0xD800..0xE000), _) => {
                whole.push_str("\\ufffd");
                rest = &rest[6..];
                continue;
            }
            (Some(_), _) => 6,
            // Skips the escaped character, which starts no escape itself.
            (None, _) => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        whole.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    whole + rest
}

/// The code unit of the escape (`\u00e9`) at the start of the text.
fn code_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u16::from_str_radix(digits, 16).ok())?
}

fn repair_event(event: &mut Map<String, Value>) {
    for name in
        ["version", "resource", "routeKey", "httpMethod", "path", "rawPath", "rawQueryString"]
    {
        change(event, name, text);
    }
    change(event, "pathParameters", |object| members(object, text));
    change(event, "stageVariables", |object| members(object, text));
    change(event, "multiValueHeaders", |object| members(object, list));
    change(event, "multiValueQueryStringParameters", |object| members(object, list));
    let has_lists = |object: &Value| object.as_object().is_some_and(|object| !object.is_empty());
    if !event.get("multiValueQueryStringParameters").is_some_and(has_lists)
        && let Some(parameters) = event.get("queryStringParameters").cloned()
        && let Some(lists) = members(parameters, list)
    {
        event.insert("multiValueQueryStringParameters".to_owned(), lists);
    }
    change(event, "queryStringParameters", |object| members(object, text));
    change(event, "headers", headers);
    change(event, "cookies", list);
    change(event, "body", |body| match body {
        Value::Null | Value::String(_) => Some(body),
        // The body was already parsed, so its JSON text is meant.
        _ => Some(body.to_string().into()),
    });
    change(event, "isBase64Encoded", |flag| match &flag {
        Value::Bool(_) => Some(flag),
        Value::String(text) => Some(text.eq_ignore_ascii_case("true").into()),
        _ => None,
    });
    // Payload 1.0 has the needed members outside the context.
    let needs_no_context = event.get("httpMethod").is_some_and(Value::is_string);
    let context = event.entry("requestContext").or_insert(Value::Null);
    if needs_no_context && !context.is_object() {
        *context = Value::Object(Map::new());
    }
    change(event, "requestContext", |mut context| {
        let members = context.as_object_mut()?;
        for name in ["apiId", "domainName", "stage"] {
            change(members, name, text);
        }
        change(members, "http", |http| {
            let mut members = match http {
                Value::Object(members) => members,
                // Serde reads an object from a list of its members as well, and so `lambda_http` serves it.
                Value::Array(members) if !needs_no_context => {
                    Map::from_iter([("method".to_owned(), members.into_iter().next()?)])
                }
                _ => return None,
            };
            change(&mut members, "method", text);
            members.contains_key("method").then_some(Value::Object(members))
        });
        Some(context)
    });
}

/// Replaces a member by the result of `by`; `None` removes it.
fn change(object: &mut Map<String, Value>, name: &str, by: impl FnOnce(Value) -> Option<Value>) {
    if let Some(changed) = object.remove(name).and_then(by) {
        object.insert(name.to_owned(), changed);
    }
}

/// Replaces each member of an object; those that give `None` are dropped.
fn members(object: Value, by: impl Fn(Value) -> Option<Value>) -> Option<Value> {
    let Value::Object(members) = object else { return None };
    let members = members.into_iter().filter_map(|(name, value)| Some((name, by(value)?)));
    Some(Value::Object(members.collect()))
}

fn text(value: Value) -> Option<Value> {
    match value {
        Value::String(_) => Some(value),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string().into()),
        // The last of several values counts, as for gateways.
        Value::Array(values) => values.into_iter().filter_map(text).next_back(),
        Value::Null | Value::Object(_) => None,
    }
}

fn list(value: Value) -> Option<Value> {
    match value {
        Value::Array(values) => Some(values.into_iter().filter_map(text).collect()),
        value => Some(Value::Array(vec![text(value)?])),
    }
}

/// Joins the values of a repeated header (RFC 9110 §5.3, and RFC 6265 §5.4 for cookies).
fn headers(object: Value) -> Option<Value> {
    let Value::Object(members) = object else { return None };
    let joined = members.into_iter().filter_map(|(name, value)| {
        let Value::Array(values) = list(value)? else { return None };
        let values: Vec<_> = values.iter().filter_map(Value::as_str).collect();
        let separator = if name.eq_ignore_ascii_case("cookie") { "; " } else { ", " };
        (!values.is_empty()).then(|| (name, values.join(separator).into()))
    });
    Some(Value::Object(joined.collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn assert_repaired(event: &Value, right: &Value) {
        assert_eq!(repair(event.to_string().as_bytes()).unwrap(), *right);
    }

    #[test]
    fn what_has_one_meaning_is_read_so_and_the_rest_is_left_out() {
        assert_repaired(
            &json!({
                "version": 2.0,
                "path": "/x",
                "rawPath": null,
                "pathParameters": { "id": 1, "other": null },
                "stageVariables": [],
                "queryStringParameters": { "a": ["1", 2], "b": true },
                "headers": { "a": ["1", null, 2], "Cookie": ["a=1", "b=2"], "port": 443, "c": null, "d": {} },
                "multiValueHeaders": { "a": "1", "b": [1, {}], "c": null },
                "cookies": ["a=b", null],
                "body": { "a": 1 },
                "isBase64Encoded": "TRUE",
                "requestContext": { "stage": 1, "http": { "method": "GET" }, "elb": 7 },
            }),
            &json!({
                "version": "2.0",
                "path": "/x",
                "pathParameters": { "id": "1" },
                "queryStringParameters": { "a": "2", "b": "true" },
                "multiValueQueryStringParameters": { "a": ["1", "2"], "b": ["true"] },
                "headers": { "a": "1, 2", "Cookie": "a=1; b=2", "port": "443" },
                "multiValueHeaders": { "a": ["1"], "b": ["1"] },
                "cookies": ["a=b"],
                "body": "{\"a\":1}",
                "isBase64Encoded": true,
                "requestContext": { "stage": "1", "http": { "method": "GET" }, "elb": 7 },
            }),
        );
        assert_repaired(
            &json!({ "headers": "x", "body": null, "isBase64Encoded": 1, "requestContext": { "http": 1 } }),
            &json!({ "body": null, "requestContext": {} }),
        );
        assert_repaired(&json!({ "requestContext": [] }), &json!({}));
        for context in [json!({ "requestContext": [] }), json!({})] {
            let mut event = context;
            event["httpMethod"] = "GET".into();
            assert_repaired(&event, &json!({ "httpMethod": "GET", "requestContext": {} }));
        }
    }

    #[test]
    fn half_a_pair_and_what_is_no_utf_8_are_replaced() {
        for (json, text) in [
            (&br#"["a\ud83d b"]"#[..], "a\u{fffd} b"),
            (br#"["\udc00\ud83d\ude00"]"#, "\u{fffd}😀"),
            (br#"["\ud83d\ud83d\ude00"]"#, "\u{fffd}😀"),
            (br#"["\\ud83d"]"#, "\\ud83d"),
            (br#"["\\\ud83d"]"#, "\\\u{fffd}"),
            (b"[\"Beno\xeet\"]", "Beno\u{fffd}t"),
        ] {
            assert_eq!(repair(json).unwrap(), json!([text]));
        }
        for json in [&b"[\"\\ud83\"]"[..], b"[\"\\", b"\\u", b"[\"a\tb\"]", b"", b"{"] {
            assert_eq!(repair(json), None, "{}", String::from_utf8_lossy(json));
        }
    }

    #[test]
    fn what_cannot_be_read_spoils_nothing_beside_it() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        for odd in [&deep, "1e400"] {
            let event = format!(
                r#"{{"path":"/x","body":{odd},"requestContext":{{"stage":"a","http":{{"x":{odd},"method":"GET"}}}}}}"#
            );
            let repaired = repair(event.as_bytes()).unwrap();
            assert_eq!(
                (&repaired["path"], repaired.pointer("/requestContext/http/method")),
                (&"/x".into(), Some(&"GET".into()))
            );
        }
        assert_eq!(repair(deep.as_bytes()), Some(Value::Null));
    }
}
