//! Compares hits of entries with tags to hits without, alternating in one process over one Redis:
//! `REDIS_URL=redis://127.0.0.1:6379 cargo run --release -p response-boost-micro --bin tags`.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lambda_http::http::{Request, Response};
use lambda_http::tower::{Layer as _, Service as _, service_fn};
use response_boost::{Keep, Namespace, Policy, RedisSettings, RedisStore, ResponseCacheLayer};

const ROUNDS: usize = 400;
const HITS: u32 = 50;
/// How many tags an entry has, and whether the request names them; if not, only the entry does.
const KINDS: [(usize, bool); 6] =
    [(0, true), (1, true), (2, true), (4, true), (8, true), (1, false)];

type Body = http_body_util::Full<Bytes>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = RedisSettings::parse(&std::env::var("REDIS_URL")?)?;
    let mut services = Vec::new();
    for (number, (tags, by_request)) in KINDS.into_iter().enumerate() {
        let bench = Namespace::parse("bench")?;
        let names: Result<Vec<_>, _> =
            (0..tags).map(|tag| bench.tag(&format!("{number}-{tag}"))).collect();
        let tags = names?;
        let policy = Policy::new(Duration::from_hours(1)).with_response_tags(bench.clone());
        let policy = if by_request { Policy::new(Duration::from_hours(1)) } else { policy };
        let key = bench.key(["tags", &number.to_string()]);
        let cache = ResponseCacheLayer::new(
            RedisStore::new(settings.clone()),
            policy,
            move |_: &Request<()>| Some(key.clone()),
        );
        let of_request = if by_request { tags.clone() } else { Vec::new() };
        let cache = if of_request.is_empty() {
            cache
        } else {
            cache.with_tags(move |_| Ok(of_request.clone()))
        };
        let keep = if by_request { Keep::tagged([]) } else { Keep::tagged(tags) };
        services.push(cache.layer(service_fn(move |_: Request<()>| {
            let body = r#"{"id":1,"name":"Manas","email":"manas@example.com","age":25}"#;
            let mut response = Response::new(Body::from(body));
            response.extensions_mut().insert(keep.clone());
            std::future::ready(Ok::<_, Infallible>(response))
        })));
    }

    let mut times = vec![Vec::new(); KINDS.len()];
    for _ in 0..ROUNDS {
        for (service, times) in services.iter_mut().zip(&mut times) {
            let mut is_hit = true;
            let started = Instant::now();
            for _ in 0..HITS {
                let response = service.call(Request::new(())).await?;
                is_hit &= response.headers()["cache-status"]
                    .as_bytes()
                    .starts_with(b"response-boost; hit");
            }
            // The first round stores the entry.
            if is_hit {
                times.push(started.elapsed() / HITS);
            }
        }
    }
    let medians: Vec<_> = times
        .into_iter()
        .map(|mut times| {
            times.sort();
            times[times.len() / 2].as_secs_f64()
        })
        .collect();
    for ((tags, by_request), median) in KINDS.into_iter().zip(&medians) {
        let whose = if by_request { "of the request" } else { "of the response" };
        let (case, ratio) = (format!("{tags} tags {whose}"), median / medians[0]);
        println!("{}", serde_json::json!({ "case": case, "s": median, "ratio": ratio }));
    }
    Ok(())
}
