//! What a client sees if Redis is killed, stops responding, or does not respond from the start, and when an environment
//! that is frozen between requests has hits again.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Map, Value, json};

use crate::functions::{FLOOR_KEY, Places, USER, event};
use crate::lambda::{One, Outcome, Program};
use crate::peers::{Certificates, Cluster, Redis, signal};
use crate::report::{Table, median, millis};
use crate::{Result, say};

/// How long to wait for a reply: API Gateway times out after 30 seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many calls follow the first one.
const CALLS: usize = 5;

/// How long an environment is frozen after each reply, and how often that is tried.
const FROZEN: Duration = Duration::from_secs(2);
const TRIES: usize = 3;
/// How many requests an environment gets to have a hit again.
const MOST_REQUESTS: usize = 20;

pub(crate) struct Faults {
    rows: Vec<Row>,
    recoveries: Vec<Recovery>,
    left_out: Option<String>,
}

/// How an environment that is frozen between requests recovers from a hiccup of Redis.
struct Recovery {
    name: &'static str,
    /// How many requests each try took, up to and including the first hit.
    requests: Vec<usize>,
    /// The slowest reply, that of the hiccup itself included.
    slowest: Duration,
}

struct Row {
    name: &'static str,
    killed: Seen,
    stopped: Seen,
    silent: Seen,
}

/// What the client saw after the fault.
struct Seen {
    /// If the function failed to initialise: how long that took. The other fields are empty.
    init_failed: Option<Duration>,
    init: Option<Duration>,
    calls: Vec<(Duration, Ended)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Correct,
    Error,
    /// No reply before the client timed out.
    Silent,
}

/// The name of a function, and how to start it with a Redis URL.
type Function<'a> = (&'static str, Box<dyn Fn(&str) -> Program + 'a>);

pub(crate) fn faults(places: &Places) -> Result<Faults> {
    let functions: [Function<'_>; 5] = [
        ("response-boost", Box::new(|url| places.ours(url))),
        ("one Redis GET passed through", Box::new(|url| places.floor(url, FLOOR_KEY))),
        ("cached, Redis macro", Box::new(|url| places.cached(url))),
        ("tower-http-cache, Redis backend", Box::new(|url| places.tower_http_cache(url))),
        ("hitbox, Redis backend", Box::new(|url| places.hitbox(url))),
    ];
    let mut rows = Vec::new();
    for (name, program) in functions {
        say(&format!("faults: {name}"));
        rows.push(Row {
            name,
            killed: after(&program, |redis| {
                drop(redis);
                Ok(None)
            })?,
            stopped: after(&program, |redis| {
                redis.stop()?;
                Ok(Some(redis))
            })?,
            silent: from_the_start(&program)?,
        });
    }

    let certificates = Certificates::new()?;
    let one = vec![Redis::start()?];
    let mut recoveries = vec![recover("one server", &places.ours(&one[0].url()), &one)?];
    let mut left_out = None;
    match Cluster::start(3, Some(&certificates)) {
        Ok(Cluster { nodes }) => {
            let program = places
                .ours(&nodes[0].tls_url())
                .with("REDIS_CLUSTER", "true")
                .with("REDIS_TLS_CA_FILE", certificates.ca_file.to_string_lossy());
            recoveries.push(recover("cluster of three, TLS", &program, &nodes)?);
        }
        Err(error) => left_out = Some(format!("TLS: {error}")),
    }
    Ok(Faults { rows, recoveries, left_out })
}

/// Counts the requests until a hit after Redis has stood still for one request, in an environment that is frozen between
/// any two.
fn recover(name: &'static str, program: &Program, servers: &[Redis]) -> Result<Recovery> {
    say(&format!("faults: frozen, {name}"));
    let event = event(1)?;
    let (mut requests, mut slowest) = (Vec::new(), Duration::ZERO);
    for _ in 0..TRIES {
        let mut environment = One::start(program)?;
        for _ in 0..5 {
            environment.invoke(&event)?;
        }
        for server in servers {
            server.stop()?;
        }
        slowest = slowest.max(environment.invoke(&event)?.0);
        for server in servers {
            server.resume()?;
        }
        let mut count = 0;
        loop {
            signal(environment.pid(), Signal::STOP)?;
            std::thread::sleep(FROZEN);
            signal(environment.pid(), Signal::CONT)?;
            let (took, reply) = environment.invoke(&event)?;
            slowest = slowest.max(took);
            count += 1;
            if String::from_utf8_lossy(&reply).contains("; hit; ") {
                break;
            }
            if count == MOST_REQUESTS {
                return Err(format!("{name}: no hit in {count} requests").into());
            }
        }
        requests.push(count);
    }
    Ok(Recovery { name, requests, slowest })
}

/// Calls a function after a fault of a Redis that worked before.
fn after(
    program: impl Fn(&str) -> Program,
    happens: impl FnOnce(Redis) -> Result<Option<Redis>>,
) -> Result<Seen> {
    let redis = Redis::start()?;
    redis.command::<()>(&["SET", FLOOR_KEY, USER])?;
    let mut environment = One::start(&program(&redis.url()))?;
    for _ in 0..5 {
        environment.invoke(&event(1)?)?;
    }
    let _redis = happens(redis)?;
    Ok(Seen { init_failed: None, init: None, calls: calls(&mut environment)? })
}

fn from_the_start(program: impl Fn(&str) -> Program) -> Result<Seen> {
    let redis = Redis::start()?;
    // The kernel still accepts connections for the stopped process.
    redis.stop()?;
    let (mut environment, error) = One::try_start(&program(&redis.url()), PATIENCE)?;
    if error.is_some() {
        return Ok(Seen { init_failed: Some(environment.init), init: None, calls: Vec::new() });
    }
    let init = Some(environment.init);
    Ok(Seen { init_failed: None, init, calls: calls(&mut environment)? })
}

fn calls(environment: &mut One) -> Result<Vec<(Duration, Ended)>> {
    let event = event(1)?;
    let mut calls = Vec::new();
    for _ in 0..=CALLS {
        let Outcome { took, reply } = environment.try_invoke(&event, PATIENCE)?;
        let ended = match reply {
            Some(Ok(reply)) if is_correct(&reply) => Ended::Correct,
            Some(_) => Ended::Error,
            None => Ended::Silent,
        };
        calls.push((took, ended));
        // Lambda would start another environment.
        if ended == Ended::Silent || !environment.is_idle() {
            break;
        }
    }
    Ok(calls)
}

fn is_correct(reply: &[u8]) -> bool {
    let reply: Value = serde_json::from_slice(reply).unwrap_or_default();
    reply["statusCode"] == 200 && reply["body"] == USER
}

impl Seen {
    fn text(&self) -> String {
        if let Some(took) = self.init_failed {
            return format!("init failed after {}", millis(took.as_secs_f64()));
        }
        let one = |took: Duration, ended: Ended| {
            let took = millis(took.as_secs_f64());
            match ended {
                Ended::Correct => took,
                Ended::Error => format!("error after {took}"),
                Ended::Silent => format!("nothing after {took}"),
            }
        };
        let init = self.init.map(|init| format!("init {}; ", millis(init.as_secs_f64())));
        let first = self.calls.first().map(|&(took, ended)| one(took, ended));
        let then = self.calls.get(1).map(|&(_, ended)| {
            let rest = self.calls[1..].iter();
            let others = if rest.clone().all(|call| call.1 == ended) { "" } else { " and others" };
            let took = median(rest.map(|call| call.0.as_secs_f64()));
            format!(", then {}{others}", one(Duration::from_secs_f64(took), ended))
        });
        [init, first, then].into_iter().flatten().collect()
    }

    fn json(&self) -> Value {
        let calls = self.calls.iter().map(|(took, ended)| {
            let ended = match ended {
                Ended::Correct => "correct",
                Ended::Error => "error",
                Ended::Silent => "silent",
            };
            json!({ "s": took.as_secs_f64(), "ended": ended })
        });
        json!({
            "init_failed_s": self.init_failed.map(|took| took.as_secs_f64()),
            "init_s": self.init.map(|took| took.as_secs_f64()),
            "calls": calls.collect::<Value>(),
        })
    }
}

impl Faults {
    pub(crate) fn tables(&self) -> [Table; 2] {
        let mut faults = Table::new(
            "When Redis fails",
            &["function", "Redis is killed", "it stands still", "it is silent from the start"],
        );
        for row in &self.rows {
            let seen = [&row.killed, &row.stopped, &row.silent].map(Seen::text);
            faults.row([row.name.to_owned()].into_iter().chain(seen));
        }
        faults.note("The first call after it, then the median of those that follow.");
        let mut recoveries = Table::new(
            "After Redis stood still for one request",
            &["Redis", "requests until a hit", "slowest reply"],
        );
        for Recovery { name, requests, slowest } in &self.recoveries {
            let requests = requests.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            recoveries.row([(*name).to_owned(), requests, millis(slowest.as_secs_f64())]);
        }
        recoveries
            .note("The environment is frozen for 2 s after each reply. One number for each try.");
        if let Some(left_out) = &self.left_out {
            recoveries.note(&format!("Left out: {left_out}."));
        }
        [faults, recoveries]
    }

    pub(crate) fn json(&self) -> Value {
        let of = |row: &Row| {
            let seen = json!({
                "killed": row.killed.json(),
                "stopped": row.stopped.json(),
                "silent": row.silent.json(),
            });
            (row.name.to_owned(), seen)
        };
        let recoveries = self.recoveries.iter().map(|it| {
            let figures = json!({
                "requests_until_a_hit": it.requests,
                "slowest_s": it.slowest.as_secs_f64(),
            });
            (it.name.to_owned(), figures)
        });
        let mut figures: Map<_, _> = self.rows.iter().map(of).collect();
        figures.insert("recoveries".to_owned(), Value::Object(recoveries.collect()));
        Value::Object(figures)
    }
}
