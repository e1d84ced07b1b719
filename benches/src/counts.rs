//! What a hit costs in instructions, allocations and system calls. These figures do not depend on how busy the machine
//! is. Each is the difference between a run with few hits and one with more.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::functions::{FLOOR_KEY, KEY, Places, USER, entry, event};
use crate::lambda::{One, Program};
use crate::peers::Redis;
use crate::report::Table;
use crate::{Result, folder, is_installed, say};

const FEW: u32 = 100;
const MANY: u32 = 300;
/// By what factor a count may exceed the recorded one: allocators and the time of day cause small differences.
const TOLERANCE: f64 = 1.02;

pub(crate) struct Counts {
    names: Vec<&'static str>,
    counted: BTreeMap<&'static str, Counted>,
    left_out: Vec<String>,
}

#[derive(Default)]
struct Counted {
    /// From the start of the process to the end of its first call.
    start_instructions: Option<f64>,
    instructions: Option<f64>,
    allocations: Option<f64>,
    allocated_bytes: Option<f64>,
    system_calls: Option<BTreeMap<String, f64>>,
}

const FLOOR: &str = "floor: one Redis GET passed through";
const BARE: &str = "floor: a bare lambda_http answer";
const HIT: &str = "response-boost: hit";
const MEMORY: &str = "response-boost: hit in the process";

pub(crate) fn count(places: &Places) -> Result<Counts> {
    let redis = Redis::start()?;
    let mut connection = redis.connect()?;
    redis::cmd("SET").arg(FLOOR_KEY).arg(USER).exec(&mut connection)?;
    redis::cmd("SET").arg(KEY).arg(entry(USER)?).exec(&mut connection)?;
    // Under valgrind everything takes fifty times as long. More than half of the invocation's time would cost an
    // additional timer, so the timeouts stay below that.
    let patient = |program: Program| {
        program.with("REDIS_CONNECT_TIMEOUT_MS", "5000").with("REDIS_RESPONSE_TIMEOUT_MS", "5000")
    };
    let programs = [
        ("limit: blocking sockets, no library", places.limit(&redis.url(), FLOOR_KEY)),
        (BARE, places.program("bare")),
        (FLOOR, places.floor(&redis.url(), FLOOR_KEY)),
        (HIT, patient(places.ours(&redis.url()))),
        (MEMORY, places.program("users")),
    ];
    let mut counts = Counts {
        names: programs.iter().map(|(name, _)| *name).collect(),
        counted: BTreeMap::new(),
        left_out: Vec::new(),
    };
    for tool in ["valgrind", "strace"] {
        if !is_installed(tool) {
            counts.left_out.push(format!("what {tool} counts: it is not installed"));
        }
    }
    for (name, program) in programs {
        say(&format!("counting: {name}"));
        let mut counted = Counted::default();
        if is_installed("valgrind") {
            let (first, few, many) = (
                instructions(&program, 1)?,
                instructions(&program, FEW)?,
                instructions(&program, MANY)?,
            );
            counted.start_instructions = Some(first);
            counted.instructions = Some(each(few, many));
            let ([allocations, bytes], [more_allocations, more_bytes]) =
                (allocations(&program, FEW)?, allocations(&program, MANY)?);
            counted.allocations = Some(each(allocations, more_allocations));
            counted.allocated_bytes = Some(each(bytes, more_bytes));
        }
        if is_installed("strace") {
            let (few, many) = (system_calls(&program, FEW)?, system_calls(&program, MANY)?);
            let calls = many.into_iter().map(|(name, count)| {
                let each = each(few.get(&name).copied().unwrap_or_default(), count);
                (name, each)
            });
            counted.system_calls = Some(calls.filter(|(_, each)| *each >= 0.005).collect());
        }
        counts.counted.insert(name, counted);
    }
    Ok(counts)
}

fn each(few: f64, many: f64) -> f64 {
    (many - few) / f64::from(MANY - FEW)
}

/// Runs a program under a tool for this many invocations, and returns its output.
fn run(program: &Program, tool: &[&str], invocations: u32) -> Result<String> {
    let event = event(1)?;
    let mut environment = One::start(&program.under(tool))?;
    for _ in 0..invocations {
        environment.invoke(&event)?;
    }
    environment.hang_up()
}

fn instructions(program: &Program, invocations: u32) -> Result<f64> {
    let tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];
    number_after(&run(program, &tool, invocations)?, "Collected :")
}

/// The number of allocations, and the bytes that they allocated.
fn allocations(program: &Program, invocations: u32) -> Result<[f64; 2]> {
    let tool = ["valgrind", "--leak-check=no", "--undef-value-errors=no"];
    let printed = run(program, &tool, invocations)?;
    let line = printed.lines().find(|line| line.contains("total heap usage"));
    let line = line.ok_or_else(|| format!("valgrind says nothing of the heap:\n{printed}"))?;
    Ok([number_after(line, "usage:")?, number_after(line, "frees,")?])
}

fn system_calls(program: &Program, invocations: u32) -> Result<BTreeMap<String, f64>> {
    let counted: PathBuf = folder()?.join("strace");
    let tool = ["strace", "-f", "-c", "-o", &counted.to_string_lossy()];
    run(program, &tool, invocations)?;
    let text = std::fs::read_to_string(counted)?;
    // "% time     seconds  usecs/call     calls    errors syscall"
    let lines = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let calls: f64 = words.get(3)?.parse().ok()?;
        let name = *words.last()?;
        (name != "total").then(|| (name.to_owned(), calls))
    });
    Ok(lines.collect())
}

fn number_after(text: &str, what: &str) -> Result<f64> {
    let (_, rest) = text.split_once(what).ok_or_else(|| format!("no {what} in:\n{text}"))?;
    let number: String =
        rest.trim_start().chars().take_while(|it| it.is_ascii_digit() || *it == ',').collect();
    Ok(number.replace(',', "").parse()?)
}

impl Counts {
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(
            "Counted",
            &[
                "function",
                "instructions, start and first call",
                "instructions a hit",
                "allocations a hit",
                "bytes allocated a hit",
                "system calls a hit",
            ],
        );
        for name in &self.names {
            let Some(counted) = self.counted.get(name) else { continue };
            let number =
                |count: Option<f64>| count.map_or("–".to_owned(), |count| format!("{count:.0}"));
            let calls = counted.system_calls.as_ref().map_or("–".to_owned(), |calls| {
                let total: f64 = calls.values().sum();
                let mut calls: Vec<_> = calls.iter().collect();
                calls.sort_by(|one, other| other.1.total_cmp(one.1));
                let calls = calls.iter().map(|(name, each)| format!("{name} {each:.2}"));
                format!("{total:.2}: {}", calls.collect::<Vec<_>>().join(", "))
            });
            table.row([
                (*name).to_owned(),
                number(counted.start_instructions),
                number(counted.instructions),
                counted.allocations.map_or("–".to_owned(), |count| format!("{count:.1}")),
                number(counted.allocated_bytes),
                calls,
            ]);
        }
        for left_out in &self.left_out {
            table.note(&format!("Left out: {left_out}."));
        }
        table
    }

    pub(crate) fn json(&self) -> Value {
        let of = |name: &&'static str| {
            let counted = self.counted.get(name)?;
            let counts = json!({
                "start_instructions": counted.start_instructions,
                "instructions": counted.instructions,
                "allocations": counted.allocations,
                "allocated_bytes": counted.allocated_bytes,
                "system_calls": counted.system_calls,
            });
            Some(((*name).to_owned(), counts))
        };
        Value::Object(self.names.iter().filter_map(of).collect())
    }

    /// The goals: figure, goal, result, and whether the result meets the goal.
    pub(crate) fn goals(&self) -> Vec<[String; 4]> {
        let (hit, floor) = (&self.counted[HIT], &self.counted[FLOOR]);
        let mut goals = Vec::new();
        if let (Some(hit), Some(floor)) = (hit.allocations, floor.allocations) {
            let above = hit - floor;
            goals.push([
                "allocations on a hit above the floor's".to_owned(),
                "≤ 10".to_owned(),
                format!("{above:.1}"),
                if above <= 10.0 { "yes" } else { "no" }.to_owned(),
            ]);
        }
        if let (Some(hit), Some(floor)) = (&hit.system_calls, &floor.system_calls) {
            let (hit, floor): (f64, f64) = (hit.values().sum(), floor.values().sum());
            goals.push([
                "system calls on a warm hit".to_owned(),
                "the floor's and one write".to_owned(),
                format!("{hit:.2} against {floor:.2}"),
                if hit <= floor + 1.01 { "yes" } else { "no" }.to_owned(),
            ]);
        }
        goals
    }

    /// The counts of response-boost that are recorded, as found in this run.
    fn kept(&self) -> Value {
        let of = |name: &'static str| {
            let counted = &self.counted[name];
            let round = |count: Option<f64>| count.map(f64::round);
            let calls = counted.system_calls.as_ref().map(|calls| calls.values().sum::<f64>());
            (
                name.to_owned(),
                json!({
                    "start_instructions": round(counted.start_instructions),
                    "instructions": round(counted.instructions),
                    "allocations": round(counted.allocations),
                    // Rounded too, because a read now and then finds no data yet.
                    "system_calls": round(calls),
                }),
            )
        };
        Value::Object([HIT, MEMORY].into_iter().map(of).collect())
    }

    /// Compares this run with the recorded counts, and returns the counts that have grown.
    pub(crate) fn regressions(&self) -> Result<Vec<String>> {
        let path = file();
        if std::env::var_os("BENCH_RECORD").is_some() {
            std::fs::write(&path, format!("{:#}\n", self.kept()))?;
        }
        let kept: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let found = self.kept();
        let mut regressions = Vec::new();
        for (name, counts) in kept.as_object().into_iter().flatten() {
            for (what, kept) in counts.as_object().into_iter().flatten() {
                if let (Some(kept), Some(found)) = (kept.as_f64(), found[name][what].as_f64())
                    && found > kept * TOLERANCE
                {
                    regressions.push(format!("{name}: {what}: {found} where {kept} are kept"));
                }
            }
        }
        Ok(regressions)
    }
}

/// The file with the recorded counts.
fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("counts.json")
}
