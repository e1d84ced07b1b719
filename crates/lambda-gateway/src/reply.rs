//! The reply to an event.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::Response;
use http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::kind::Kind;

/// The result of an invocation; it serializes to what the gateway reads.
#[derive(Debug)]
pub struct Reply {
    kind: Kind,
    response: Response<Bytes>,
}

impl Reply {
    pub(crate) fn new(kind: Kind, response: Response<Bytes>) -> Self {
        Self { kind, response }
    }
}

/// A REST API rejects unknown members, so each kind gets exactly its own.
impl Serialize for Reply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (status, headers) = (self.response.status(), self.response.headers());
        let body = self.response.body();
        let mut reply = serializer.serialize_map(None)?;
        reply.serialize_entry("statusCode", &status.as_u16())?;
        match self.kind {
            // The gateway merges both forms, so one is enough.
            Kind::V1 => reply.serialize_entry("multiValueHeaders", &Lists(headers))?,
            Kind::V2 => {
                reply.serialize_entry("headers", &Joined { headers, with_cookie: false })?;
                let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().map(text).collect();
                reply.serialize_entry("cookies", &cookies)?;
            }
            // A setting of its target group decides which of the two a load balancer reads.
            Kind::Alb | Kind::Unknown => {
                reply.serialize_entry("headers", &Joined { headers, with_cookie: true })?;
                reply.serialize_entry("multiValueHeaders", &Lists(headers))?;
            }
        }
        if self.kind == Kind::Alb {
            reply.serialize_entry("statusDescription", &status.to_string())?;
        }
        let text = std::str::from_utf8(body);
        match text {
            Ok("") => {}
            Ok(text) => reply.serialize_entry("body", text)?,
            Err(_) => reply.serialize_entry("body", &BASE64_STANDARD.encode(body))?,
        }
        reply.serialize_entry("isBase64Encoded", &text.is_err())?;
        reply.end()
    }
}

/// Each header with a list of its values.
struct Lists<'a>(&'a HeaderMap);

impl Serialize for Lists<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0.keys().map(|name| {
                (name.as_str(), self.0.get_all(name).iter().map(text).collect::<Vec<_>>())
            }),
        )
    }
}

/// Each header with its values joined, which means the same (RFC 9110 §5.3) except for `Set-Cookie`: this form holds at
/// most one.
struct Joined<'a> {
    headers: &'a HeaderMap,
    with_cookie: bool,
}

impl Serialize for Joined<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let names = self.headers.keys().filter(|name| self.with_cookie || *name != SET_COOKIE);
        serializer.collect_map(names.map(|name| {
            let mut values = self.headers.get_all(name).iter().map(text);
            // A header has one value, and rarely more.
            let mut joined = values.next().unwrap_or_default();
            let at_most = if name == SET_COOKIE { 0 } else { usize::MAX };
            for value in values.take(at_most) {
                joined = format!("{joined}, {value}").into();
            }
            (name.as_str(), joined)
        }))
    }
}

/// JSON has no bytes, so invalid UTF-8 is replaced rather than the response lost.
fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reply(kind: Kind, body: impl Into<Bytes>) -> Value {
        let response = Response::builder()
            .header("link", "<a>")
            .header("link", "<b>")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("odd", HeaderValue::from_bytes(b"\xff").unwrap())
            .body(body.into())
            .unwrap();
        serde_json::to_value(Reply::new(kind, response)).unwrap()
    }

    #[test]
    fn each_kind_has_its_own_form() {
        let lists = json!({
            "link": ["<a>", "<b>"],
            "set-cookie": ["a=1", "b=2"],
            "odd": ["\u{fffd}"],
        });
        assert_eq!(
            reply(Kind::V1, "x"),
            json!({
                "statusCode": 200,
                "multiValueHeaders": lists,
                "body": "x",
                "isBase64Encoded": false,
            })
        );
        assert_eq!(
            reply(Kind::V2, "x"),
            json!({
                "statusCode": 200,
                "headers": { "link": "<a>, <b>", "odd": "\u{fffd}" },
                "cookies": ["a=1", "b=2"],
                "body": "x",
                "isBase64Encoded": false,
            })
        );
        let headers = json!({ "link": "<a>, <b>", "set-cookie": "a=1", "odd": "\u{fffd}" });
        assert_eq!(
            reply(Kind::Alb, "x"),
            json!({
                "statusCode": 200,
                "statusDescription": "200 OK",
                "headers": headers,
                "multiValueHeaders": lists,
                "body": "x",
                "isBase64Encoded": false,
            })
        );
        assert_eq!(
            reply(Kind::Unknown, "x"),
            json!({
                "statusCode": 200,
                "headers": headers,
                "multiValueHeaders": lists,
                "body": "x",
                "isBase64Encoded": false,
            })
        );
    }

    #[test]
    fn bytes_are_encoded_and_nothing_is_left_out() {
        let binary = reply(Kind::V2, vec![0, 255]);
        assert_eq!((&binary["body"], &binary["isBase64Encoded"]), (&json!("AP8="), &json!(true)));
        let text = reply(Kind::V2, "é\0");
        assert_eq!((&text["body"], &text["isBase64Encoded"]), (&json!("é\0"), &json!(false)));
        let empty = reply(Kind::V2, "");
        assert_eq!((empty.get("body"), &empty["isBase64Encoded"]), (None, &json!(false)));
    }
}
