//! `make bench`: drives the real programs over the Lambda Runtime API and measures what they cost.
//!
//! `bench PROGRAMS OUTPUT [PYTHON_PACKAGES]` runs all parts. It writes the tables to standard output and the figures as
//! JSON to the folder OUTPUT. A run of all parts also updates the tables and the plot in `docs/`. `BENCH_PARTS` selects
//! parts.

mod compare;
mod compile;
mod counts;
mod faults;
mod functions;
mod lambda;
mod library;
mod memory;
mod peers;
mod refresh;
mod report;
mod scale;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::{Map, Value};

use crate::functions::Places;
use crate::report::Table;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The parts that `BENCH_PARTS` accepts.
const PARTS: [&str; 8] =
    ["compare", "counts", "memory", "scale", "faults", "refresh", "library", "compile"];

fn main() -> ExitCode {
    let ended = run();
    if let Ok(folder) = folder() {
        let _ = std::fs::remove_dir_all(folder);
    }
    match ended {
        Ok(regressions) if regressions.is_empty() => ExitCode::SUCCESS,
        Ok(regressions) => {
            for regression in regressions {
                say(&format!("REGRESSION: {regression}"));
            }
            say("  if that is meant: BENCH_RECORD=1 BENCH_PARTS=counts make bench");
            ExitCode::FAILURE
        }
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the parts, and returns the counts that have grown beyond the recorded ones.
fn run() -> Result<Vec<String>> {
    let mut arguments = std::env::args().skip(1);
    let programs = arguments.next().ok_or("no folder of programs")?.into();
    let output = PathBuf::from(arguments.next().ok_or("no folder for the output")?);
    let places = Places { programs, python_packages: arguments.next().map(Into::into) };
    let rounds = number("BENCH_ROUNDS", 15)?;
    let parts = std::env::var("BENCH_PARTS").unwrap_or_else(|_| PARTS.join(","));
    if let Some(unknown) = parts.split(',').find(|part| !PARTS.contains(part)) {
        return Err(format!("BENCH_PARTS holds {unknown}; accepted: {}", PARTS.join(",")).into());
    }
    let is_wanted = |part: &str| parts.split(',').any(|wanted| wanted == part);
    std::fs::create_dir_all(&output)?;

    let (mut tables, mut figures, mut goals) = (Vec::new(), Map::new(), Vec::new());
    let mut regressions = Vec::new();
    let mut bars = Vec::new();
    if is_wanted("counts") {
        let counts = counts::count(&places)?;
        regressions = counts.regressions()?;
        goals.extend(counts.goals());
        tables.push(counts.table());
        figures.insert("counts".to_owned(), counts.json());
    }
    if is_wanted("compare") {
        let comparison = compare::compare(&places, rounds)?;
        goals.splice(0..0, comparison.goals());
        tables.insert(0, comparison.table());
        figures.insert("side_by_side".to_owned(), comparison.json());
        bars = comparison.bars();
    }
    if is_wanted("memory") {
        let sizes = memory::sizes(&places, rounds)?;
        tables.push(sizes.table());
        figures.insert("memory_sizes".to_owned(), sizes.json());
    }
    if is_wanted("scale") {
        let scale = scale::scale(&places)?;
        tables.push(scale.table());
        figures.insert("at_once".to_owned(), scale.json());
    }
    if is_wanted("faults") {
        let faults = faults::faults(&places)?;
        tables.extend(faults.tables());
        figures.insert("faults".to_owned(), faults.json());
    }
    if is_wanted("refresh") {
        let refreshes = refresh::refreshes(&places)?;
        goals.extend(refreshes.goals());
        tables.extend(refreshes.tables());
        figures.insert("refreshes".to_owned(), refreshes.json());
    }
    if is_wanted("library") {
        let library = library::library(&places)?;
        figures.insert("library".to_owned(), library.json());
        tables.extend(library.into_tables());
    }
    if is_wanted("compile") {
        let compile = compile::compile()?;
        tables.push(compile.table());
        figures.insert("compile".to_owned(), compile.json());
    }
    if !goals.is_empty() {
        let mut table = Table::new("Goals", &["figure", "goal", "found", "met"]);
        for goal in goals {
            table.row(goal);
        }
        tables.insert(0, table);
    }

    let tables = tables.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    println!("{tables}");
    let figures = Value::Object(figures);
    std::fs::write(output.join("bench.json"), format!("{figures:#}\n"))?;
    say(&format!("the figures as JSON: {}", output.join("bench.json").display()));
    // Only a complete run may replace the published figures.
    if PARTS.iter().all(|part| is_wanted(part)) {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let text = format!("# Figures of one run\n\n{}\n\n{tables}", machine()?);
        std::fs::write(docs.join("benchmark-figures.md"), text)?;
        std::fs::write(docs.join("benchmarks.svg"), report::plot(&bars))?;
    }
    Ok(regressions)
}

/// Describes the machine and the versions of a run.
fn machine() -> Result<String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let count = std::thread::available_parallelism()?;
    let version = |program: &str| -> Result<String> {
        let output = Command::new(program).arg("--version").output()?.stdout;
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
    };
    Ok(format!(
        "Written by `make bench` on {count} processors ({}), Linux, with {} and {}. \
         [benchmarks.md](benchmarks.md) says how they are taken and what they mean.",
        model.trim_start_matches([':', '\t', ' ']),
        version("rustc")?,
        version(&peers::redis_server())?,
    ))
}

fn number(name: &str, default: usize) -> Result<usize> {
    let Ok(text) = std::env::var(name) else { return Ok(default) };
    let number = text.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| format!("{name} is {text}; accepted: a whole number from 1").into())
}

fn is_installed(program: &str) -> bool {
    let mut version = Command::new(program);
    version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// The temporary folder of this run.
fn folder() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("response-boost-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn say(what: &str) {
    eprintln!("{what}");
}
