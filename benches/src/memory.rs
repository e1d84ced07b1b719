//! What the first call costs with the share of a processor that Lambda gives to small memory sizes.
//!
//! Lambda gives an environment a full processor while it initialises, and afterwards a share according to its memory
//! size: one vCPU at 1,769 MB, in slices of 20 ms.
//! <https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::functions::{KEY, Places, USER, entry, event, with_dynamodb};
use crate::lambda::{One, Program};
use crate::peers::{Certificates, Cluster, DynamoDb, Redis};
use crate::report::{Table, median, millis, quantile, time};
use crate::{Result, say};

const SIZES_MB: [u32; 4] = [128, 256, 512, 1769];
const PERIOD_US: u32 = 20_000;
/// The number of warm calls. The pause before each one lets the quota refill.
const WARM_INVOCATIONS: usize = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// A control group whose processes share a limited part of a processor.
struct Quota(PathBuf);

impl Quota {
    fn new(memory_mb: u32) -> Result<Self> {
        let name = format!("response-boost-{}-{memory_mb}", std::process::id());
        let quota_us = PERIOD_US * memory_mb / 1769;
        let (first, second) = (Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup"));
        if first.join("cpu.cfs_quota_us").exists() {
            let group = Self(first.join(name));
            std::fs::create_dir(&group.0)?;
            std::fs::write(group.0.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
            std::fs::write(group.0.join("cpu.cfs_quota_us"), quota_us.to_string())?;
            Ok(group)
        } else {
            let group = Self(second.join(name));
            std::fs::create_dir(&group.0)?;
            std::fs::write(group.0.join("cpu.max"), format!("{quota_us} {PERIOD_US}"))?;
            Ok(group)
        }
    }

    fn admit(&self, pid: u32) -> Result<()> {
        Ok(std::fs::write(self.0.join("cgroup.procs"), pid.to_string())?)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Its last process may still be exiting.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The case that measures warm calls too.
const WARM_ROW: &str = "first hit, TCP, WARM_UP=false";

pub(crate) struct Sizes {
    rows: Vec<Row>,
    left_out: Vec<String>,
}

struct Row {
    name: String,
    /// One for each memory size.
    figures: Vec<Figures>,
}

#[derive(Default)]
struct Figures {
    init: Vec<f64>,
    first: Vec<f64>,
    warm_p50: Vec<f64>,
    /// How many of the first calls got the expected reply.
    as_expected: usize,
}

pub(crate) fn sizes(places: &Places, rounds: usize) -> Result<Sizes> {
    let mut sizes = Sizes { rows: Vec::new(), left_out: Vec::new() };
    if let Err(error) = Quota::new(SIZES_MB[0]) {
        sizes.left_out.push(format!("all of it: no control group can be made here ({error})"));
        return Ok(sizes);
    }
    let certificates = Certificates::new()?;
    let redis = Redis::start()?;
    let tls = Redis::start_with_tls(&certificates);
    let cluster = Cluster::start(3, Some(&certificates));
    let dynamodb = DynamoDb::start(Some(&certificates))?;
    let mut kept = vec![redis.connect()?];
    let ca_file = certificates.ca_file.to_string_lossy().into_owned();
    let encrypted = |url: &str| places.ours(url).with("REDIS_TLS_CA_FILE", ca_file.clone());
    let mut programs: Vec<(&str, Program, &str)> =
        vec![("first hit, TCP", places.ours(&redis.url()), "; hit; ")];
    match (&tls, &cluster) {
        (Ok(tls), Ok(cluster)) => {
            programs.push(("first hit, TLS", encrypted(&tls.tls_url()), "; hit; "));
            kept.push(tls.connect()?);
            let url = cluster.nodes[0].tls_url();
            let clustered = encrypted(&url).with("REDIS_CLUSTER", "true");
            programs.push(("first hit, TLS and cluster", clustered, "; hit; "));
            for node in &cluster.nodes {
                kept.push(node.connect()?);
            }
        }
        (Err(error), _) | (_, Err(error)) => sizes.left_out.push(format!("TLS: {error}")),
    }
    let table = with_dynamodb(places.ours(&redis.url()), &dynamodb.url)
        .with("CACHE_NAMESPACE", "dynamodb")
        .with("SSL_CERT_FILE", certificates.roots_file()?.to_string_lossy());
    programs.push(("first miss, DynamoDB by HTTPS", table, "fwd=uri-miss"));

    let event = event(1)?;
    let mut cases = Vec::new();
    for (name, program, expected) in programs {
        for warm_up in ["false", "true"] {
            let name = format!("{name}, WARM_UP={warm_up}");
            cases.push((name, program.clone().with("WARM_UP", warm_up), expected));
        }
    }
    sizes.rows = cases
        .iter()
        .map(|(name, ..)| Row {
            name: name.clone(),
            figures: SIZES_MB.iter().map(|_| Figures::default()).collect(),
        })
        .collect();
    for round in 0..=rounds {
        say(&format!("memory sizes: round {round} of {rounds}"));
        for (place, memory_mb) in SIZES_MB.into_iter().enumerate() {
            let quota = Quota::new(memory_mb)?;
            for ((_, program, expected), row) in cases.iter().zip(&mut sizes.rows) {
                // Sent to every node, because a node of a cluster accepts only its own keys.
                for connection in &mut kept {
                    let _ = redis::cmd("SET").arg(KEY).arg(entry(USER)?).exec(connection);
                    let _ = redis::cmd("DEL").arg("dynamodb:user:1").exec(connection);
                }
                let mut environment = One::start(program)?;
                quota.admit(environment.pid())?;
                let (first, reply) = environment.invoke(&event)?;
                let is_expected = String::from_utf8_lossy(&reply).contains(expected);
                let mut warm = Vec::new();
                if row.name == WARM_ROW {
                    for _ in 0..WARM_INVOCATIONS {
                        std::thread::sleep(PAUSE);
                        warm.push(environment.invoke(&event)?.0);
                    }
                }
                warm.sort_unstable();
                if round == 0 {
                    continue;
                }
                let figures = &mut row.figures[place];
                figures.init.push(environment.init.as_secs_f64());
                figures.first.push(first.as_secs_f64());
                figures.as_expected += usize::from(is_expected);
                if !warm.is_empty() {
                    figures.warm_p50.push(quantile(&warm, 0.5).as_secs_f64());
                }
            }
        }
    }
    Ok(sizes)
}

impl Sizes {
    pub(crate) fn table(&self) -> Table {
        let columns: Vec<String> = ["first call".to_owned(), "init".to_owned()]
            .into_iter()
            .chain(SIZES_MB.map(|size| format!("{size} MB")))
            .collect();
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let mut table = Table::new("Small memory sizes", &columns);
        for row in &self.rows {
            let init = median(row.figures.iter().flat_map(|it| it.init.iter().copied()));
            let first = row.figures.iter().map(|it| {
                let text = time(median(it.first.iter().copied()));
                let others = it.first.len() - it.as_expected;
                if others == 0 {
                    text
                } else {
                    format!("{text} ({others} of {} not)", it.first.len())
                }
            });
            table.row([row.name.clone(), millis(init)].into_iter().chain(first));
        }
        if let Some(row) = self.rows.iter().find(|row| row.name == WARM_ROW) {
            let cells = row.figures.iter().map(|it| time(median(it.warm_p50.iter().copied())));
            table.row(["a warm hit, TCP".to_owned(), String::new()].into_iter().chain(cells));
        }
        for left_out in &self.left_out {
            table.note(&format!("Left out: {left_out}."));
        }
        table
    }

    pub(crate) fn json(&self) -> Value {
        let of = |row: &Row| {
            let sizes = SIZES_MB.iter().zip(&row.figures).map(|(size, figures)| {
                let median = |of: &[f64]| median(of.iter().copied());
                let figures = json!({
                    "init_s": median(&figures.init),
                    "first_s": median(&figures.first),
                    "warm_p50_s": median(&figures.warm_p50),
                    "as_expected": figures.as_expected,
                    "rounds": figures.first.len(),
                });
                (format!("{size} MB"), figures)
            });
            (row.name.clone(), Value::Object(sizes.collect()))
        };
        Value::Object(self.rows.iter().map(of).collect::<Map<_, _>>())
    }
}
