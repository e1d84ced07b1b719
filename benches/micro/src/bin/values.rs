//! Compares a hit of `ValueCache::get_or_load` to a bare `GET` with `serde_json`, alternating in one process over one
//! Redis: `REDIS_URL=redis://127.0.0.1:6379 cargo run --release -p response-boost-micro --bin values`.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use redis::AsyncCommands as _;
use response_boost::{Namespace, Policy, RedisSettings, RedisStore, ValueCache};
use serde::{Deserialize, Serialize};

const ROUNDS: usize = 200;
const HITS: u32 = 100;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct User {
    id: u64,
    name: String,
    email: String,
    age: u8,
}

fn manas() -> User {
    User { id: 1, name: "Manas".into(), email: "manas@example.com".into(), age: 25 }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2] / HITS
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("REDIS_URL")?;
    let store = RedisStore::new(RedisSettings::parse(&url)?);
    let policy = Policy::new(Duration::from_hours(1));
    let users = ValueCache::<User, _>::new(store, policy, Namespace::parse("bench")?);
    let mut bare = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let () = bare.set("bench:bare", serde_json::to_vec(&manas())?).await?;

    let (mut through, mut without) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for _ in 0..HITS {
            let load = async || Ok::<_, Infallible>(Some(manas()));
            assert_eq!(users.get_or_load(["user", "1"], load).await?, Some(manas()));
        }
        through.push(started.elapsed());
        let started = Instant::now();
        for _ in 0..HITS {
            let json: Vec<u8> = bare.get("bench:bare").await?;
            assert_eq!(serde_json::from_slice::<User>(&json)?, manas());
        }
        without.push(started.elapsed());
    }
    let (through, without) = (median(through), median(without));
    let ratio = through.as_secs_f64() / without.as_secs_f64();
    println!("get_or_load {through:?}, GET and serde_json {without:?}: {ratio:.3}");
    Ok(())
}
