//! A password of Redis from Secrets Manager, and the switch that turns the cache off.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Response;
use serde_json::{Value, json};
use test_peers::redis::RedisServer;

use crate::support::STORED;
use crate::support::http::serve;
use crate::support::lambda::Function;

const SECRET: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:redis-AbCdEf";

#[tokio::test]
async fn the_password_of_redis_comes_out_of_its_secret() {
    let redis = RedisServer::start().await;
    redis.command::<()>(&["ACL", "SETUSER", "ann", "on", ">p@ss:word", "~users:*", "+@all"]);
    redis.command::<()>(&["ACL", "SETUSER", "default", "off"]);
    let secrets = serve(|request| async move {
        assert_eq!(request.headers()["x-amz-target"], "secretsmanager.GetSecretValue");
        let signed = request.headers()["authorization"].to_str().unwrap();
        assert!(signed.contains("/eu-west-1/secretsmanager/aws4_request"), "{signed}");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), json!({"SecretId": SECRET}));
        let secret = json!({"username": "ann", "password": "p@ss:word"}).to_string();
        let reply = json!({"ARN": SECRET, "SecretString": secret}).to_string();
        Response::new(Full::new(Bytes::from(reply)))
    })
    .await;

    let url = format!("redis://127.0.0.1:{}", redis.port());
    let endpoint = format!("http://{}", secrets.address);
    let function = Function::start(&[
        ("REDIS_URL", &url),
        ("REDIS_PASSWORD_SECRET", SECRET),
        ("AWS_ENDPOINT_URL", &endpoint),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ])
    .await;
    assert_eq!(function.get("/users/1").await.cache_status(), STORED);
    assert!(function.get("/users/1").await.cache_status().starts_with("response-boost; hit"));
}

#[tokio::test]
async fn a_cache_that_is_turned_off_is_neither_asked_nor_connected_to() {
    let redis = RedisServer::start().await;
    let off = [
        ("REDIS_URL", redis.url()),
        ("CACHE_ENABLED", "false".to_owned()),
        ("WARM_UP", "true".to_owned()),
    ];
    let off: Vec<(&str, &str)> = off.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let seen = redis.monitor();
    let function = Function::start(&off).await;
    for _ in 0..2 {
        let reply = function.get("/users/1").await;
        reply.assert_correct();
        assert_eq!(reply.cache_status(), "");
    }
    assert_eq!(function.get("/users/4").await.status, 404);
    // The test's own client signs in and sends its name.
    let of_test = |line: &String| line.contains("SETINFO") || line.contains("AUTH");
    let asked: Vec<String> =
        seen.until_now(&redis).into_iter().filter(|line| !of_test(line)).collect();
    assert_eq!(asked, Vec::<String>::new());
}
