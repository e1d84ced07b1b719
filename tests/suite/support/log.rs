//! Checks every line that a function of the suite prints.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::Value;

/// The longest line of a request, in bytes, with its line break.
pub const LONGEST: usize = 1_100;

/// Words from the suite's users, URLs, policies and credentials, in lower case. A line contains no `@` either, because
/// that would be an email address or a URL with credentials.
const SECRETS: [&str; 15] = [
    "manas",
    "omkar",
    "anand",
    "sanam",
    "alice",
    "hunter",
    "cache-user",
    "cache:pw",
    "p%40ss",
    "not-a-real-secret",
    "akidexample",
    "wjalrxutnfemi",
    "session-token",
    "x-amz-signature",
    "@",
];

/// Checks everything that a function has printed, as JSON lines or as text.
pub fn assert_printed(output: &str, is_json: bool) {
    for line in output.lines() {
        assert_harmless(line);
        if is_json {
            assert_line(line);
        }
    }
}

/// Asserts that a line shows no personal data and no secret.
pub fn assert_harmless(line: &str) {
    let lower_case = line.to_lowercase();
    let secret = SECRETS.iter().find(|secret| lower_case.contains(**secret));
    assert_eq!(secret, None, "in the log:\n{line}");
}

/// Asserts that a line follows the schema of the repository and, if it has metrics, that of AWS. Returns it parsed.
pub fn assert_line(line: &str) -> Value {
    static SCHEMAS: OnceLock<[Validator; 2]> = OnceLock::new();
    let [ours, emf] = SCHEMAS.get_or_init(|| {
        [schema().clone(), serde_json::from_str(include_str!("emf.schema.json")).unwrap()]
            .map(|schema: Value| jsonschema::validator_for(&schema).unwrap())
    });
    let json: Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: no JSON:\n{line}"));
    let wrong = |schema: &Validator| {
        schema.iter_errors(&json).map(|error| error.to_string()).collect::<Vec<_>>().join("\n")
    };
    assert!(ours.is_valid(&json), "{}\n{line}", wrong(ours));
    if json.get("_aws").is_some() {
        assert!(emf.is_valid(&json), "{}\n{line}", wrong(emf));
        assert!(line.len() < LONGEST, "{} bytes:\n{line}", line.len());
        for [name, _, dimensions] in series(&json) {
            assert!(json[&name].is_number(), "{name} is named and not there:\n{line}");
            assert!(!dimensions.contains("null"), "{dimensions} of {name}:\n{line}");
        }
    }
    json
}

/// The metrics that CloudWatch creates from a line: each combination with its namespace and dimensions is billed.
pub fn series(line: &Value) -> BTreeSet<[String; 3]> {
    let mut found = BTreeSet::new();
    for directive in line["_aws"]["CloudWatchMetrics"].as_array().into_iter().flatten() {
        for dimensions in directive["Dimensions"].as_array().unwrap() {
            let names = dimensions.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
            let values: Vec<_> = names.map(|name| format!("{name}={}", line[name])).collect();
            for metric in directive["Metrics"].as_array().unwrap() {
                let name = metric["Name"].as_str().unwrap().to_owned();
                let namespace = directive["Namespace"].as_str().unwrap().to_owned();
                found.insert([name, namespace, values.join(" ")]);
            }
        }
    }
    found
}

/// The schema of all lines.
pub fn schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    let text = include_str!("../../../docs/log-line.schema.json");
    SCHEMA.get_or_init(|| serde_json::from_str(text).unwrap())
}
