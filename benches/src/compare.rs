//! Compares the functions side by side: each round starts a new process of every function, and lets them take turns.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

use crate::functions::{
    FLOOR_KEY, Places, USER, body, conditional_event, entry, event, with_dynamodb,
};
use crate::lambda::{One, Program};
use crate::peers::{Certificates, Cluster, DynamoDb, Redis, free_port};
use crate::report::{Table, median, millis, quantile, ratio, time};
use crate::{Result, say};

/// One of the functions that are compared.
struct Candidate {
    name: &'static str,
    program: Program,
    event: Vec<u8>,
    /// The text that its replies must contain.
    expected: &'static str,
    /// Whether to delete its key before each invocation, so that each is a miss.
    forget: bool,
    warm_invocations: usize,
    /// The files that would be deployed to Lambda.
    files: Vec<PathBuf>,
}

/// The figures of one process.
struct Sample {
    init: Duration,
    first: Duration,
    warm: Vec<Duration>,
    cpu: Duration,
    peak_memory_kb: u64,
}

pub(crate) struct Comparison {
    names: Vec<&'static str>,
    samples: BTreeMap<&'static str, Vec<Sample>>,
    zipped: BTreeMap<&'static str, usize>,
    left_out: Vec<String>,
}

const LIMIT: &str = "limit: blocking sockets, no library";
const BARE: &str = "floor: a bare lambda_http answer";
const FLOOR: &str = "floor: one Redis GET passed through";
const BIG_FLOOR: &str = "floor: the same with 1 MB";
const HIT: &str = "response-boost: hit";
const ONE_NODE: &str = "response-boost: hit, cluster of one node";
const TLS: &str = "response-boost: hit, TLS";
const TLS_NODE: &str = "response-boost: hit, TLS, cluster of one node";
const MEMORY: &str = "response-boost: hit in the process";
const BIG_HIT: &str = "response-boost: hit with 1 MB";
const REDIS_PY: &str = "redis-py";
const FASTAPI: &str = "FastAPI + aiocache + Mangum";
const PER_REQUEST: &str = "the same, a cache object per request";

const A_MEGABYTE: usize = 1_000_000;

pub(crate) fn compare(places: &Places, rounds: usize) -> Result<Comparison> {
    let _pinned = OneProcessor::keep_to()?;
    let redis = Redis::start()?;
    let certificates = Certificates::new()?;
    let tls = Redis::start_with_tls(&certificates);
    let tls_node = Cluster::start(1, Some(&certificates));
    let cluster = Cluster::start(3, None)?;
    let one_node = Cluster::start(1, None)?;
    let dynamodb = DynamoDb::start(None)?;
    let big = body(A_MEGABYTE);
    let mut connection = redis.connect()?;
    for (key, value) in
        [(FLOOR_KEY, USER.as_bytes()), ("floor-big", big.as_bytes()), ("big:user:1", &entry(&big)?)]
    {
        redis::cmd("SET").arg(key).arg(value).exec(&mut connection)?;
    }

    let mut left_out = Vec::new();
    let ours = places.ours(&redis.url());
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut add = |name, program: Program, expected| -> Result<()> {
        let file = program.command.first().map(PathBuf::from);
        candidates.push(Candidate {
            name,
            program,
            event: event(1)?,
            expected,
            forget: false,
            warm_invocations: 1_000,
            files: file.into_iter().collect(),
        });
        Ok(())
    };
    add(LIMIT, places.limit(&redis.url(), FLOOR_KEY), "Manas")?;
    add(BARE, places.program("bare"), "Manas")?;
    add(FLOOR, places.floor(&redis.url(), FLOOR_KEY), "Manas")?;
    add(HIT, ours.clone(), "; hit; ")?;
    add("response-boost: 304", ours.clone(), "\"statusCode\":304")?;
    add(MEMORY, places.program("users"), "; hit; ")?;
    add("response-boost: miss", ours.clone().with("CACHE_NAMESPACE", "miss"), "; stored")?;
    let with_table = with_dynamodb(ours.clone(), &dynamodb.url);
    let missing = with_table.with("CACHE_NAMESPACE", "dynamodb");
    add("response-boost: miss, DynamoDB", missing, "; stored")?;
    let closed = format!("redis://127.0.0.1:{}", free_port()?);
    add("response-boost: bypass, breaker open", places.ours(&closed), "fwd=bypass")?;
    match (&tls, &tls_node) {
        (Ok(tls), Ok(node)) => {
            let ca_file = certificates.ca_file.to_string_lossy();
            let encrypted = |url: &str| places.ours(url).with("REDIS_TLS_CA_FILE", &*ca_file);
            add(TLS, encrypted(&tls.tls_url()), "; hit; ")?;
            let clustered = encrypted(&node.nodes[0].tls_url()).with("REDIS_CLUSTER", "true");
            add(TLS_NODE, clustered, "; hit; ")?;
        }
        (Err(error), _) | (_, Err(error)) => left_out.push(format!("TLS: {error}")),
    }
    for (name, cluster) in [(ONE_NODE, &one_node), ("response-boost: hit, cluster", &cluster)] {
        let clustered = places.ours(&cluster.nodes[0].url()).with("REDIS_CLUSTER", "true");
        add(name, clustered, "; hit; ")?;
    }
    add(BIG_FLOOR, places.floor(&redis.url(), "floor-big"), "Manas")?;
    add(BIG_HIT, ours.with("CACHE_NAMESPACE", "big"), "; hit; ")?;
    add("cached, Redis macro", places.cached(&redis.url()), "Manas")?;
    add("tower-http-cache, Redis backend", places.tower_http_cache(&redis.url()), "Manas")?;
    add("hitbox, Redis backend", places.hitbox(&redis.url()), "Manas")?;
    for (name, module) in [
        (REDIS_PY, "redis_py"),
        (FASTAPI, "fastapi_aiocache"),
        (PER_REQUEST, "fastapi_per_request"),
    ] {
        match places.python(module, &redis.url()) {
            Some(program) => add(name, program, "Manas")?,
            None => left_out.push(format!("{name}: its packages are not installed")),
        }
    }
    for candidate in &mut candidates {
        match candidate.name {
            "response-boost: 304" => candidate.event = conditional_event()?,
            name if name.contains("miss") => candidate.forget = true,
            name if name.contains("1 MB") => candidate.warm_invocations = 100,
            REDIS_PY | FASTAPI | PER_REQUEST => {
                candidate.warm_invocations = 200;
                candidate.files = places.python_packages.clone().into_iter().collect();
            }
            _ => {}
        }
    }

    let mut samples: BTreeMap<_, Vec<Sample>> = BTreeMap::new();
    for round in 0..=rounds {
        say(&format!("side by side: round {round} of {rounds}"));
        for (candidate, sample) in candidates.iter().zip(sample(&candidates, &mut connection)?) {
            // The first round is not counted: it fills the caches and loads the programs into memory.
            if round > 0 {
                samples.entry(candidate.name).or_default().push(sample);
            }
        }
    }
    let zipped = candidates.iter().map(|it| Ok((it.name, zipped(&it.files)?)));
    Ok(Comparison {
        names: candidates.iter().map(|candidate| candidate.name).collect(),
        zipped: zipped.collect::<Result<_>>()?,
        samples,
        left_out,
    })
}

/// Pins this process and its children to one processor. With several, a call can take half or twice as long, depending
/// only on where the kernel wakes each process.
struct OneProcessor {
    before: CpuSet,
}

impl OneProcessor {
    fn keep_to() -> Result<Self> {
        let before = sched_getaffinity(None)?;
        let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| before.is_set(cpu));
        let mut one = CpuSet::new();
        one.set(last.ok_or("no processor")?);
        sched_setaffinity(None, &one)?;
        Ok(Self { before })
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        if let Err(error) = sched_setaffinity(None, &self.before) {
            say(&format!("not given back all processors: {error}"));
        }
    }
}

/// One round: starts a process of each function, then gives them warm calls in turns, a few at a time, so that a brief
/// disturbance of the machine affects all of them.
fn sample(candidates: &[Candidate], redis: &mut redis::Connection) -> Result<Vec<Sample>> {
    let started = candidates.iter().map(|candidate| Running::start(candidate, redis));
    let mut running = started.collect::<Result<Vec<_>>>()?;
    for _ in 0..TURNS {
        for it in &mut running {
            it.turn(redis)?;
        }
    }
    running.into_iter().map(Running::end).collect()
}

/// How many turns each function takes in a round.
const TURNS: usize = 20;

/// A running process of one of the functions.
struct Running<'a> {
    candidate: &'a Candidate,
    environment: One,
    first: Duration,
    warm: Vec<Duration>,
    cpu: Duration,
}

impl<'a> Running<'a> {
    fn start(candidate: &'a Candidate, redis: &mut redis::Connection) -> Result<Self> {
        let environment = One::start(&candidate.program)?;
        let (first, warm, cpu) = Default::default();
        let mut running = Self { candidate, environment, first, warm, cpu };
        (running.first, _) = running.call(redis)?;
        for _ in 0..20 {
            running.call(redis)?;
        }
        Ok(running)
    }

    fn turn(&mut self, redis: &mut redis::Connection) -> Result<()> {
        // Not measured: another process has used the processor's caches since the last turn.
        self.call(redis)?;
        let cpu_before = self.environment.cpu()?;
        for _ in 0..self.candidate.warm_invocations / TURNS {
            let (took, reply) = self.call(redis)?;
            let reply = String::from_utf8_lossy(&reply);
            let Candidate { name, expected, .. } = self.candidate;
            if !reply.contains(expected) {
                let reply = reply.chars().take(500).collect::<String>();
                return Err(format!("{name}: {expected} is not in {reply}").into());
            }
            self.warm.push(took);
        }
        self.cpu += self.environment.cpu()?.saturating_sub(cpu_before);
        Ok(())
    }

    fn call(&mut self, redis: &mut redis::Connection) -> Result<(Duration, Vec<u8>)> {
        let Candidate { name, event, forget, .. } = self.candidate;
        if *forget {
            for key in ["miss:user:1", "dynamodb:user:1"] {
                redis::cmd("DEL").arg(key).exec(redis)?;
            }
        }
        self.environment.invoke(event).map_err(|error| format!("{name}: {error}").into())
    }

    fn end(mut self) -> Result<Sample> {
        self.warm.sort_unstable();
        Ok(Sample {
            init: self.environment.init,
            first: self.first,
            cpu: self.cpu / u32::try_from(self.warm.len())?,
            warm: self.warm,
            peak_memory_kb: self.environment.peak_memory_kb()?,
        })
    }
}

/// The compressed size of these files, as in the zip that Lambda gets, in bytes.
fn zipped(files: &[PathBuf]) -> Result<usize> {
    fn add(path: &Path, total: &mut usize) -> Result<()> {
        if path.is_dir() {
            for file in std::fs::read_dir(path)? {
                add(&file?.path(), total)?;
            }
        } else if path.extension().is_none_or(|extension| extension != "pyc") {
            let mut zip = DeflateEncoder::new(Vec::new(), Compression::default());
            zip.write_all(&std::fs::read(path)?)?;
            *total += zip.finish()?.len();
        }
        Ok(())
    }
    let mut total = 0;
    for file in files {
        add(file, &mut total)?;
    }
    Ok(total)
}

impl Comparison {
    /// The median of a figure over the rounds.
    fn figure(&self, name: &str, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        Some(median(self.samples.get(name)?.iter().map(figure)))
    }

    /// The median over the rounds of the ratio between the figures of two functions in the same round.
    fn ratio(&self, name: &str, to: &str, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        let pairs = self.samples.get(name)?.iter().zip(self.samples.get(to)?);
        Some(median(pairs.map(|(this, that)| figure(this) / figure(that))))
    }

    fn floor_of(name: &str) -> &'static str {
        if name.contains("1 MB") { BIG_FLOOR } else { FLOOR }
    }

    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(
            "Side by side",
            &[
                "function",
                "init",
                "first call",
                "warm p50",
                "p90",
                "p99",
                "CPU",
                "peak memory",
                "zipped",
                "p50 to the floor",
                "CPU to the floor",
                "init + first to the floor",
            ],
        );
        for name in &self.names {
            let of = |figure: fn(&Sample) -> f64| self.figure(name, figure).unwrap_or(f64::NAN);
            let to = |figure: fn(&Sample) -> f64| {
                ratio(self.ratio(name, Self::floor_of(name), figure).unwrap_or(f64::NAN))
            };
            #[expect(clippy::cast_precision_loss)]
            let zipped = self.zipped[name] as f64 / 1e6;
            table.row([
                (*name).to_owned(),
                millis(of(|it| it.init.as_secs_f64())),
                millis(of(|it| it.first.as_secs_f64())),
                time(of(p50)),
                time(of(|it| quantile(&it.warm, 0.9).as_secs_f64())),
                time(of(|it| quantile(&it.warm, 0.99).as_secs_f64())),
                time(of(|it| it.cpu.as_secs_f64())),
                format!("{:.1} MB", of(memory)),
                format!("{zipped:.2} MB"),
                to(p50),
                to(|it| it.cpu.as_secs_f64()),
                to(start),
            ]);
        }
        for left_out in &self.left_out {
            table.note(&format!("Left out: {left_out}."));
        }
        table
    }

    pub(crate) fn json(&self) -> Value {
        let of = |name: &&'static str| {
            let figure = |figure: fn(&Sample) -> f64| self.figure(name, figure);
            let figures = json!({
                "init_s": figure(|it| it.init.as_secs_f64()),
                "first_s": figure(|it| it.first.as_secs_f64()),
                "warm_p50_s": figure(p50),
                "warm_p90_s": figure(|it| quantile(&it.warm, 0.9).as_secs_f64()),
                "warm_p99_s": figure(|it| quantile(&it.warm, 0.99).as_secs_f64()),
                "cpu_s": figure(|it| it.cpu.as_secs_f64()),
                "peak_memory_mb": figure(memory),
                "zipped_bytes": self.zipped[name],
                "warm_p50_to_floor": self.ratio(name, Self::floor_of(name), p50),
                "cpu_to_floor": self.ratio(name, Self::floor_of(name), |it| it.cpu.as_secs_f64()),
                "init_and_first_to_floor": self.ratio(name, Self::floor_of(name), start),
                "rounds": self.samples[name].len(),
            });
            ((*name).to_owned(), figures)
        };
        Value::Object(self.names.iter().map(of).collect())
    }

    /// The goals: figure, goal, result, and whether the result meets the goal.
    pub(crate) fn goals(&self) -> Vec<[String; 4]> {
        let at_most = |what: &str, goal: f64, found: Option<f64>, unit: &str| {
            let found = found.unwrap_or(f64::NAN);
            let is_met = if found <= goal { "yes" } else { "no" };
            let goal = format!("≤ {goal:.2}{unit}");
            [what.to_owned(), goal, format!("{found:.2}{unit}"), is_met.to_owned()]
        };
        let mut goals = vec![
            at_most(
                "warm hit against one Redis GET passed through",
                1.0,
                self.ratio(HIT, FLOOR, p50),
                "×",
            ),
            at_most(
                "CPU per warm hit against the same",
                1.05,
                self.ratio(HIT, FLOOR, |it| it.cpu.as_secs_f64()),
                "×",
            ),
            at_most(
                "in-process hit against a bare answer",
                1.05,
                self.ratio(MEMORY, BARE, p50),
                "×",
            ),
            at_most(
                "init + first hit against one Redis GET passed through",
                1.15,
                self.ratio(HIT, FLOOR, start),
                "×",
            ),
            at_most("peak memory", 8.0, self.figure(HIT, memory), " MB"),
            #[expect(clippy::cast_precision_loss)]
            at_most("zipped function", 3.5, self.zipped.get(HIT).map(|&it| it as f64 / 1e6), " MB"),
            at_most(
                "warm hit with a 1 MB body against the floor's",
                1.10,
                self.ratio(BIG_HIT, BIG_FLOOR, p50),
                "×",
            ),
        ];
        for (what, name, to) in [
            ("a hit in a cluster of one node against one server", ONE_NODE, HIT),
            ("the same over TLS", TLS_NODE, TLS),
        ] {
            // Without TLS in the redis-server there is nothing to compare.
            if let Some(found) = self.ratio(name, to, p50) {
                goals.push(at_most(what, 1.02, Some(found), "×"));
                let cpu = self.ratio(name, to, |it| it.cpu.as_secs_f64());
                goals.push(at_most(&format!("{what}, CPU"), 1.02, cpu, "×"));
            }
        }
        for (what, name) in [
            ("hit against FastAPI + aiocache", FASTAPI),
            ("the same, a cache object per request as in the demonstration", PER_REQUEST),
        ] {
            if let Some(found) = self.ratio(name, HIT, p50) {
                goals.push([
                    what.to_owned(),
                    "≥ 30× faster".to_owned(),
                    format!("{found:.0}×"),
                    if found >= 30.0 { "yes" } else { "no" }.to_owned(),
                ]);
            }
        }
        goals
    }

    /// The bars of the plot: name, p50, and init plus first call, in seconds.
    pub(crate) fn bars(&self) -> Vec<(&'static str, f64, f64)> {
        let bar = |&name| Some((name, self.figure(name, p50)?, self.figure(name, start)?));
        self.names.iter().filter_map(bar).collect()
    }
}

fn p50(sample: &Sample) -> f64 {
    quantile(&sample.warm, 0.5).as_secs_f64()
}

fn start(sample: &Sample) -> f64 {
    (sample.init + sample.first).as_secs_f64()
}

/// In MB of 1,024 kB, as Lambda counts.
#[expect(clippy::cast_precision_loss)]
fn memory(sample: &Sample) -> f64 {
    sample.peak_memory_kb as f64 / 1024.0
}
