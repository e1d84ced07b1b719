//! What the library costs those who compile it: processor time of a cold debug build, and the number of packages.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::report::Table;
use crate::{Result, folder, say};

/// What a program asks for, from the least to all but Lambda's own.
const FEATURES: [&[&str]; 3] = [&["memory"], &["redis"], &["redis", "tls", "cluster", "iam"]];

pub(crate) struct Compile(Vec<Row>);

struct Row {
    features: String,
    packages: usize,
    cpu_s: f64,
}

pub(crate) fn compile() -> Result<Compile> {
    let rows = FEATURES.iter().map(|features| {
        say(&format!("compile: {}", features.join(", ")));
        build(features)
    });
    Ok(Compile(rows.collect::<Result<_>>()?))
}

/// Builds a program that uses nothing but the library, with the versions of the product's lock file.
fn build(features: &[&str]) -> Result<Row> {
    let program = folder()?.join(format!("compile-{}", features.join("-")));
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let library = repository.join("crates/response-boost").canonicalize()?;
    let library = library.to_str().ok_or("the path of the library is not UTF-8")?;
    std::fs::create_dir_all(program.join("src"))?;
    std::fs::write(
        program.join("Cargo.toml"),
        format!(
            "[package]\nname = \"program\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
             response-boost = {{ path = {library:?}, default-features = false, features = {features:?} }}\n\n\
             [workspace]\n"
        ),
    )?;
    std::fs::write(
        program.join("src/main.rs"),
        "fn main() {\n    \
             let hour = std::time::Duration::from_secs(3600);\n    \
             println!(\"{:?}\", response_boost::Policy::new(hour));\n\
         }\n",
    )?;
    std::fs::copy(repository.join("Cargo.lock"), program.join("Cargo.lock"))?;
    let cargo = |arguments: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo.args(arguments).arg("--quiet").current_dir(&program);
        // A wrapper may bring what it has compiled before.
        cargo.env_remove("RUSTC_WRAPPER").env("CARGO_TARGET_DIR", program.join("target"));
        cargo
    };

    // This also takes what the program does not use out of its lock file, and downloads the rest.
    let tree = ["tree", "-e", "normal", "--prefix", "none", "--no-dedupe"];
    let tree = String::from_utf8(cargo(&tree).output()?.stdout)?;
    let packages = tree.lines().collect::<BTreeSet<_>>().len();
    if packages == 0 {
        return Err(format!("cargo tree shows nothing for {}", features.join(", ")).into());
    }
    if !cargo(&["fetch", "--locked"]).status()?.success() {
        return Err("cargo fetch fails".into());
    }
    let before = children_cpu()?;
    if !cargo(&["build", "--locked", "--offline"]).status()?.success() {
        return Err(format!("a program with {} does not compile", features.join(", ")).into());
    }
    let cpu_s = children_cpu()? - before;
    std::fs::remove_dir_all(&program)?;
    // Without the program itself.
    Ok(Row { features: features.join(", "), packages: packages - 1, cpu_s })
}

/// The processor time of all processes that have ended below this one, in seconds.
fn children_cpu() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name of the program, in parentheses, may contain anything. `cutime` and `cstime` are the 14th and 15th fields
    // after it (proc(5)).
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(13).take(2).map(str::parse::<f64>);
    let ticks = ticks.sum::<Result<f64, _>>()?;
    #[expect(clippy::cast_precision_loss)]
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok(ticks / per_second)
}

impl Compile {
    pub(crate) fn table(&self) -> Table {
        let mut table =
            Table::new("Compiling the library", &["features", "packages", "processor time"]);
        for Row { features, packages, cpu_s } in &self.0 {
            table.row([features.clone(), packages.to_string(), format!("{cpu_s:.0} s")]);
        }
        table.note("A debug build from nothing, downloads not included.");
        table
    }

    pub(crate) fn json(&self) -> Value {
        let of = |row: &Row| json!({ "features": row.features, "packages": row.packages, "cpu_s": row.cpu_s });
        self.0.iter().map(of).collect()
    }
}
