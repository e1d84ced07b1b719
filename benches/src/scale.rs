//! Many environments that call one Redis at the same time.

use std::collections::HashMap;
use std::error::Error;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::functions::{Places, event};
use crate::lambda::{Lambda, PATIENCE, Turn};
use crate::peers::Redis;
use crate::report::{Table, millis, quantile, time};
use crate::{Result, say};

const ENVIRONMENTS: [usize; 4] = [1, 10, 100, 300];
/// The number of keys in the runs with many keys.
const KEYS: u64 = 1_000;
const DURATION: Duration = Duration::from_secs(3);

pub(crate) struct Scale(Vec<Figures>);

struct Figures {
    environments: usize,
    keys: u64,
    connections: u64,
    /// The first call of each environment, all at the same time, with an empty cache.
    first_p50: Duration,
    first_max: Duration,
    first_loads: usize,
    throughput: f64,
    p50: Duration,
    p99: Duration,
    loads: usize,
    redis_cpu_share: f64,
}

pub(crate) fn scale(places: &Places) -> Result<Scale> {
    let mut figures = Vec::new();
    for keys in [1, KEYS] {
        for environments in ENVIRONMENTS {
            say(&format!("at once: {environments} environments, {keys} keys"));
            figures.push(run(places, environments, keys)?);
        }
    }
    Ok(Scale(figures))
}

fn run(places: &Places, environments: usize, keys: u64) -> Result<Figures> {
    let redis = Redis::start()?;
    // Only three users exist. For the other keys the cache stores that the user is unknown.
    let program = places.ours(&redis.url()).with("CACHE_NOT_FOUND_TTL_SECONDS", "86400");
    // On Lambda each environment has a processor. Here they share a few, so replies are late although Redis is fast.
    let program = program
        .with("REDIS_CONNECT_TIMEOUT_MS", "10000")
        .with("REDIS_RESPONSE_TIMEOUT_MS", "10000");
    let mut lambda = Lambda::idle(&program, environments)?;
    let events = (1..=keys).map(event).collect::<Result<Vec<_>>>()?;
    let mut next = 0;
    let mut choose = || {
        next += 1;
        &events[next % events.len()]
    };

    // All environments at the same time, with an empty cache.
    let mut given = HashMap::new();
    for number in 0..environments {
        given.insert(number, lambda.give(number, choose())?);
    }
    let mut first = Calls::default();
    let mut idle = 0;
    while idle < environments {
        for (number, turn) in lambda.turns(PATIENCE)? {
            idle += usize::from(matches!(turn, Turn::Idle(_)));
            first.note(turn, given[&number])?;
        }
    }

    let cpu_before = redis_cpu(&redis)?;
    let started = Instant::now();
    let mut warm = Calls::default();
    for number in 0..environments {
        given.insert(number, lambda.give(number, choose())?);
    }
    let mut busy = environments;
    let mut connections = 0;
    while busy > 0 {
        for (number, turn) in lambda.turns(PATIENCE)? {
            if let Turn::Idle(at) = turn {
                if at - started < DURATION {
                    given.insert(number, lambda.give(number, choose())?);
                } else {
                    if connections == 0 {
                        connections = field(&redis, "connected_clients")?;
                    }
                    busy -= 1;
                }
            } else {
                warm.note(turn, given[&number])?;
            }
        }
    }
    let lasted = started.elapsed().as_secs_f64();
    first.took.sort_unstable();
    warm.took.sort_unstable();
    Ok(Figures {
        environments,
        keys,
        // Without the connection that reads this figure.
        connections: connections - 1,
        first_p50: quantile(&first.took, 0.5),
        first_max: quantile(&first.took, 1.0),
        first_loads: first.loads,
        #[expect(clippy::cast_precision_loss)]
        throughput: warm.took.len() as f64 / lasted,
        p50: quantile(&warm.took, 0.5),
        p99: quantile(&warm.took, 0.99),
        loads: warm.loads,
        redis_cpu_share: (redis_cpu(&redis)? - cpu_before) / lasted,
    })
}

#[derive(Default)]
struct Calls {
    took: Vec<Duration>,
    loads: usize,
}

impl Calls {
    fn note(&mut self, turn: Turn, given: Instant) -> Result<()> {
        match turn {
            Turn::Idle(_) => {}
            Turn::Answered(at, reply) => {
                self.took.push(at - given);
                let reply = String::from_utf8_lossy(&reply);
                let is_load = !reply.contains("; hit; ") && !reply.contains("; collapsed\"");
                self.loads += usize::from(is_load);
            }
            Turn::Failed(_, error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// The processor time that Redis has used so far, in seconds.
fn redis_cpu(redis: &Redis) -> Result<f64> {
    Ok(field::<f64>(redis, "used_cpu_sys")? + field::<f64>(redis, "used_cpu_user")?)
}

fn field<T>(redis: &Redis, name: &str) -> Result<T>
where
    T: FromStr<Err: Error + Send + Sync + 'static>,
{
    let info: String = redis.command(&["INFO"])?;
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.ok_or_else(|| format!("INFO has no {name}"))?.trim().parse()?)
}

impl Scale {
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(
            "Many environments at once",
            &[
                "environments",
                "keys",
                "connections",
                "loads of the first calls",
                "first p50",
                "first max",
                "hits a second",
                "p50",
                "p99",
                "later loads",
                "Redis' processor",
            ],
        );
        for it in &self.0 {
            table.row([
                it.environments.to_string(),
                it.keys.to_string(),
                it.connections.to_string(),
                it.first_loads.to_string(),
                millis(it.first_p50.as_secs_f64()),
                millis(it.first_max.as_secs_f64()),
                format!("{:.0}", it.throughput),
                time(it.p50.as_secs_f64()),
                time(it.p99.as_secs_f64()),
                it.loads.to_string(),
                format!("{:.0} %", it.redis_cpu_share * 100.0),
            ]);
        }
        table
    }

    pub(crate) fn json(&self) -> Value {
        let of = |it: &Figures| {
            json!({
                "environments": it.environments,
                "keys": it.keys,
                "connections": it.connections,
                "first_loads": it.first_loads,
                "first_p50_s": it.first_p50.as_secs_f64(),
                "first_max_s": it.first_max.as_secs_f64(),
                "hits_per_s": it.throughput,
                "p50_s": it.p50.as_secs_f64(),
                "p99_s": it.p99.as_secs_f64(),
                "later_loads": it.loads,
                "redis_cpu_share": it.redis_cpu_share,
            })
        };
        self.0.iter().map(of).collect()
    }
}
