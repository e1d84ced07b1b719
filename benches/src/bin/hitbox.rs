//! The alternative hitbox: its tower layer with its Redis backend, as their READMEs set them up, around the look-up of a
//! user.

use std::time::Duration;

use hitbox::Config;
use hitbox::policy::PolicyConfig;
use hitbox_http::extractors::{Method, path::PathExtractor as _};
use hitbox_http::predicates::{NeutralRequestPredicate, response::StatusCode};
use hitbox_redis::{ConnectionMode, RedisBackend};
use hitbox_tower::Cache;
use lambda_http::http::{self, Response};
use lambda_http::tower::{ServiceBuilder, service_fn};
use lambda_http::{Error, run};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let backend = RedisBackend::builder()
        .connection(ConnectionMode::single(std::env::var("REDIS_URL")?))
        .build()?;
    let config = Config::builder()
        .request_predicate(NeutralRequestPredicate::new())
        .response_predicate(StatusCode::new(http::StatusCode::OK))
        .extractor(Method::new().path("/users/{id}"))
        .policy(PolicyConfig::builder().ttl(Duration::from_hours(1)).build())
        .build();
    let cache = Cache::builder().backend(backend).config(config).build();
    run(ServiceBuilder::new().layer(cache).service(service_fn(async |_| {
        let user = json!({ "id": 1, "name": "Manas", "email": "manas@example.com", "age": 25 });
        let response = Response::builder()
            .header("content-type", "application/json")
            .body(user.to_string())?;
        Ok::<_, Error>(response)
    })))
    .await
}
