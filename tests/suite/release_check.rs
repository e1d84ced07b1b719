//! The release check over the Runtime API, against minimal servers for Lambda and `CodeDeploy`.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Response;
use serde_json::{Value, json};

use crate::support::http::serve;
use crate::support::lambda::{Function, TIME_LEFT};

const VERSION: &str = "arn:aws:lambda:eu-west-1:123456789012:function:users:7";
const MISS: &str = "response-boost; fwd=uri-miss; stored";
const HIT: &str = "response-boost; hit; ttl=120";
const BYPASS: &str = "response-boost; fwd=bypass; detail=redis-refused";

/// The report of the release check on a version that answers like `answer`, which returns the status and the
/// Cache-Status for a path and the number of requests for that path so far. Also how often the version was invoked.
async fn reported(
    variables: &[(&str, &str)],
    answer: impl Fn(&str, usize) -> (u64, &'static str) + Send + Sync + 'static,
) -> (String, usize) {
    let asked = Arc::new(Mutex::new(Vec::<String>::new()));
    let reports = Arc::new(Mutex::new(Vec::<Value>::new()));
    let (paths, told, answer) = (Arc::clone(&asked), Arc::clone(&reports), Arc::new(answer));
    let server = serve(move |request| {
        let (paths, told, answer) = (Arc::clone(&paths), Arc::clone(&told), Arc::clone(&answer));
        async move {
            let target = request.headers().get("x-amz-target").cloned();
            let uri = request.uri().clone();
            let signed = request.headers()["authorization"].to_str().unwrap().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap();
            if let Some(target) = target {
                assert_eq!(target, "CodeDeploy_20141006.PutLifecycleEventHookExecutionStatus");
                assert!(signed.contains("/eu-west-1/codedeploy/aws4_request"), "{signed}");
                told.lock().unwrap().push(body);
                return Response::new(Full::new(Bytes::from("{}")));
            }
            assert_eq!(uri, "/2015-03-31/functions/users/invocations?Qualifier=7");
            assert!(signed.contains("/eu-west-1/lambda/aws4_request"), "{signed}");
            let path = body["rawPath"].as_str().unwrap().to_owned();
            let times = {
                let mut paths = paths.lock().unwrap();
                paths.push(path.clone());
                paths.iter().filter(|other| **other == path).count()
            };
            let (status, cache_status) = answer(&path, times);
            if status == 0 {
                let error = r#"{"errorMessage": "Task timed out"}"#;
                let response = Response::builder().header("x-amz-function-error", "Unhandled");
                return response.body(Full::new(Bytes::from(error))).unwrap();
            }
            let reply = json!({"statusCode": status, "headers": {"cache-status": cache_status}});
            Response::new(Full::new(Bytes::from(reply.to_string())))
        }
    })
    .await;

    let url = format!("http://{}", server.address);
    let own = [
        ("AWS_ENDPOINT_URL", url.as_str()),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("RELEASE_CHECK_VERSION", VERSION),
    ];
    let check = Function::start_release_check(&[&own[..], variables].concat()).await;
    let hook = json!({"DeploymentId": "d-1", "LifecycleEventHookExecutionId": "e-1"});
    check.end(&hook, TIME_LEFT).await.unwrap();

    let reports = reports.lock().unwrap();
    let [report] = &reports[..] else { panic!("one report, not {reports:?}") };
    assert_eq!(
        (&report["deploymentId"], &report["lifecycleEventHookExecutionId"]),
        (&json!("d-1"), &json!("e-1"))
    );
    (report["status"].as_str().unwrap().to_owned(), asked.lock().unwrap().len())
}

#[tokio::test]
async fn a_version_that_serves_a_hit_and_a_404_passes() {
    let (status, asked) = reported(&[], |path, times| match (path, times) {
        ("/users/1", 1) => (200, MISS),
        ("/users/1", _) => (200, HIT),
        _ => (404, "response-boost; fwd=uri-miss"),
    })
    .await;
    assert_eq!((status.as_str(), asked), ("Succeeded", 3));
}

#[tokio::test]
async fn a_version_before_an_empty_table_passes_if_it_reaches_its_cache() {
    let not_found = |_: &str, _| (404, "response-boost; fwd=uri-miss");
    assert_eq!(
        reported(&[("RELEASE_CHECK_USER", "42")], not_found).await,
        ("Succeeded".to_owned(), 2)
    );
}

#[tokio::test]
async fn a_version_that_lost_its_cache_fails_unless_it_is_to_cure_that() {
    let bypass = |path: &str, _| (if path == "/users/1" { 200 } else { 404 }, BYPASS);
    assert_eq!(reported(&[], bypass).await.0, "Failed");
    assert_eq!(reported(&[("RELEASE_CHECK_CACHE", "false")], bypass).await.0, "Succeeded");
}

#[tokio::test]
async fn a_version_that_answers_wrongly_or_crashes_fails_at_once() {
    for status in [503, 0] {
        assert_eq!(reported(&[], move |_, _| (status, MISS)).await, ("Failed".to_owned(), 1));
    }
    let knows_everybody = |_: &str, _| (200, HIT);
    assert_eq!(reported(&[], knows_everybody).await.0, "Failed");
}
