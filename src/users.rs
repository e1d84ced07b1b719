//! The example API: `GET /users/{id}`. It does not know that it is cached.
//!
//! To serve your own data, implement [`UserStore`], or write your own service and put
//! [`ResponseCacheLayer`](response_boost::ResponseCacheLayer) around it; nothing in the cache is specific to users.

mod dynamodb;
mod embedded;
mod route;
mod store;
mod user;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response};
use lambda_http::{Body, Error, Request, RequestExt as _};
use tower::Service;
use tracing::error;

pub use self::dynamodb::{DynamoDbUsers, InvalidTableName, TableName};
pub use self::embedded::EmbeddedUsers;
pub use self::route::{Route, routed};
pub use self::store::{UserStore, UserStoreError};
pub use self::user::{InvalidUserId, User, UserId};
use crate::problem;

const METHODS: [Method; 2] = [Method::GET, Method::HEAD];

/// Answers `GET` and `HEAD /users/{id}` from a [`UserStore`].
///
/// Every request gets a response; the error type is for the layers around it. `HEAD` gets the response of `GET`, and
/// the [gateway](lambda_gateway) omits the body.
#[derive(Debug)]
pub struct UsersApi<S> {
    store: Arc<S>,
}

impl<S: UserStore> UsersApi<S> {
    /// Creates the API over this store.
    pub fn new(store: S) -> Self {
        Self { store: Arc::new(store) }
    }

    /// Lets the store prepare, so that no request waits for that.
    pub async fn warm_up(&self) -> Result<(), UserStoreError> {
        self.store.warm_up().await
    }
}

impl<S> Clone for UsersApi<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store) }
    }
}

impl<S: UserStore> Service<Request> for UsersApi<S> {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let store = Arc::clone(&self.store);
        Box::pin(async move { Ok(answer(&*store, &request).await) })
    }
}

async fn answer(store: &impl UserStore, request: &Request) -> Response<Body> {
    let Route::User(id) = Route::of(request) else {
        return problem::no_such_path();
    };
    if !METHODS.contains(request.method()) {
        return problem::method_not_allowed(&METHODS);
    }
    let id = match id {
        Ok(id) => id,
        Err(invalid) => return problem::bad_request(&format!("A user id is {invalid}")),
    };
    let time_left =
        request.lambda_context_ref().map_or(Duration::MAX, lambda_gateway::time_to_answer);
    let found = tokio::time::timeout(time_left, store.find(id)).await;
    match found.unwrap_or_else(|_| Err(UserStoreError::new("the invocation is about to end"))) {
        Ok(Some(user)) => json(&user),
        Ok(None) => problem::not_found("User not found"),
        Err(failure) => {
            let cause = std::error::Error::source(&failure).map(ToString::to_string);
            error!(%failure, cause, "user store failed");
            problem::unavailable()
        }
    }
}

fn json(user: &User) -> Response<Body> {
    match serde_json::to_string(user) {
        Ok(body) => {
            let mut response = Response::new(Body::from(body));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(failure) => {
            error!(%failure, "user not serialized");
            problem::unavailable()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tower::ServiceExt as _;

    use super::*;

    fn request(method: Method, path: &str) -> Request {
        let mut request = Request::default();
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        request
    }

    async fn ask(method: Method, path: &str) -> Response<Body> {
        UsersApi::new(EmbeddedUsers).oneshot(request(method, path)).await.unwrap()
    }

    fn text(response: &Response<Body>) -> &str {
        std::str::from_utf8(response.body()).unwrap()
    }

    #[tokio::test]
    async fn the_three_users_are_there() {
        for (id, body) in [
            (1, r#"{"id":1,"name":"Manas","email":"manas@example.com","age":25}"#),
            (2, r#"{"id":2,"name":"omkar","email":"omkar@example.com","age":29}"#),
            (3, r#"{"id":3,"name":"anand","email":"anand@example.com","age":27}"#),
        ] {
            let response = ask(Method::GET, &format!("/users/{id}")).await;
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
            assert_eq!(text(&response), body);
        }
    }

    #[tokio::test]
    async fn an_unknown_user_is_a_404_that_says_so() {
        let response = ask(Method::GET, "/users/4").await;
        assert_eq!(response.status(), 404);
        assert!(text(&response).contains(r#""detail":"User not found""#), "{}", text(&response));
    }

    #[tokio::test]
    async fn an_id_that_cannot_be_is_a_400_that_says_what_can() {
        for id in [
            "",
            "abc",
            "0",
            "01",
            "+1",
            "-1",
            "1.0",
            "%EF%BC%91",
            "9223372036854775808",
            "%2531",
            "%FF",
        ] {
            let response = ask(Method::GET, &format!("/users/{id}")).await;
            assert_eq!(response.status(), 400, "{id}");
            assert!(text(&response).contains("whole number from 1"), "{}", text(&response));
        }
    }

    #[tokio::test]
    async fn another_path_is_a_404_and_another_method_a_405() {
        for path in [
            "/",
            "/users",
            "/users/1/",
            "/users/1/2",
            "/user/1",
            "/x/users/1",
            "/Users/1",
            "//users/1",
        ] {
            assert_eq!(ask(Method::GET, path).await.status(), 404, "{path}");
            assert_eq!(ask(Method::POST, path).await.status(), 404, "{path}");
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let response = ask(method, "/users/1").await;
            assert_eq!(response.status(), 405);
            assert_eq!(response.headers()["allow"], "GET, HEAD");
        }
    }

    #[derive(Debug)]
    struct Broken;

    impl UserStore for Broken {
        async fn find(&self, _: UserId) -> Result<Option<User>, UserStoreError> {
            Err(UserStoreError::new("table-of-secrets is on fire"))
        }
    }

    #[derive(Debug)]
    struct Silent;

    impl UserStore for Silent {
        async fn find(&self, _: UserId) -> Result<Option<User>, UserStoreError> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_silent_is_a_503_before_the_invocation_ends() {
        let mut invocation = lambda_http::Context::default();
        let ends_at = SystemTime::now() + Duration::from_secs(10);
        let ends_at = ends_at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        invocation.deadline = u64::try_from(ends_at.as_millis()).unwrap();
        let started = tokio::time::Instant::now();
        let request = request(Method::GET, "/users/1").with_lambda_context(invocation);
        let response = UsersApi::new(Silent).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 503);
        let waited = started.elapsed();
        assert!((8_000..=9_001).contains(&waited.as_millis()), "{waited:?}");
    }

    #[tokio::test]
    async fn an_end_of_the_invocation_that_is_past_already_says_nothing() {
        let mut invocation = lambda_http::Context::default();
        invocation.deadline = 600_000;
        let request = request(Method::GET, "/users/1").with_lambda_context(invocation);
        assert_eq!(UsersApi::new(EmbeddedUsers).oneshot(request).await.unwrap().status(), 200);
    }

    #[tokio::test]
    async fn a_store_that_fails_is_a_503_without_its_cause() {
        let request = request(Method::GET, "/users/1");
        let response = UsersApi::new(Broken).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert!(!text(&response).contains("fire"));
    }
}
