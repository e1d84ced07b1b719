//! Builds the request from an event.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::marker::PhantomData;
use std::ops::Deref;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use http::header::{COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, MaxSizeReached};
use http::uri::{self, Authority, Scheme, Uri};
use lambda_http::aws_lambda_events::query_map::QueryMap;
use lambda_http::request::RequestContext;
use lambda_http::{Body, Request, RequestExt as _};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use url::form_urlencoded;

use crate::base_path::BasePath;
use crate::kind::Kind;
use crate::repair::repair;
use crate::source::Source;

const UNKNOWN: &str = "This is no event of an API Gateway, a function URL or a load balancer";
const NOT_JSON: &str = "This is not JSON";
const TOO_LONG: &str = "The URL is too long";

/// The id that serverless-offline gives each API. Unlike an HTTP API it does not decode paths.
const API_OF_SERVERLESS_OFFLINE: &str = "offlineContext_apiId";

/// Characters that must be escaped in a path (RFC 3986 §3.3). `%` is not one of them: it begins an escape.
const NOT_IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
/// The same for a decoded path, in which a `%` is literal.
const NOT_IN_DECODED_PATH: &AsciiSet = &NOT_IN_PATH.add(b'%');

/// Characters that must be escaped in a query string, by the WHATWG's URL standard. (RFC 3986 lists more, which
/// browsers send unescaped.)
const NOT_IN_QUERY: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>');

/// The members of all kinds that are read here. Other members may have any form.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound = "'de: 'a")]
struct Event<'a> {
    version: Option<Text<'a>>,
    resource: Option<Text<'a>>,
    route_key: Option<Text<'a>>,
    http_method: Option<Text<'a>>,
    path: Option<Text<'a>>,
    raw_path: Option<Text<'a>>,
    path_parameters: Option<HashMap<String, String>>,
    stage_variables: Option<HashMap<String, String>>,
    raw_query_string: Option<Text<'a>>,
    query_string_parameters: Option<BTreeMap<Text<'a>, Text<'a>>>,
    multi_value_query_string_parameters: Option<BTreeMap<Text<'a>, Vec<Text<'a>>>>,
    headers: Option<Pairs<'a, Text<'a>>>,
    multi_value_headers: Option<Pairs<'a, Vec<Text<'a>>>>,
    cookies: Option<Vec<Text<'a>>>,
    body: Option<String>,
    is_base64_encoded: Option<bool>,
    request_context: Option<Context<'a>>,
}

/// A string, borrowed from the event if it has no escapes.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// The members of an object, in the order of the event. A map would hash names that are hashed again as headers.
struct Pairs<'a, V>(Vec<(Text<'a>, V)>);

impl<'de: 'a, 'a, V: Deserialize<'de>> Deserialize<'de> for Pairs<'a, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<'a, V>(PhantomData<Pairs<'a, V>>);

        impl<'de: 'a, 'a, V: Deserialize<'de>> Visitor<'de> for Members<'a, V> {
            type Value = Pairs<'a, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::with_capacity(16);
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// The members of the request context that are read here. The rest is for the service, and must not decide whether the
/// request is answered.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound = "'de: 'a")]
struct Context<'a> {
    api_id: Option<Text<'a>>,
    domain_name: Option<Text<'a>>,
    elb: Option<IgnoredAny>,
    http: Option<Http<'a>>,
    stage: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(bound = "'de: 'a")]
struct Http<'a> {
    method: Text<'a>,
}

/// Why an event gives no request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoRequest {
    /// The request is malformed; the message is for the client.
    Malformed(&'static str),
    /// The event is not a request.
    Other(Source),
}

impl From<&'static str> for NoRequest {
    fn from(reason: &'static str) -> Self {
        Self::Malformed(reason)
    }
}

/// How to read a request from an event.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// Attach the event's context to the request.
    pub(crate) with_context: bool,
    /// A path before all others that no route reveals.
    pub(crate) base_path: BasePath,
}

impl Reading {
    /// Determines the kind of an event and builds its request.
    pub(crate) fn of_event(&self, event: &[u8]) -> (Kind, Result<Request, NoRequest>) {
        if let Ok(mut members) = serde_json::from_slice::<Event<'_>>(event)
            && let Some(context) = members.request_context.take()
        {
            return self.of_members(members, context, event);
        }
        let Some(repaired) = repair(event) else {
            return (Kind::Unknown, Err(NOT_JSON.into()));
        };
        let json = repaired.to_string();
        if let Ok(mut members) = serde_json::from_str::<Event<'_>>(&json)
            && let Some(context) = members.request_context.take()
        {
            return self.of_members(members, context, json.as_bytes());
        }
        (Kind::Unknown, Err(Source::of(&repaired).map_or(UNKNOWN.into(), NoRequest::Other)))
    }

    fn of_members(
        &self,
        members: Event<'_>,
        mut context: Context<'_>,
        event: &[u8],
    ) -> (Kind, Result<Request, NoRequest>) {
        // Payload 1.0 has no such member. One that it has by mistake is ignored, unless it could be that of payload
        // 2.0.
        let has_method = |http: &Http<'_>| method(&http.method).is_ok();
        if members.http_method.is_some() && !context.http.as_ref().is_some_and(has_method) {
            context.http = None;
        }
        let kind = kind(&members, &context);
        let mut request = request(members, &context, kind, &self.base_path);
        if self.with_context
            && let Ok(request) = &mut request
            && let Some(context) = typed_context(event, kind)
        {
            request.extensions_mut().insert(context);
        }
        (kind, request.map_err(NoRequest::Malformed))
    }
}

fn kind(event: &Event<'_>, context: &Context<'_>) -> Kind {
    // The order matters: `cargo lambda watch` adds an `httpMethod` to payload 2.0.
    if context.http.is_some() {
        Kind::V2
    } else if event.http_method.is_none() {
        Kind::Unknown
    } else if context.elb.is_some() {
        Kind::Alb
    } else {
        Kind::V1
    }
}

fn method(name: &str) -> Result<Method, &'static str> {
    if name.is_empty() {
        return Ok(Method::GET);
    }
    name.parse().map_err(|_| "The method is none that HTTP has")
}

fn request(
    event: Event<'_>,
    context: &Context<'_>,
    kind: Kind,
    base_path: &BasePath,
) -> Result<Request, &'static str> {
    let named = context.http.as_ref().map(|http| &http.method).or(event.http_method.as_ref());
    let method = method(named.ok_or(UNKNOWN)?)?;

    let is_decoded = is_decoded(&event, context, kind);
    let mut url = path(&event, context, kind, is_decoded);
    base_path.strip(&mut url);
    let query = match &*query_string(&event, kind) {
        "" => None,
        query => {
            url.push('?');
            url.extend(utf8_percent_encode(query, NOT_IN_QUERY));
            let Ok(query) = query.parse::<QueryMap>();
            Some(query)
        }
    };

    let raw_path = raw_path(&event, kind).map(ToOwned::to_owned);
    let body = match event.body {
        None => Body::Empty,
        Some(body) if event.is_base64_encoded == Some(true) => {
            BASE64_STANDARD.decode(body).map_err(|_| "The body is not base64")?.into()
        }
        Some(body) => body.into(),
    };

    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.headers_mut() = headers(event.headers, event.multi_value_headers, event.cookies)
        .map_err(|_| "There are too many headers")?;
    *request.uri_mut() = absolute(url, request.headers(), context.domain_name.as_deref())?;

    // A missing path or query counts as empty.
    if let Some(path) = raw_path {
        request = request.with_raw_http_path(path);
    }
    if let Some(query) = query {
        request = request.with_query_string_parameters(query);
    }
    if let Some(mut parameters) = event.path_parameters {
        for value in parameters.values_mut().filter(|_| !is_decoded) {
            // Invalid UTF-8 stays encoded, so that two different values do not become the same.
            if let Ok(decoded) = percent_decode_str(value).decode_utf8() {
                *value = decoded.into_owned();
            }
        }
        request = request.with_path_parameters(parameters);
    }
    if let Some(variables) = event.stage_variables {
        request = request.with_stage_variables(variables);
    }
    Ok(request)
}

/// Whether the gateway has decoded the path and its parameters. An HTTP API does so in both payloads, and `sam local`
/// does so for a REST API.
fn is_decoded(event: &Event<'_>, context: &Context<'_>, kind: Kind) -> bool {
    match kind {
        // A real REST API sends no version.
        Kind::V1 => event.version.as_deref() == Some("1.0"),
        // `cargo lambda watch` sends no API id; a function URL has its own domain.
        Kind::V2 => {
            let domain = context.domain_name.as_deref().unwrap_or_default();
            let api = context.api_id.as_deref();
            api.is_some_and(|api| api != API_OF_SERVERLESS_OFFLINE)
                && !domain.contains(".lambda-url.")
        }
        Kind::Alb | Kind::Unknown => false,
    }
}

/// The path that the client requested, percent-encoded, without stage and base path.
///
/// A REST API leaves the base path of a custom domain in the event's path. But it also sends the route (`/users/{id}`,
/// `/{proxy+}`) and its parameters, from which the path can be rebuilt. The rebuilt path counts only if the event's own
/// path ends with it, because other gateways, consoles and manual tests fill in routes and parameters at will.
fn path(event: &Event<'_>, context: &Context<'_>, kind: Kind, is_decoded: bool) -> String {
    let not_in_path = if is_decoded { NOT_IN_DECODED_PATH } else { NOT_IN_PATH };
    let route = match kind {
        Kind::V1 => event.resource.as_deref(),
        // "GET /users/{id}", "$default".
        Kind::V2 => event.route_key.as_deref().and_then(|key| Some(key.split_once(' ')?.1)),
        Kind::Alb | Kind::Unknown => None,
    };
    let path = raw_path(event, kind).unwrap_or_default();
    let filled_in =
        route.and_then(|route| fill_in(route, event.path_parameters.as_ref(), not_in_path));
    if let Some(filled_in) = filled_in
        && decoded(path).ends_with(&decoded(&filled_in))
    {
        return filled_in;
    }
    // An HTTP API leaves a named stage in the path.
    let stage = context.stage.as_deref().filter(|stage| is_decoded && *stage != "$default");
    let path = stage.and_then(|stage| without_stage(path, stage)).unwrap_or(path);
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{slash}{}", utf8_percent_encode(path, not_in_path))
}

/// The path as the event has it.
fn raw_path<'event>(event: &'event Event<'_>, kind: Kind) -> Option<&'event str> {
    let (raw_path, path) = (event.raw_path.as_deref(), event.path.as_deref());
    match kind {
        Kind::V2 => raw_path.or(path),
        Kind::V1 | Kind::Alb | Kind::Unknown => path.or(raw_path),
    }
}

fn decoded(path: &str) -> Cow<'_, [u8]> {
    percent_decode_str(path).into()
}

fn fill_in(
    route: &str,
    parameters: Option<&HashMap<String, String>>,
    not_in_path: &'static AsciiSet,
) -> Option<String> {
    let mut path = String::with_capacity(route.len() + 16);
    for segment in route.strip_prefix('/')?.split('/') {
        let parameter = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let value = match parameter {
            None => segment,
            Some(name) => {
                let name = name.strip_suffix('+').unwrap_or(name);
                parameters?.get(name)?
            }
        };
        path.push('/');
        let is_greedy = segment.ends_with("+}");
        for (position, part) in value.split('/').enumerate() {
            if position > 0 {
                path.push_str(if is_greedy { "/" } else { "%2F" });
            }
            path.extend(utf8_percent_encode(part, not_in_path));
        }
    }
    Some(path)
}

fn without_stage<'path>(path: &'path str, stage: &str) -> Option<&'path str> {
    let rest = path.strip_prefix('/')?.strip_prefix(stage)?;
    rest.starts_with('/').then_some(rest)
}

/// The query string as the client sent it, or an equivalent one.
fn query_string<'event>(event: &'event Event<'_>, kind: Kind) -> Cow<'event, str> {
    if kind == Kind::V2 {
        return event.raw_query_string.as_deref().unwrap_or_default().into();
    }
    let multi_value = event.multi_value_query_string_parameters.iter().flatten();
    let mut pairs: Vec<(&str, &str)> = multi_value
        .flat_map(|(name, values)| values.iter().map(move |value| (&**name, &**value)))
        .collect();
    if pairs.is_empty() {
        let single = event.query_string_parameters.iter().flatten();
        pairs = single.map(|(name, value)| (&**name, &**value)).collect();
    }
    // An API decodes names and values; a load balancer does not.
    if kind == Kind::V1 {
        return form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish().into();
    }
    let query = pairs.iter().fold(String::new(), |mut query, (name, value)| {
        let and = if query.is_empty() { "" } else { "&" };
        // Writing to a String cannot fail.
        let _ = write!(query, "{and}{name}={value}");
        query
    });
    query.into()
}

/// All headers that HTTP allows (RFC 9110 §5.1, §5.5), with non-ASCII values as opaque bytes. Others are left out; no
/// gateway lets them through.
fn headers(
    single: Option<Pairs<'_, Text<'_>>>,
    multi_value: Option<Pairs<'_, Vec<Text<'_>>>>,
    cookies: Option<Vec<Text<'_>>>,
) -> Result<HeaderMap, MaxSizeReached> {
    let single = single.map(|pairs| pairs.0).unwrap_or_default();
    let multi_value = multi_value.map(|pairs| pairs.0).unwrap_or_default();
    // Allocated once, with room for later additions, because each growth would rehash all of them.
    let mut headers =
        HeaderMap::try_with_capacity(single.len().max(multi_value.len()).saturating_add(2))?;
    // The single-value form has only the last value of a repeated header.
    for (name, values) in multi_value {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
        for value in values.into_iter().filter_map(|value| header_value(&value)) {
            headers.try_append(&name, value)?;
        }
    }
    let has_multi_value = !headers.is_empty();
    for (name, value) in single {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
        let is_there = has_multi_value
            && headers.get(&name).is_some_and(|there| {
                // If only one of the two forms has a valid host, that one counts.
                name != HOST || authority(there.as_bytes()).is_some()
            });
        if let Some(value) = header_value(&value)
            && !is_there
        {
            headers.try_insert(name, value)?;
        }
    }
    if let Some(cookies) = cookies {
        let cookies = cookies.iter().map(|cookie| &**cookie).collect::<Vec<_>>().join("; ");
        if let Some(cookies) = header_value(&cookies).filter(|cookies| !cookies.is_empty()) {
            headers.try_insert(COOKIE, cookies)?;
        }
    }
    Ok(headers)
}

fn header_value(value: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

/// The URI with the scheme and host that the client requested.
fn absolute(
    path_and_query: String,
    headers: &HeaderMap,
    domain_name: Option<&str>,
) -> Result<Uri, &'static str> {
    // A server MUST respond to an invalid host with 400 (RFC 9112 §3.2).
    let host = headers.get(HOST).filter(|host| !host.is_empty());
    let authority = match host.map(|host| authority(host.as_bytes())) {
        Some(authority) => Some(authority.ok_or("The Host header is no host")?),
        None => domain_name.and_then(|domain| authority(domain.as_bytes())),
    };
    let mut parts = uri::Parts::default();
    // It begins with a slash and contains only valid characters, so only its length can be wrong.
    parts.path_and_query = Some(path_and_query.try_into().map_err(|_| TOO_LONG)?);
    if authority.is_some() {
        let is_plain = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "http");
        parts.scheme = Some(if is_plain { Scheme::HTTP } else { Scheme::HTTPS });
        parts.authority = authority;
    }
    Uri::from_parts(parts).map_err(|_| TOO_LONG)
}

/// A host and a port, without user information.
fn authority(text: &[u8]) -> Option<Authority> {
    Authority::try_from(text).ok().filter(|authority| !authority.as_str().contains('@'))
}

/// The context as `lambda_http` models it. Parsing it reads the event a second time, which most requests avoid.
fn typed_context(event: &[u8], kind: Kind) -> Option<RequestContext> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct OfEvent<C> {
        request_context: C,
    }

    fn read<'event, C: Deserialize<'event>>(event: &'event [u8]) -> Option<C> {
        serde_json::from_slice::<OfEvent<C>>(event).ok().map(|event| event.request_context)
    }

    match kind {
        Kind::V1 => read(event).map(RequestContext::ApiGatewayV1),
        Kind::V2 => read(event).map(RequestContext::ApiGatewayV2),
        Kind::Alb => read(event).map(RequestContext::Alb),
        Kind::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn with_context() -> Reading {
        Reading { with_context: true, ..Reading::default() }
    }

    fn read(event: &Value) -> Result<Request, NoRequest> {
        with_context().of_event(event.to_string().as_bytes()).1
    }

    fn request(event: &Value) -> Request {
        read(event).unwrap_or_else(|reason| panic!("{reason:?}: {event}"))
    }

    fn path(event: &Value) -> String {
        request(event).uri().path().to_owned()
    }

    fn http_api(raw_path: &str) -> Value {
        json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": raw_path,
            "requestContext": { "apiId": "a1b2", "stage": "$default", "http": { "method": "GET" } },
        })
    }

    fn function_url(raw_path: &str) -> Value {
        let mut event = http_api(raw_path);
        event["requestContext"]["domainName"] = "a1b2.lambda-url.eu-west-1.on.aws".into();
        event
    }

    fn rest_api(resource: &str, path: &str, parameters: &Value) -> Value {
        json!({
            "resource": resource,
            "path": path,
            "httpMethod": "GET",
            "pathParameters": parameters,
            "requestContext": { "stage": "Prod", "httpMethod": "GET" },
        })
    }

    fn load_balancer(path: &str) -> Value {
        json!({ "path": path, "httpMethod": "GET", "requestContext": { "elb": {} } })
    }

    #[test]
    fn a_path_is_encoded_once_whether_the_gateway_decodes_it_or_not() {
        for (sent, decoded) in [
            ("/a%20b", "/a b"),
            ("/%2531", "/%31"),
            ("/caf%C3%A9", "/café"),
            ("/x%22%3C%3E", "/x\"<>"),
            ("/%23%3F", "/#?"),
            ("/1;v=2,3", "/1;v=2,3"),
        ] {
            for event in [
                http_api(decoded),
                function_url(sent),
                load_balancer(sent),
                rest_api("/{id}", sent, &json!({ "id": &sent[1..] })),
                json!({
                    "version": "1.0",
                    "path": decoded,
                    "httpMethod": "GET",
                    "requestContext": { "httpMethod": "GET" },
                }),
            ] {
                assert_eq!(path(&event), sent, "{event}");
            }
        }
        // Characters that an encoded path cannot contain are escaped nevertheless.
        assert_eq!(path(&load_balancer("/a b\"é%zz")), "/a%20b%22%C3%A9%zz");
    }

    #[test]
    fn the_watch_of_cargo_lambda_and_serverless_offline_do_not_decode() {
        let mut event = http_api("/caf%C3%A9");
        event["requestContext"]["apiId"] = Value::Null;
        event["httpMethod"] = "GET".into();
        assert_eq!(path(&event), "/caf%C3%A9");
        event["requestContext"]["apiId"] = "offlineContext_apiId".into();
        assert_eq!(path(&event), "/caf%C3%A9");
    }

    #[test]
    fn an_empty_method_of_payload_2_is_get_whatever_else_the_event_names() {
        let mut event = http_api("/");
        event["requestContext"]["http"]["method"] = "".into();
        event["httpMethod"] = "PUT".into();
        assert_eq!(request(&event).method(), Method::GET);
    }

    #[test]
    fn a_path_begins_with_a_slash() {
        for event in [http_api(""), load_balancer(""), rest_api("/", "", &Value::Null)] {
            assert_eq!(path(&event), "/");
        }
        // The path must not become part of the host.
        assert_eq!(path(&load_balancer("@evil.example")), "/@evil.example");
        assert_eq!(path(&load_balancer("//evil.example")), "//evil.example");
        assert_eq!(path(&load_balancer("*")), "/*");
    }

    #[test]
    fn the_path_of_an_http_api_is_without_its_stage() {
        for (stage, raw_path, without_stage) in [
            ("$default", "/users/1", "/users/1"),
            ("$default", "/$default/users", "/$default/users"),
            ("prod", "/prod/users/1", "/users/1"),
            ("prod", "/production/users/1", "/production/users/1"),
            ("prod", "/users/1", "/users/1"),
            ("prod", "/prod", "/prod"),
            ("prod", "/prod/", "/"),
        ] {
            let mut event = http_api(raw_path);
            event["requestContext"]["stage"] = stage.into();
            assert_eq!(path(&event), without_stage, "stage {stage}, path {raw_path}");
            assert_eq!(request(&event).raw_http_path(), raw_path);
        }
        // The route does not include the stage.
        let mut event = http_api("/prod/users/1");
        event["routeKey"] = "GET /users/{id}".into();
        event["pathParameters"] = json!({ "id": "1" });
        assert_eq!(path(&event), "/users/1");
    }

    #[test]
    fn the_path_of_a_rest_api_is_without_base_path_and_stage() {
        let (id, proxy) = (json!({ "id": "1" }), json!({ "proxy": "users/1%2F2/x" }));
        for (resource, event_path, parameters, expected) in [
            ("/users/{id}", "/users/1", &id, "/users/1"),
            ("/users/{id}", "/base/users/1", &id, "/users/1"),
            ("/users/{id}", "/base/Prod/users/1", &id, "/users/1"),
            ("/{proxy+}", "/base/users/1%2F2/x", &proxy, "/users/1%2F2/x"),
            ("/v1/{proxy+}", "/base/v1/users/1%2F2/x", &proxy, "/v1/users/1%2F2/x"),
            ("/users", "/base/users", &Value::Null, "/users"),
            // If the route does not tell, the event's path counts.
            ("/users/{id}", "/users/2", &Value::Null, "/users/2"),
            ("/users/{id}", "/users/2", &json!({ "other": "1" }), "/users/2"),
            ("", "/users/2", &Value::Null, "/users/2"),
            // A route that contradicts the event's path is ignored.
            ("/users", "/users/2", &json!({}), "/users/2"),
            ("/Prod", "/Prod/users/2", &id, "/Prod/users/2"),
            ("/users", "/users/", &Value::Null, "/users/"),
            ("/users/{id}", "/users/1/", &id, "/users/1/"),
            ("/orders/{id}", "/users/2", &id, "/users/2"),
            ("/{proxy+}", "/users/1", &json!({ "proxy": "/users/1" }), "/users/1"),
            ("/{proxy+}", "//users/1", &json!({ "proxy": "users/1" }), "/users/1"),
        ] {
            let event = rest_api(resource, event_path, parameters);
            assert_eq!(path(&event), expected, "{event}");
        }
    }

    #[test]
    fn each_kind_has_its_path_in_a_member_of_its_own() {
        let mut event = rest_api("/{proxy+}", "/users/1", &Value::Null);
        event["rawPath"] = "/shop/users/1".into();
        assert_eq!(
            (path(&event), request(&event).raw_http_path()),
            ("/users/1".into(), "/users/1")
        );
        let mut event = http_api("/orders/1");
        event["path"] = "/users/1".into();
        assert_eq!(path(&event), "/orders/1");
    }

    #[test]
    fn a_base_path_that_is_set_goes() {
        let reading =
            Reading { base_path: BasePath::parse("/api/v1").unwrap(), with_context: true };
        for (asked, without) in [
            ("/api/v1/users/1", "/users/1"),
            ("/api/v1/", "/"),
            ("/api/v1", "/api/v1"),
            ("/api/v1x/users/1", "/api/v1x/users/1"),
            ("/users/1", "/users/1"),
        ] {
            for event in [load_balancer(asked), function_url(asked), http_api(asked)] {
                let request = reading.of_event(event.to_string().as_bytes()).1.unwrap();
                assert_eq!(
                    (request.uri().path(), request.raw_http_path()),
                    (without, asked),
                    "{event}"
                );
            }
        }
    }

    #[test]
    fn a_slash_within_a_parameter_does_not_become_one_between_segments() {
        let mut event = http_api("/users/1/2");
        event["routeKey"] = "ANY /users/{id}".into();
        event["pathParameters"] = json!({ "id": "1/2" });
        assert_eq!(path(&event), "/users/1%2F2");
        assert_eq!(
            path(&rest_api("/users/{id}", "/users/1%2F2", &json!({ "id": "1/2" }))),
            "/users/1%2F2"
        );
    }

    #[test]
    fn path_parameters_are_decoded_once() {
        let given = json!({ "id": "%2531", "bytes": "%FF", "odd": "%zz" });
        let parameters = |event: &Value| {
            let parameters = request(event).path_parameters();
            ["id", "bytes", "odd"].map(|name| parameters.first(name).unwrap().to_owned())
        };
        assert_eq!(parameters(&rest_api("/{id}", "/", &given)), ["%31", "%FF", "%zz"]);
        let mut event = http_api("/");
        event["pathParameters"] = given;
        assert_eq!(parameters(&event), ["%2531", "%FF", "%zz"]);
    }

    #[test]
    fn a_query_string_means_what_it_meant() {
        let query = |event: &Value| {
            let request = request(event);
            let parameters = request.query_string_parameters();
            let all = |name| parameters.all(name).unwrap_or_default().join("|");
            (request.uri().query().unwrap_or_default().to_owned(), all("a"), all("b c"))
        };

        let mut event = http_api("/");
        event["rawQueryString"] = "a=1&a=%3C%26&b+c=d".into();
        assert_eq!(query(&event), ("a=1&a=%3C%26&b+c=d".into(), "1|<&".into(), "d".into()));
        event["rawQueryString"] = "a=<\"> é#&b c=[x]\u{1}".into();
        let escaped = "a=%3C%22%3E%20%C3%A9%23&b%20c=[x]%01";
        assert_eq!(query(&event), (escaped.into(), "<\"> é#".into(), "[x]\u{1}".into()));

        let mut event = rest_api("/", "/", &Value::Null);
        event["queryStringParameters"] = json!({ "a": "<&", "b c": "d" });
        assert_eq!(query(&event), ("a=%3C%26&b+c=d".into(), "<&".into(), "d".into()));
        event["multiValueQueryStringParameters"] = json!({ "a": ["1", "<&"], "b c": [] });
        assert_eq!(query(&event), ("a=1&a=%3C%26".into(), "1|<&".into(), String::new()));

        let mut event = load_balancer("/");
        event["queryStringParameters"] = json!({ "a": "%3C%26", "b+c": "d" });
        assert_eq!(query(&event), ("a=%3C%26&b+c=d".into(), "<&".into(), "d".into()));
    }

    #[test]
    fn all_values_of_a_header_are_there_and_none_that_http_forbids() {
        let mut event = rest_api("/", "/", &Value::Null);
        event["headers"] =
            json!({ "X-Twice": "2", "City": "São Paulo", "Bad": "a\r\nb", "b d": "x" });
        event["multiValueHeaders"] = json!({ "X-Twice": ["1", "2"], "Bad": ["\u{0}"] });
        let request_headers = request(&event).headers().clone();
        assert_eq!(request_headers.get_all("x-twice").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(request_headers["city"].as_bytes(), "São Paulo".as_bytes());
        assert_eq!(request_headers.keys_len(), 2, "{request_headers:?}");

        let mut event = http_api("/");
        event["cookies"] = json!(["a=1", "b=2"]);
        assert_eq!(request(&event).headers()[COOKIE], "a=1; b=2");
        for nothing in [Value::Null, json!({})] {
            event["headers"] = nothing.clone();
            event["cookies"] = Value::Null;
            assert!(request(&event).headers().is_empty());
        }
    }

    #[test]
    fn the_uri_is_what_the_client_asked_for() {
        let uri = |headers: Value, domain: &str| {
            let mut event = http_api("/users/1");
            event["headers"] = headers;
            event["requestContext"]["domainName"] = domain.into();
            read(&event).map(|request| request.uri().to_string())
        };
        let at = |base: &str| Ok(format!("{base}/users/1"));
        assert_eq!(
            uri(json!({ "host": "a.example:8080" }), "b.example"),
            at("https://a.example:8080")
        );
        assert_eq!(uri(json!({ "Host": "[::1]" }), ""), at("https://[::1]"));
        let plain = json!({ "host": "a.example", "x-forwarded-proto": "http" });
        assert_eq!(uri(plain, ""), at("http://a.example"));
        let odd = json!({ "host": "a.example", "x-forwarded-proto": "ht tp://x" });
        assert_eq!(uri(odd, ""), at("https://a.example"));
        for no_host in [Value::Null, json!({ "host": "" })] {
            assert_eq!(uri(no_host.clone(), "b.example"), at("https://b.example"));
            assert_eq!(uri(no_host.clone(), "not a domain"), at(""));
        }
        for no_host in ["not a host", "a@b", "a/b", "<", "é", "a:b:c", "["] {
            assert_eq!(
                uri(json!({ "host": no_host }), ""),
                Err("The Host header is no host".into())
            );
        }
    }

    #[test]
    fn a_body_is_decoded_where_the_gateway_has_encoded_it() {
        let mut event = http_api("/");
        assert_eq!(*request(&event).body(), Body::Empty);
        event["body"] = "aGk=".into();
        assert_eq!(*request(&event).body(), Body::Text("aGk=".to_owned()));
        event["isBase64Encoded"] = true.into();
        assert_eq!(*request(&event).body(), Body::Binary(b"hi".to_vec()));
        event["body"] = "not base64".into();
        assert_eq!(read(&event).unwrap_err(), "The body is not base64".into());
    }

    #[test]
    fn a_context_that_does_not_fit_is_no_hindrance() {
        let mut event = http_api("/users/1");
        event["requestContext"]["http"]["protocol"] = "HTTP/1.1".into();
        assert!(request(&event).request_context_ref().is_some());
        event["requestContext"]["authorizer"] = json!({ "jwt": { "claims": [1] } });
        assert!(request(&event).request_context_ref().is_none());
        for kind in [load_balancer("/users/1"), rest_api("/", "/", &Value::Null)] {
            assert!(request(&kind).request_context_ref().is_some(), "{kind}");
        }
    }

    #[test]
    fn a_context_that_nobody_wants_is_left_out_and_changes_nothing_else() {
        for event in [
            http_api("/users/1"),
            load_balancer("/users/1"),
            rest_api("/users/{id}", "/users/1", &json!({ "id": "1" })),
        ] {
            let event = event.to_string();
            let (kind, without) = Reading::default().of_event(event.as_bytes());
            let (same_kind, with) = with_context().of_event(event.as_bytes());
            let (without, with) = (without.unwrap(), with.unwrap());
            assert!(
                without.request_context_ref().is_none() && with.request_context_ref().is_some()
            );
            assert_eq!(
                (kind, without.uri(), without.headers(), without.path_parameters()),
                (same_kind, with.uri(), with.headers(), with.path_parameters())
            );
        }
    }

    #[test]
    fn an_odd_member_keeps_no_request_from_its_answer() {
        let mut twice = http_api("/users/1").to_string();
        twice.insert_str(1, r#""rawPath":"/users/2","#);
        let mut odd = rest_api("/users/{id}", "/users/1", &json!({ "id": "1" }));
        odd["headers"] =
            json!({ "Authorization": null, "X-Forwarded-Port": 443, "Accept": ["a", "b"] });
        odd["isBase64Encoded"] = "false".into();
        odd["body"] = json!({ "a": 1 });
        odd["queryStringParameters"] = json!({ "debug": [true, 2] });
        let half_a_pair = load_balancer("/users/1").to_string().replace("GET", r"GET\ud83d");
        let half_a_pair =
            half_a_pair.replace(r"GET\ud83d", r#"GET","headers":{"a":"\ud83d"},"x":""#);
        for event in [twice, odd.to_string(), half_a_pair] {
            let request = with_context().of_event(event.as_bytes()).1.unwrap();
            assert_eq!(request.uri().path(), "/users/1", "{event}");
        }
        let request = request(&odd);
        assert_eq!(
            (&request.headers()["accept"], &request.headers()["x-forwarded-port"]),
            (&"a, b".parse().unwrap(), &"443".parse().unwrap())
        );
        assert_eq!(
            (request.uri().query(), request.body()),
            (Some("debug=true&debug=2"), &Body::Text(r#"{"a":1}"#.to_owned()))
        );
    }

    #[test]
    fn what_is_no_request_is_named() {
        let mut long = http_api("/");
        long["rawQueryString"] = "x".repeat(70_000).into();
        let names = (0..30_000).map(|number| (format!("x-{number}"), "x".into()));
        let (mut crowded, mut more_crowded) = (http_api("/"), http_api("/"));
        crowded["headers"] = names.clone().collect();
        more_crowded["multiValueHeaders"] =
            names.map(|(name, value): (String, Value)| (name, json!([value]))).collect();
        let mut no_method = http_api("/");
        no_method["requestContext"]["http"]["method"] = "GE T".into();
        let mut no_context = http_api("/");
        no_context["requestContext"] = Value::Null;
        for (event, reason) in [
            (long.to_string(), TOO_LONG),
            (crowded.to_string(), "There are too many headers"),
            (more_crowded.to_string(), "There are too many headers"),
            (no_method.to_string(), "The method is none that HTTP has"),
            (no_context.to_string(), UNKNOWN),
            (r#"{"requestContext":{},"path":"\ud800"}"#.to_owned(), UNKNOWN),
            (r#"{"requestContext":{}}"#.to_owned(), UNKNOWN),
            ("[]".to_owned(), UNKNOWN),
            ("null".to_owned(), UNKNOWN),
            (r#"{"requestContext":"#.to_owned(), NOT_JSON),
            ("{\"requestContext\":{},\"path\":\"a\tb\"}".to_owned(), NOT_JSON),
        ] {
            assert_eq!(
                with_context().of_event(event.as_bytes()).1.unwrap_err(),
                reason.into(),
                "{event}"
            );
        }
    }
}
