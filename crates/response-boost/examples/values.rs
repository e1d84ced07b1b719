//! The `FastAPI` demonstration that inspired this library, line for line in Rust: a cache around a function that looks
//! up a user. `cargo run --example values`, then `curl -i http://localhost:3000/users/1` twice.
//!
//! ```python
//! @cache_response(ttl=120, namespace="users")
//! async def get_user(user_id: int): ...
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use response_boost::{DynStore, MemoryStore, Namespace, Policy, ValueCache};
#[cfg(feature = "redis")]
use response_boost::{RedisSettings, RedisStore};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

#[derive(Serialize, Deserialize)]
struct User {
    id: u64,
    name: String,
    email: String,
    age: u8,
}

type Users = ValueCache<User, Arc<dyn DynStore>>;

/// The work that the cache saves.
async fn find(id: u64) -> Result<Option<User>, std::io::Error> {
    tokio::time::sleep(Duration::from_millis(50)).await;
    let manas = User { id: 1, name: "Manas".into(), email: "manas@example.com".into(), age: 25 };
    Ok((id == manas.id).then_some(manas))
}

/// The value is stored under the key `users:user:1`.
async fn get_user(users: State<Users>, Path(id): Path<u64>) -> Result<Json<User>, StatusCode> {
    let user = users.get_or_load(["user", &id.to_string()], move || find(id)).await;
    let user = user.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    user.map(Json).ok_or(StatusCode::NOT_FOUND)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policy = Policy::new(Duration::from_mins(2)).with_not_found_ttl(Duration::from_secs(5));
    let users = Users::new(store()?, policy, Namespace::parse("users")?);
    let app = Router::new().route("/users/{id}", get(get_user)).with_state(users);

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}/users/1", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

fn store() -> Result<Arc<dyn DynStore>, Box<dyn std::error::Error>> {
    #[cfg(feature = "redis")]
    if let Ok(url) = std::env::var("REDIS_URL") {
        return Ok(Arc::new(RedisStore::new(RedisSettings::parse(&url)?)));
    }
    Ok(Arc::new(MemoryStore::default()))
}
