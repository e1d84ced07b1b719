//! The alternative `cached`: its Redis macro, as its documents show it, around the look-up of a user.

use cached::macros::concurrent_cached;
use lambda_http::http::{Response, StatusCode};
use lambda_http::{Body, Error, Request, RequestExt as _, run, service_fn};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct User {
    id: u64,
    name: String,
    email: String,
    age: u8,
}

#[derive(Clone, Debug)]
struct CacheError(String);

// It finds Redis by CACHED_REDIS_CONNECTION_STRING.
#[concurrent_cached(
    redis = true,
    ttl_secs = 3600,
    cache_prefix_block = r#"{ "cached" }"#,
    map_error = r#"|error| CacheError(format!("{error:?}"))"#
)]
#[expect(clippy::unused_async, reason = "a look-up would wait")]
async fn user(id: u64) -> Result<User, CacheError> {
    Ok(User { id, name: "Manas".into(), email: "manas@example.com".into(), age: 25 })
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    run(service_fn(async |request: Request| {
        let id = request.path_parameters_ref().and_then(|parameters| parameters.first("id"));
        let Some(id) = id.and_then(|id| id.parse().ok()) else {
            return Ok(Response::builder().status(StatusCode::BAD_REQUEST).body(Body::Empty)?);
        };
        let user = user(id).await.map_err(|CacheError(error)| error)?;
        let body = serde_json::to_string(&user)?;
        let response = Response::builder()
            .header("content-type", "application/json")
            .body(Body::from(body))?;
        Ok::<_, Error>(response)
    }))
    .await
}
