//! The line of a request, which also carries its metrics (CloudWatch's embedded metric format).
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>
//!
//! It uses AWS's own writer of that format. Measured against serde with a struct of the same members, both take 1 µs
//! for a line; the writer's 35 packages add 18 kB to the zipped program.

use std::time::{Duration, SystemTime};

use metrique_writer::format::Format as _;
use metrique_writer::unit::NegativeScale::Milli;
use metrique_writer::value::{FlagConstructor as _, MetricFlags, Observation, Value, ValueWriter};
use metrique_writer::{Entry, EntryWriter, Unit};
use metrique_writer_format_emf::{Emf, MetricDefinition, MetricDirective, NoMetricCtor};

use super::Label;
use super::timestamp::timestamp;
use response_boost::{CacheStatus, Report};

const MILLISECONDS: Unit = Unit::Second(Milli);

/// The outcome of a request, as the dimension `outcome`. Each value costs one more metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Hit,
    Miss,
    Stale,
    Collapsed,
    Bypass,
    /// The cache took no part, or had not finished.
    None,
}

impl Outcome {
    pub(super) fn of(report: &Report) -> Self {
        match report.status {
            Some(CacheStatus::Hit { .. }) => Self::Hit,
            Some(
                CacheStatus::Miss { collapsed: Some(true), .. }
                | CacheStatus::Stale { collapsed: true, .. },
            ) => Self::Collapsed,
            Some(CacheStatus::Miss { .. }) => Self::Miss,
            Some(CacheStatus::Stale { .. } | CacheStatus::StoodIn { .. }) => Self::Stale,
            Some(CacheStatus::Bypass { .. }) => Self::Bypass,
            _ => Self::None,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Collapsed => "collapsed",
            Self::Bypass => "bypass",
            Self::None => "none",
        }
    }

    /// The metric that counts this outcome.
    fn metric(self) -> Option<&'static str> {
        match self {
            Self::Hit => Some("Hits"),
            Self::Miss => Some("Misses"),
            Self::Stale => Some("Stale"),
            Self::Collapsed => Some("Collapsed"),
            Self::Bypass => Some("Bypasses"),
            Self::None => None,
        }
    }
}

/// Everything that a line says about a request.
#[derive(Debug)]
pub(super) struct RequestLine<'a> {
    pub(super) level: &'static str,
    pub(super) service: &'a Label,
    pub(super) request_id: &'a str,
    pub(super) trace_id: Option<&'a str>,
    pub(super) is_cold_start: bool,
    pub(super) route: Option<&'static str>,
    /// `None`: the request got no response.
    pub(super) status: Option<u16>,
    pub(super) report: Report,
    pub(super) total: Duration,
}

/// Writes lines with their metrics, under one namespace.
pub(super) struct Lines {
    emf: Emf,
    buffer: Vec<u8>,
}

impl Lines {
    pub(super) fn new(namespace: &Label) -> Self {
        let by_outcome = MetricDirective {
            dimensions: vec![vec!["service", "outcome"]],
            metrics: vec![MetricDefinition {
                name: "Latency",
                unit: MILLISECONDS,
                storage_resolution: None,
            }],
            namespace: namespace.as_str(),
        };
        let emf = Emf::builder(namespace.to_string(), vec![vec!["service".to_owned()]])
            .directive(by_outcome)
            // Tests validate every line that the suite writes.
            .skip_all_validations(!cfg!(debug_assertions))
            .build();
        Self { emf, buffer: Vec::with_capacity(1_100) }
    }

    /// The line with its line break; empty if it could not be written.
    pub(super) fn write(&mut self, line: &RequestLine<'_>) -> &[u8] {
        self.buffer.clear();
        if self.emf.format(line, &mut self.buffer).is_err() {
            self.buffer.clear();
        }
        &self.buffer
    }
}

impl Entry for RequestLine<'_> {
    fn write<'a>(&'a self, writer: &mut impl EntryWriter<'a>) {
        let Report { status, connect, command, wait, load, saved, faults, fault, .. } =
            &self.report;
        let Report { refreshes, refresh, after_reply, .. } = &self.report;
        let Report { audited, audit_raced, audit_stale, .. } = &self.report;
        let outcome = Outcome::of(&self.report);

        writer.timestamp(SystemTime::now());
        writer.value("timestamp", &timestamp());
        writer.value("level", self.level);
        writer.value("service", self.service.as_str());
        writer.value("request_id", self.request_id);
        text(writer, "trace_id", self.trace_id);
        text(writer, "route", self.route);
        if let Some(status) = self.status {
            writer.value("status", &Plain(count(status.into())));
        }
        writer.value("outcome", outcome.as_str());
        text(writer, "cache_status", status.map(CacheStatus::as_str));
        text(writer, "fault", fault.map(|fault| fault.to_string()).as_deref());
        for (name, time) in [
            ("redis_connect_ms", connect),
            ("lease_wait_ms", wait),
            ("saved_ms", saved),
            ("after_reply_ms", after_reply),
        ] {
            if let Some(time) = time {
                writer.value(name, &Plain(milliseconds(*time)));
            }
        }

        // A metric is not repeated as another member, to keep the line short.
        for (name, times) in [
            ("Requests", 1),
            ("CacheFaults", (*faults).into()),
            ("StoreLoads", load.is_some().into()),
            ("Refreshes", (*refreshes).into()),
            ("Audited", (*audited).into()),
            ("AuditRaced", (*audit_raced).into()),
            ("AuditStale", (*audit_stale).into()),
            ("ColdStarts", self.is_cold_start.into()),
        ] {
            // CloudWatch adds up the values that it gets, so a zero can be left out.
            if times > 0 {
                writer.value(name, &Metric(count(times), Unit::Count));
            }
        }
        if let Some(name) = outcome.metric() {
            writer.value(name, &Metric(count(1), Unit::Count));
        }
        for (name, time) in
            [("RedisLatency", command), ("StoreLatency", load), ("RefreshLatency", refresh)]
        {
            if let Some(time) = time {
                writer.value(name, &Metric(milliseconds(*time), MILLISECONDS));
            }
        }
        // A metric directive of its own names it.
        writer.value("Latency", &Plain(milliseconds(self.total)));
    }
}

fn text<'a>(writer: &mut impl EntryWriter<'a>, name: &'static str, value: Option<&str>) {
    if let Some(value) = value {
        writer.value(name, value);
    }
}

fn count(number: u64) -> Observation {
    Observation::Unsigned(number)
}

/// Rounded to microseconds; from one second on, to milliseconds.
#[expect(clippy::cast_precision_loss, reason = "exact for the first 285 years")]
pub(super) fn in_milliseconds(time: Duration) -> f64 {
    if time < Duration::from_secs(1) {
        time.as_micros() as f64 / 1_000.0
    } else {
        time.as_millis() as f64
    }
}

fn milliseconds(time: Duration) -> Observation {
    Observation::Floating(in_milliseconds(time))
}

/// A number that is a metric.
struct Metric(Observation, Unit);

impl Value for Metric {
    fn write(&self, writer: impl ValueWriter) {
        writer.metric([self.0], self.1, [], MetricFlags::empty());
    }
}

/// A number that is not a metric.
struct Plain(Observation);

impl Value for Plain {
    fn write(&self, writer: impl ValueWriter) {
        writer.metric([self.0], Unit::None, [], NoMetricCtor::construct());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::StatusCode;
    use serde_json::Value as Json;

    use response_boost::{FaultWord, StoreError};

    use super::*;

    /// All outcomes of a request.
    fn statuses() -> Vec<Option<CacheStatus>> {
        let mut all = vec![
            None,
            Some(CacheStatus::Hit { ttl: 87, refreshes: false }),
            Some(CacheStatus::Hit { ttl: -87, refreshes: true }),
            Some(CacheStatus::Bypass { detail: timeout() }),
            Some(CacheStatus::StoodIn { status: Some(StatusCode::BAD_GATEWAY), ttl: -4 }),
        ];
        for stored in [true, false] {
            for collapsed in [None, Some(true), Some(false)] {
                all.push(Some(CacheStatus::Miss { stored, collapsed, detail: None }));
            }
            for (collapsed, early) in [(false, false), (false, true), (true, false), (true, true)] {
                all.push(Some(CacheStatus::Stale { stored, collapsed, early, detail: None }));
            }
        }
        all
    }

    /// A line with every member, each as long as possible.
    fn longest(service: &Label, status: Option<CacheStatus>) -> RequestLine<'_> {
        // As many digits as a time can have.
        let total = Duration::from_micros(999_999);
        let time = Some(total);
        // A stored response needs no load.
        let is_kept = matches!(
            status,
            Some(
                CacheStatus::Hit { .. }
                    | CacheStatus::Miss { collapsed: Some(true), .. }
                    | CacheStatus::Stale { collapsed: true, .. }
            )
        );
        let mut report = Report::default();
        (report.status, report.connect, report.command, report.wait) = (status, time, time, time);
        report.load = time.filter(|_| !is_kept);
        // It is reported in whole milliseconds.
        report.saved = is_kept.then_some(Duration::from_millis(999));
        let refreshes = matches!(status, Some(CacheStatus::Hit { refreshes: true, .. }));
        report.refreshes = refreshes.into();
        (report.refresh, report.after_reply) = (time.filter(|_| refreshes), time);
        // A request that waited for another request's load is not a hit.
        report.wait = time.filter(|_| !refreshes);
        (report.faults, report.fault) =
            (12, Some(response_boost::StoreError::Timeout("late".into()).word("redis")));
        RequestLine {
            level: "ERROR",
            service,
            request_id: "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
            trace_id: Some("1-5759e988-bd862e3fe1be46a994272793"),
            is_cold_start: true,
            route: Some("/users/{id}"),
            status: Some(503),
            report,
            total,
        }
    }

    fn timeout() -> FaultWord {
        StoreError::Timeout("late".into()).word("redis")
    }

    fn label(text: &str) -> Label {
        text.parse().unwrap()
    }

    #[test]
    fn an_audit_is_counted_in_series_of_its_own() {
        let service = label("users");
        let mut line = longest(&service, Some(CacheStatus::Hit { ttl: 87, refreshes: false }));
        let Report { audited, audit_raced, audit_stale, .. } = &mut line.report;
        (*audited, *audit_raced, *audit_stale) = (1, 2, 3);
        let written: Json =
            serde_json::from_slice(Lines::new(&label("ResponseBoost")).write(&line)).unwrap();
        let of = |name: &str| written[name].as_u64();
        assert_eq!(
            [of("Audited"), of("AuditRaced"), of("AuditStale")],
            [Some(1), Some(2), Some(3)]
        );
        assert!(written["_aws"].to_string().contains(r#"{"Name":"AuditStale","Unit":"Count"}"#));
    }

    #[test]
    fn a_service_has_nineteen_series_whatever_becomes_of_its_requests() {
        let service = label("users");
        let mut lines = Lines::new(&label("ResponseBoost"));
        let mut series = BTreeSet::new();
        for status in statuses() {
            let line: Json =
                serde_json::from_slice(lines.write(&longest(&service, status))).unwrap();
            for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
                let [dimensions] = &directive["Dimensions"].as_array().unwrap()[..] else {
                    panic!("{line}");
                };
                let values = dimensions.as_array().unwrap().iter();
                let values: Vec<_> =
                    values.map(|name| line[name.as_str().unwrap()].to_string()).collect();
                for metric in directive["Metrics"].as_array().unwrap() {
                    series.insert((metric["Name"].to_string(), values.clone()));
                }
            }
        }
        assert_eq!(series.len(), 19, "each costs monthly; 20 are the most:\n{series:?}");
    }

    #[test]
    fn the_longest_line_is_shorter_than_1100_bytes() {
        // Longer labels are accepted; `docs/logs.md` says so.
        let longest_label = label(&"x".repeat(20));
        let mut lines = Lines::new(&longest_label);
        for status in statuses() {
            let written = lines.write(&longest(&longest_label, status));
            let text = String::from_utf8_lossy(written);
            assert!(written.len() < 1_100, "{} bytes:\n{text}", written.len());
            assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
        }
    }

    #[test]
    fn each_request_with_a_key_counts_as_one_of_five() {
        let service = label("users");
        let mut lines = Lines::new(&label("ResponseBoost"));
        for status in statuses() {
            let line: Json =
                serde_json::from_slice(lines.write(&longest(&service, status))).unwrap();
            let counts = ["Hits", "Misses", "Stale", "Collapsed", "Bypasses"];
            let counted: u64 = counts.iter().filter_map(|name| line[name].as_u64()).sum();
            assert_eq!(counted, u64::from(status.is_some()), "{line}");
        }
    }
}
