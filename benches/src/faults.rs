//! What a client sees if Redis is killed, stops responding, or does not respond from the start.

use std::time::Duration;

use serde_json::{Value, json};

use crate::functions::{FLOOR_KEY, Places, USER, event};
use crate::lambda::{One, Outcome, Program};
use crate::peers::Redis;
use crate::report::{Table, median, millis};
use crate::{Result, say};

/// How long to wait for a reply: API Gateway times out after 30 seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many calls follow the first one.
const CALLS: usize = 5;

pub(crate) struct Faults(Vec<Row>);

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
    let functions: [Function<'_>; 4] = [
        ("response-boost", Box::new(|url| places.ours(url))),
        ("one Redis GET passed through", Box::new(|url| places.floor(url, FLOOR_KEY))),
        ("cached, Redis macro", Box::new(|url| places.cached(url))),
        ("tower-http-cache, Redis backend", Box::new(|url| places.tower_http_cache(url))),
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
    Ok(Faults(rows))
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
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(
            "When Redis fails",
            &["function", "Redis is killed", "it stands still", "it is silent from the start"],
        );
        for row in &self.0 {
            let seen = [&row.killed, &row.stopped, &row.silent].map(Seen::text);
            table.row([row.name.to_owned()].into_iter().chain(seen));
        }
        table.note("The first call after it, then the median of those that follow.");
        table
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
        Value::Object(self.0.iter().map(of).collect())
    }
}
