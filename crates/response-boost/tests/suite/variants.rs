//! One path, many responses: no client gets a response that was made for another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_LANGUAGE, HeaderName, ORIGIN, VARY,
};
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use response_boost::{
    CacheKey, MemoryStore, Namespace, Policy, RedisSettings, RedisStore, ResponseCacheLayer,
};
use test_peers::PATIENCE;
use test_peers::redis::RedisServer;
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::log::{LevelFilter, Log};
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;

const REQUESTS: usize = 100_000;
const AT_A_TIME: usize = 64;
const HOUR: Duration = Duration::from_hours(1);

/// All fields that the inner layers read.
const FIELDS: [HeaderName; 5] = [
    ACCEPT_LANGUAGE,
    ACCEPT_ENCODING,
    ORIGIN,
    ACCESS_CONTROL_REQUEST_METHOD,
    ACCESS_CONTROL_REQUEST_HEADERS,
];

/// A service in three languages and for two origins, compressed as the client prefers.
fn app() -> Router {
    let page = async |request: Request| {
        let asked = request.headers().get(ACCEPT_LANGUAGE).map(|value| value.to_str().unwrap());
        let language = match asked {
            Some("de") => "de",
            Some("fr") => "fr",
            _ => "en",
        };
        let body = format!("{} in {language}; ", request.uri().path()).repeat(20);
        ([(CONTENT_LANGUAGE, language), (VARY, "accept-language")], body).into_response()
    };
    let origins = ["https://a.example", "https://b.example"].map(|origin| origin.parse().unwrap());
    Router::new()
        .route("/{page}", get(page))
        .layer(CompressionLayer::new())
        .layer(CorsLayer::new().allow_origin(origins))
}

const PAGES: [&str; 4] = ["/a", "/b?utm_source=x", "/b", "/c"];
const LANGUAGES: [&str; 5] = ["", "en", "de", "fr", "de, en"];
const ENCODINGS: [&str; 5] = ["", "gzip", "deflate", "identity", "gzip, deflate"];
const ORIGINS: [&str; 4] = ["", "https://a.example", "https://b.example", "https://c.example"];
const COMBINATIONS: usize = PAGES.len() * LANGUAGES.len() * ENCODINGS.len() * ORIGINS.len();

/// The combination for the request of this number, in a mixed order that is unrelated to the choices.
fn combination(number: usize) -> usize {
    (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16) % COMBINATIONS
}

fn request(mut combination: usize) -> Request {
    let mut one_of = |choices: &[&'static str]| {
        let chosen = choices[combination % choices.len()];
        combination /= choices.len();
        chosen
    };
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = one_of(&PAGES).parse().unwrap();
    for (name, choices) in
        [(ACCEPT_LANGUAGE, &LANGUAGES[..]), (ACCEPT_ENCODING, &ENCODINGS), (ORIGIN, &ORIGINS)]
    {
        let value = one_of(choices);
        if !value.is_empty() {
            request.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
    }
    request
}

/// What distinguishes one variant from another.
type Variant = (u16, Bytes, [Option<http::HeaderValue>; 3]);

async fn variant<B>(response: Response<B>) -> Variant
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (mut parts, body) = response.into_parts();
    let names = ["content-language", "content-encoding", "access-control-allow-origin"];
    let fields = names.map(|name| parts.headers.remove(name));
    (parts.status.as_u16(), body.collect().await.unwrap().to_bytes(), fields)
}

fn key_of(covered: &'static [HeaderName]) -> impl Fn(&Request) -> Option<CacheKey> + Clone {
    let namespace = Namespace::parse("test").unwrap();
    move |request: &Request| {
        let key = namespace.path_key(request.uri());
        Some(covered.iter().fold(key, |key, name| key.with_header(request.headers(), name)))
    }
}

#[tokio::test]
async fn of_a_hundred_thousand_mixed_requests_none_gets_anothers_variant() {
    let mut expected = Vec::new();
    for combination in 0..COMBINATIONS {
        expected.push(variant(app().oneshot(request(combination)).await.unwrap()).await);
    }
    let policy = Policy::new(HOUR).with_key_headers(FIELDS);
    let layer = ResponseCacheLayer::new(MemoryStore::default(), policy, key_of(&FIELDS));
    let cached = app().layer(layer);
    let (hits, expected) = (AtomicUsize::new(0), &expected);
    stream::iter(0..REQUESTS)
        .for_each_concurrent(AT_A_TIME, async |number| {
            let combination = combination(number);
            let response = cached.clone().oneshot(request(combination)).await.unwrap();
            let status = response.headers()["cache-status"].to_str().unwrap().to_owned();
            assert!(!status.contains("detail"), "all is covered: {status}");
            hits.fetch_add(usize::from(status.contains("; hit")), Ordering::Relaxed);
            assert_eq!(variant(response).await, expected[combination], "request {number}");
        })
        .await;
    println!("{} hits of {REQUESTS}", hits.load(Ordering::Relaxed));
    assert!(hits.into_inner() > REQUESTS * 9 / 10);
}

/// If the key leaves out a field, no response that depends on it is stored.
#[tokio::test]
async fn a_variant_that_the_key_does_not_tell_apart_is_not_stored() {
    const LANGUAGE: &[HeaderName] = &[ACCEPT_LANGUAGE];
    let policy = Policy::new(HOUR).with_key_headers(LANGUAGE.iter().cloned());
    let layer = ResponseCacheLayer::new(MemoryStore::default(), policy, key_of(LANGUAGE));
    let cached = app().layer(layer);
    for combination in 0..COMBINATIONS {
        let expected = variant(app().oneshot(request(combination)).await.unwrap()).await;
        let response = cached.clone().oneshot(request(combination)).await.unwrap();
        let status = &response.headers()["cache-status"];
        assert_eq!(status, "response-boost; fwd=uri-miss; detail=vary");
        assert_eq!(variant(response).await, expected, "combination {combination}");
    }
}

#[tokio::test]
async fn of_two_callers_none_gets_the_others_response_and_no_secret_is_written_anywhere() {
    const CALLERS: [(&str, &str); 2] =
        [("Ada", "Bearer ada-0c2f1e9a4b"), ("Bob", "Bearer bob-7d3e5f8c6a")];
    let log = Log::of_this_thread(LevelFilter::TRACE);
    let redis = RedisServer::start().await;
    let settings = RedisSettings::parse(&redis.operator_url())
        .unwrap()
        .with_connect_timeout(PATIENCE)
        .with_response_timeout(PATIENCE);
    let key = |path: &str, headers: &HeaderMap| {
        let namespace = Namespace::parse("test").unwrap();
        namespace.path_key(&path.parse().unwrap()).with_secret_header(headers, &AUTHORIZATION)
    };
    let policy = Policy::new(HOUR).with_deadline(PATIENCE);
    let cache = ResponseCacheLayer::new(
        RedisStore::new(settings),
        policy,
        move |request: &http::Request<String>| Some(key(request.uri().path(), request.headers())),
    );
    let account = service_fn(async |request: http::Request<String>| {
        let asks = &request.headers()[AUTHORIZATION];
        let (name, _) = CALLERS.iter().find(|(_, secret)| asks == secret).unwrap();
        let body = format!("{} of {name}", request.uri().path());
        Ok::<_, std::convert::Infallible>(Response::new(body))
    });
    let cached = cache.clone().layer(account);
    stream::iter(0..REQUESTS)
        .for_each_concurrent(AT_A_TIME, async |number| {
            let (name, secret) = CALLERS[number % 2];
            let path = ["/account", "/orders", "/orders/7"][number / 2 % 3];
            let mut request = http::Request::new(String::new());
            *request.uri_mut() = path.parse().unwrap();
            request.headers_mut().insert(AUTHORIZATION, secret.parse().unwrap());
            if number % 1_000 < 2 {
                cache.invalidate(&key(path, request.headers())).await.unwrap();
            }
            let response = cached.clone().oneshot(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, format!("{path} of {name}"), "request {number}");
        })
        .await;

    let mut written = log.written();
    let lines = written.lines().count();
    assert!(lines >= REQUESTS, "each answer has a line: {lines}");
    let keys: Vec<String> = redis.command(&["KEYS", "*"]);
    assert_eq!(keys.len(), 6, "{keys:?}");
    for key in &keys {
        written.push_str(key);
        written.push_str(&redis.command::<String>(&["GET", key]));
    }
    for part in ["ada-0c2f1e9a4b", "bob-7d3e5f8c6a", "Bearer"] {
        assert!(!written.contains(part), "{part}");
    }
}
