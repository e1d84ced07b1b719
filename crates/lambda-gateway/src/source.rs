//! Events that are not requests: those of queues, streams, buses and schedules.

use std::fmt;

use lambda_http::lambda_runtime::Diagnostic;
use serde_json::Value;

/// Services whose events do not name them, each with a member that only its events have.
const BY_MEMBER: [(&str, &str); 8] = [
    ("awslogs", "CloudWatch Logs"),
    ("deliveryStreamArn", "Amazon Data Firehose"),
    ("applicationArn", "Kinesis Data Analytics"),
    ("detail-type", "EventBridge"),
    ("invokingEvent", "AWS Config"),
    ("ResponseURL", "CloudFormation"),
    ("CodePipeline.job", "CodePipeline"),
    ("flowDirection", "WorkMail"),
];

/// What an event that is not a request may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Its sender takes any reply for success, so what the event carries would be lost.
    Poller(NotARequest),
    /// It only starts an environment or keeps it warm.
    WarmUp,
}

/// An event of a queue, a stream, a bus or a service's background call has reached a function that answers requests.
///
/// The invocation ends with a function error, so that the source retries the event or reports it. The source would take
/// any reply for success, and what the event carries would be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotARequest {
    source: String,
}

impl fmt::Display for NotARequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an event of {}, which is not a request: this function answers an API Gateway, a function URL or a load \
             balancer; connect the source to another function",
            self.source
        )
    }
}

impl std::error::Error for NotARequest {}

impl From<NotARequest> for Diagnostic {
    fn from(error: NotARequest) -> Self {
        Self { error_type: "NotARequest".to_owned(), error_message: error.to_string() }
    }
}

impl Source {
    /// `None`: the source is unknown.
    pub(crate) fn of(event: &Value) -> Option<Self> {
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        let has = |name: &str| event.get(name).is_some();
        let is_schedule = text("detail-type") == Some("Scheduled Event");
        let is_plugin = text("source") == Some("serverless-plugin-warmup");
        if is_schedule || is_plugin || event.get("warmer") == Some(&Value::Bool(true)) {
            return Some(Self::WarmUp);
        }
        let records = event.get("Records").or_else(|| event.is_array().then_some(event));
        let source = if let Some(records) = records {
            // SNS spells it differently. A list of EventBridge Pipes contains the records of its source.
            let of_record = |name: &str| records.get(0).and_then(|record| record.get(name));
            let named = of_record("eventSource").or(of_record("EventSource"));
            match named.and_then(Value::as_str) {
                Some(named) => named,
                None if of_record("cf").is_some() => "CloudFront",
                None if event.is_array() => return None,
                None => "a source of records",
            }
        } else if let Some(source) = text("eventSource") {
            source
        } else if let Some((_, service)) = BY_MEMBER.iter().find(|(member, _)| has(member)) {
            service
        } else if has("invocationId") && has("records") {
            // Events of some of its blueprints lack the ARN.
            "Amazon Data Firehose"
        } else if has("invocationSchemaVersion") && has("tasks") {
            "S3 Batch Operations"
        } else {
            return None;
        };
        // The name goes to the log, so it must look like the name of a service.
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b": -".contains(&byte);
        let is_named = source.len() <= 40 && source.bytes().all(is_name);
        let source = if is_named { source } else { "an unknown source" };
        Some(Self::Poller(NotARequest { source: source.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_source_is_named() {
        for (event, name) in [
            (json!({ "Records": [{ "eventSource": "aws:sqs" }] }), "aws:sqs"),
            (json!({ "Records": [{ "EventSource": "aws:sns" }] }), "aws:sns"),
            (json!({ "Records": [] }), "a source of records"),
            (json!([{ "eventSource": "aws:kinesis" }]), "aws:kinesis"),
            (json!({ "eventSource": "aws:kafka", "records": {} }), "aws:kafka"),
            (json!({ "awslogs": { "data": "" } }), "CloudWatch Logs"),
            (json!({ "deliveryStreamArn": "arn", "records": [] }), "Amazon Data Firehose"),
            (json!({ "detail-type": "Order", "source": "shop" }), "EventBridge"),
            (json!({ "applicationArn": "arn", "records": [] }), "Kinesis Data Analytics"),
            (json!({ "invocationId": "1", "records": [] }), "Amazon Data Firehose"),
            (json!({ "invocationSchemaVersion": "1.0", "tasks": [] }), "S3 Batch Operations"),
            (json!({ "invokingEvent": "{}", "configRuleName": "x" }), "AWS Config"),
            (json!({ "RequestType": "Create", "ResponseURL": "https://x" }), "CloudFormation"),
            (json!({ "CodePipeline.job": {} }), "CodePipeline"),
            (json!({ "messageId": "1", "flowDirection": "INBOUND" }), "WorkMail"),
            (json!({ "Records": [{ "cf": {} }] }), "CloudFront"),
            (json!({ "Records": [{ "eventSource": "x\n{}" }] }), "an unknown source"),
        ] {
            let Some(Source::Poller(error)) = Source::of(&event) else { panic!("{event}") };
            let said = error.to_string();
            assert!(
                said.starts_with(&format!("an event of {name}, which is not a request")),
                "{said}"
            );
        }
    }

    #[test]
    fn schedules_and_plugins_warm_up() {
        for event in [
            json!({ "detail-type": "Scheduled Event", "source": "aws.events", "detail": {} }),
            json!({ "source": "serverless-plugin-warmup" }),
            json!({ "warmer": true, "concurrency": 3 }),
        ] {
            assert_eq!(Source::of(&event), Some(Source::WarmUp), "{event}");
        }
    }

    #[test]
    fn others_are_unknown() {
        for event in
            [json!({}), json!(null), json!("Records"), json!([]), json!([1]), json!(["Records"])]
        {
            assert_eq!(Source::of(&event), None, "{event}");
        }
    }
}
