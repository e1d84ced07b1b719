//! The library by itself, without Lambda: hits with tags, and values. The programs are those of the micro-benchmarks,
//! apart from this package because of their dependencies.

use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::functions::Places;
use crate::peers::Redis;
use crate::report::{Table, ratio};
use crate::{Result, say};

/// The programs, the titles of their tables, and what the ratios are to.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("tags", "Hits with tags", "to no tags"),
    ("values", "Hits of values", "to GET and serde_json"),
];

pub(crate) struct Library(Vec<(&'static str, Table, Vec<Row>)>);

/// A line that such a program prints.
#[derive(Serialize, Deserialize)]
struct Row {
    case: String,
    /// The median of a hit, in seconds.
    s: f64,
    ratio: f64,
}

pub(crate) fn library(places: &Places) -> Result<Library> {
    let redis = Redis::start()?;
    let programs = PROGRAMS.iter().map(|&(name, title, to)| {
        say(&format!("library: {name}"));
        let output =
            Command::new(places.programs.join(name)).env("REDIS_URL", redis.url()).output()?;
        if !output.status.success() {
            return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let lines = str::from_utf8(&output.stdout)?.lines();
        let rows = lines.map(serde_json::from_str).collect::<Result<Vec<Row>, _>>()?;
        let mut table = Table::new(title, &["hit", "p50", to]);
        for row in &rows {
            table.row([row.case.clone(), format!("{:.2} µs", row.s * 1e6), ratio(row.ratio)]);
        }
        Ok((name, table, rows))
    });
    Ok(Library(programs.collect::<Result<_>>()?))
}

impl Library {
    pub(crate) fn json(&self) -> Value {
        let programs = self.0.iter().map(|(name, _, rows)| ((*name).to_owned(), json!(rows)));
        Value::Object(programs.collect::<Map<_, _>>())
    }

    pub(crate) fn into_tables(self) -> impl Iterator<Item = Table> {
        self.0.into_iter().map(|(_, table, _)| table)
    }
}
