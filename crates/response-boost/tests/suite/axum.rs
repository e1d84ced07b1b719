//! The layer in axum, over sockets: around a whole router, and around one route of several.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{Path, Request};
use axum::routing::get;
use http::{Method, StatusCode};
use response_boost::{CacheKey, Keep, MemoryStore, Namespace, Policy, ResponseCacheLayer};
use test_peers::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceBuilder;
use tower::timeout::TimeoutLayer;

fn cache(
    ttl: Duration,
) -> ResponseCacheLayer<MemoryStore, impl Fn(&Request) -> Option<CacheKey> + Clone> {
    let namespace = Namespace::parse("test").unwrap();
    let key_of = move |request: &Request| Some(namespace.key([request.uri().path()]));
    ResponseCacheLayer::new(MemoryStore::default(), Policy::new(ttl), key_of)
}

/// Serves the app, and returns a client: it takes a method and a path, and returns the whole response as text.
async fn serve(app: Router) -> impl AsyncFn(Method, &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    async move |method: Method, path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let asked = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn a_router_is_cached_in_one_line() {
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&loads);
    let price = move |Path(sku): Path<u32>| async move {
        counted.fetch_add(1, Ordering::SeqCst);
        format!("price of {sku}")
    };
    let app = Router::new()
        .route("/prices/{sku}", get(price).post(async || "bought"))
        .layer(cache(Duration::from_mins(1)));
    let ask = serve(app).await;

    let miss = ask(Method::GET, "/prices/7").await;
    assert!(miss.contains("cache-status: response-boost; fwd=uri-miss; stored"), "{miss}");
    let hit = ask(Method::GET, "/prices/7").await;
    assert!(hit.contains("cache-status: response-boost; hit; ttl="), "{hit}");
    assert!(hit.contains("content-length: 10") && hit.ends_with("price of 7"), "{hit}");
    let head = ask(Method::HEAD, "/prices/7").await;
    assert!(head.contains("content-length: 10") && head.ends_with("\r\n\r\n"), "{head}");
    let post = ask(Method::POST, "/prices/7").await;
    assert!(post.ends_with("bought") && !post.contains("cache-status"), "{post}");
    assert_eq!(loads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn each_route_can_have_a_layer_of_its_own() {
    let app = Router::new()
        .route("/slow", get(async || "slow").layer(cache(Duration::from_mins(1))))
        .route("/quick", get(async || "quick").layer(cache(Duration::from_secs(1))))
        .route("/never", get(async || "never"));
    let ask = serve(app).await;
    for (path, freshness) in [("/slow", "max-age=60"), ("/quick", "max-age=1"), ("/never", "")] {
        let answer = ask(Method::GET, path).await;
        assert!(answer.contains(freshness) && answer.ends_with(&path[1..]), "{answer}");
        assert_eq!(answer.contains("cache-status"), !freshness.is_empty(), "{answer}");
    }
}

#[tokio::test]
async fn each_route_can_say_for_itself_how_long_it_is_stored() {
    let said = async || ([("cache-control", "public, max-age=10000")], "said");
    let kept = async || (axum::Extension(Keep::new(Duration::from_secs(1_000))), "kept");
    let app = Router::new()
        .route("/plain", get(async || "plain"))
        .route("/said", get(said))
        .route("/kept", get(kept))
        .layer(cache(Duration::from_secs(100_000)));
    let ask = serve(app).await;
    for (path, ttl, cache_control) in [
        ("/plain", 100_000, "private, max-age=100000"),
        ("/said", 10_000, "public, max-age=10000"),
        ("/kept", 1_000, "private, max-age=1000"),
    ] {
        ask(Method::GET, path).await;
        let hit = ask(Method::GET, path).await;
        let left = hit.split_once("response-boost; hit; ttl=").unwrap().1;
        let left: u64 = left.split_once("\r\n").unwrap().0.parse().unwrap();
        assert!((ttl / 2..=ttl).contains(&left), "{hit}");
        assert!(hit.contains(&format!("cache-control: {cache_control}\r\n")), "{hit}");
        assert!(hit.ends_with(&path[1..]), "{hit}");
    }
}

/// How the first request ends while its handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Panic,
    ClientGone,
    Timeout,
}

/// A lease left behind would delay the next request until the test times out.
#[tokio::test]
async fn whatever_ends_a_request_the_next_one_finds_no_lease() {
    for end in [End::Panic, End::ClientGone, End::Timeout] {
        let loads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&loads);
        let price = move || async move {
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                assert!(end != End::Panic, "as the test wants it");
                std::future::pending::<()>().await;
            }
            "price"
        };
        let namespace = Namespace::parse("test").unwrap();
        let policy = Policy::new(Duration::from_mins(10)).with_lease(Duration::from_mins(10));
        let key_of = move |request: &Request| Some(namespace.key([request.uri().path()]));
        let cache = ResponseCacheLayer::new(MemoryStore::default(), policy, key_of);
        // Far longer than a request takes here, except for the one that hangs.
        let limit = if end == End::Timeout { Duration::from_secs(2) } else { PATIENCE };
        let outside = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(async |_| StatusCode::GATEWAY_TIMEOUT))
            .layer(TimeoutLayer::new(limit));
        let ask = serve(Router::new().route("/", get(price)).layer(cache).layer(outside)).await;

        if end == End::ClientGone {
            tokio::select! {
                _ = ask(Method::GET, "/") => panic!("the handler hangs"),
                () = test_peers::wait_for("the load", || {
                    (loads.load(Ordering::SeqCst) > 0).then_some(())
                }) => {}
            }
        } else {
            let answer = ask(Method::GET, "/").await;
            assert!(!answer.contains("price"), "{answer}");
        }
        let started = Instant::now();
        let next = tokio::time::timeout(PATIENCE, ask(Method::GET, "/")).await;
        println!("after {end:?}: {:?}", started.elapsed());
        let next = next.unwrap_or_else(|_| panic!("{end:?} has left a lease"));
        assert!(next.ends_with("price"), "{end:?}: {next}");
        assert_eq!(loads.load(Ordering::SeqCst), 2);
    }
}
