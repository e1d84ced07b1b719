//! The floor: `lambda_http` passes through what one GET of redis-rs brings, and does nothing else.

use lambda_http::http::Response;
use lambda_http::{Body, Error, Request, run, service_fn};
use redis::AsyncCommands as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let key = std::env::var("KEY")?;
    let client = redis::Client::open(std::env::var("REDIS_URL")?)?;
    let redis = client.get_multiplexed_async_connection().await?;
    run(service_fn(async |_: Request| {
        let user: String = redis.clone().get(&key).await?;
        let response = Response::builder()
            .header("content-type", "application/json")
            .body(Body::from(user))?;
        Ok::<_, Error>(response)
    }))
    .await
}
