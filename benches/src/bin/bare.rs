//! The floor without a cache: `lambda_http` answers the same each time.

use lambda_http::http::Response;
use lambda_http::{Body, Error, Request, run, service_fn};

const USER: &str = r#"{"id":1,"name":"Manas","email":"manas@example.com","age":25}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(async |_: Request| {
        let response = Response::builder()
            .header("content-type", "application/json")
            .body(Body::from(USER))?;
        Ok::<_, Error>(response)
    }))
    .await
}
