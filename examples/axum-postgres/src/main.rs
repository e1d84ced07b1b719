//! Users in PostgreSQL behind axum, cached. It runs on Lambda if a Runtime API is set, otherwise as a server.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use http::request::Parts;
use http::{StatusCode, header};
use percent_encoding::percent_decode_str;
use response_boost::{
    CacheKey, DynStore, Keep, MemoryStore, Namespace, Policy, RedisSettings, RedisStore,
    ResponseCacheLayer,
};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use uuid::Uuid;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let database = std::env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set")?;
    // An execution environment serves one request at a time, so a few connections suffice.
    let pool = PgPoolOptions::new().max_connections(4).connect_lazy(&database)?;
    let store: Arc<dyn DynStore> = match std::env::var("REDIS_URL") {
        Ok(url) => Arc::new(RedisStore::new(RedisSettings::parse(&url)?)),
        Err(_) => Arc::new(MemoryStore::default()),
    };
    let app = app(pool, store)?;
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some() {
        return lambda_http::run(app).await;
    }
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

fn app(pool: PgPool, store: Arc<dyn DynStore>) -> Result<Router, lambda_http::Error> {
    let users = Namespace::parse("users")?;
    let written = users.clone();
    let policy = Policy::new(Duration::from_secs(120)).with_not_found_ttl(Duration::from_secs(30));
    let key_of = move |request: &Request| user_key(&users, request.uri().path());
    // A write invalidates the key that a `GET` of the same path has.
    let cache =
        ResponseCacheLayer::new(store, policy, key_of).with_invalidation(move |request: &Parts| {
            user_key(&written, request.uri.path()).into_iter().collect()
        });
    let user = get(read).put(write).delete(remove);
    Ok(Router::new().route("/users/{id}", user).with_state(pool).layer(cache))
}

/// `users:user:<id>`, for every spelling of an id that axum accepts. An id in capitals or with percent-escapes reads
/// and writes the same user, so it must have the same key.
fn user_key(users: &Namespace, path: &str) -> Option<CacheKey> {
    let id = path.strip_prefix("/users/").filter(|id| !id.contains('/'))?;
    let id = Uuid::parse_str(&percent_decode_str(id).decode_utf8().ok()?).ok()?;
    Some(users.key(["user", &id.to_string()]))
}

#[derive(Serialize)]
struct User {
    id: Uuid,
    name: String,
    email: String,
}

#[derive(Deserialize)]
struct NewUser {
    name: String,
    email: String,
}

async fn read(State(pool): State<PgPool>, Path(id): Path<Uuid>) -> Result<Response, Unavailable> {
    let query = sqlx::query_as("SELECT name, email FROM users WHERE id = $1").bind(id);
    let found: Option<(String, String)> = query.fetch_optional(&pool).await?;
    Ok(match found {
        // The handler knows its data: a user may be stored for ten minutes, whatever the policy says.
        Some((name, email)) => {
            let keep = Keep::new(Duration::from_secs(600));
            (Extension(keep), Json(User { id, name, email })).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

async fn write(
    State(pool): State<PgPool>,
    Path(id): Path<Uuid>,
    Json(user): Json<NewUser>,
) -> Result<StatusCode, Unavailable> {
    sqlx::query(
        "INSERT INTO users (id, name, email) VALUES ($1, $2, $3)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, email = excluded.email",
    )
    .bind(id)
    .bind(user.name)
    .bind(user.email)
    .execute(&pool)
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(
    State(pool): State<PgPool>,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Unavailable> {
    let query = sqlx::query("DELETE FROM users WHERE id = $1").bind(id);
    let removed = query.execute(&pool).await?.rows_affected();
    Ok(if removed == 0 { StatusCode::NOT_FOUND } else { StatusCode::NO_CONTENT })
}

/// The database failed. The client may retry; the cause stays in the log.
struct Unavailable;

impl From<sqlx::Error> for Unavailable {
    fn from(error: sqlx::Error) -> Self {
        eprintln!("database failed: {error}");
        Self
    }
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")]).into_response()
    }
}
