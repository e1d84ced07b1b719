//! Compares hits of `ValueCache::get_or_load` to a bare `GET` with `serde_json`, and in the process to the caches that
//! keep values as they are, alternating in one process over one Redis:
//! `REDIS_URL=redis://127.0.0.1:6379 cargo run --release -p response-boost-micro --bin values`.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::time::{Duration, Instant};

use cached::macros::cached;
use redis::AsyncCommands as _;
use response_boost::{MemoryStore, Namespace, Policy, RedisSettings, RedisStore, ValueCache};
use serde::{Deserialize, Serialize};

type Error = Box<dyn std::error::Error>;

const ROUNDS: usize = 200;
const HITS: u32 = 100;
const TTL: Duration = Duration::from_hours(1);
const CASES: [&str; 6] = [
    "GET and serde_json",
    "response-boost: get_or_load, Redis",
    "response-boost: get_or_load, in the process",
    "moka, in the process",
    "cached, in the process",
    "amalgam-cache, in the process",
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    id: u64,
    name: String,
    email: String,
    age: u8,
}

fn manas() -> User {
    User { id: 1, name: "Manas".into(), email: "manas@example.com".into(), age: 25 }
}

fn load() -> Ready<Result<Option<User>, Infallible>> {
    ready(Ok(Some(manas())))
}

#[cached(ttl_secs = 3600)]
#[allow(
    clippy::unused_async,
    reason = "a load would wait; the macro makes several functions of it"
)]
async fn user(id: u64) -> User {
    User { id, ..manas() }
}

/// The time that a hit takes, in seconds.
async fn time(get: impl AsyncFn() -> Result<User, Error>) -> Result<f64, Error> {
    let started = Instant::now();
    for _ in 0..HITS {
        assert_eq!(get().await?, manas());
    }
    Ok(started.elapsed().as_secs_f64() / f64::from(HITS))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let url = std::env::var("REDIS_URL")?;
    let bench = Namespace::parse("bench")?;
    let bare = redis::Client::open(&*url)?.get_multiplexed_async_connection().await?;
    let () = bare.clone().set("bench:bare", serde_json::to_vec(&manas())?).await?;
    let store = RedisStore::new(RedisSettings::parse(&url)?);
    let in_redis = ValueCache::<User, _>::new(store, Policy::new(TTL), bench.clone());
    let store = MemoryStore::with_capacity_bytes(1 << 20);
    let in_process = ValueCache::<User, _>::new(store, Policy::new(TTL), bench);
    let moka = moka::future::Cache::builder().time_to_live(TTL).max_capacity(10_000).build();
    let amalgam = amalgam::Cache::<User>::builder().try_build()?;

    let mut times = [const { Vec::new() }; CASES.len()];
    for _ in 0..ROUNDS {
        let of_round = [
            time(async || {
                let json: Vec<u8> = bare.clone().get("bench:bare").await?;
                Ok(serde_json::from_slice(&json)?)
            })
            .await?,
            time(async || Ok(in_redis.get_or_load(["user", "1"], load).await?.ok_or("no user")?))
                .await?,
            time(async || {
                Ok(in_process.get_or_load(["user", "1"], load).await?.ok_or("no user")?)
            })
            .await?,
            time(async || Ok(moka.get_with_by_ref("user:1", async { manas() }).await)).await?,
            time(async || Ok(user(1).await)).await?,
            time(async || {
                let load = |_| async { Ok::<_, Infallible>(manas()) };
                Ok(amalgam.get_or_set("user:1", load).await?.clone())
            })
            .await?,
        ];
        for (times, time) in times.iter_mut().zip(of_round) {
            times.push(time);
        }
    }
    let medians = times.map(median);
    for (case, median) in CASES.into_iter().zip(medians) {
        let ratio = median / medians[0];
        println!("{}", serde_json::json!({ "case": case, "s": median, "ratio": ratio }));
    }
    Ok(())
}
