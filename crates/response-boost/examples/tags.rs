//! Tags around an axum server: a team's list of users is one stored response, which a change to any of its users
//! invalidates. `cargo run --example tags`, then:
//!
//! ```sh
//! curl -i localhost:3000/teams/red/users            # a miss, then hits
//! curl -i -X PUT localhost:3000/users/1/blue        # Ada joins the blue team
//! curl -i localhost:3000/teams/red/users            # a miss: without her
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{get, put};
use response_boost::{
    CacheKey, InvalidTag, MemoryStore, Namespace, Policy, ResponseCacheLayer, Tag,
};
use tokio::net::TcpListener;

type Cache = ResponseCacheLayer<Arc<MemoryStore>, fn(&Request) -> Option<CacheKey>>;

/// Each user's name and team, in place of a database.
type Users = Arc<RwLock<BTreeMap<u32, (&'static str, String)>>>;

#[derive(Clone)]
struct App {
    users: Users,
    cache: Cache,
}

fn namespace() -> Namespace {
    // These characters are allowed in a namespace.
    Namespace::parse("teams").unwrap_or_else(|error| unreachable!("{error}"))
}

fn tag_of(team: &str) -> Result<Tag, InvalidTag> {
    namespace().tag(&format!("team-{team}"))
}

/// `/teams/red/users` has the key `teams:path:/teams/red/users` …
#[expect(clippy::unnecessary_wraps, reason = "`None` is for what is not cached")]
fn key_of(request: &Request) -> Option<CacheKey> {
    Some(namespace().path_key(request.uri()))
}

/// … and the tag `team-red`, like everything else under `/teams/red/`.
fn tags_of(request: &Parts) -> Result<Vec<Tag>, InvalidTag> {
    request.uri.path().split('/').nth(2).map(tag_of).into_iter().collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // On Lambda, or with several servers, use a `RedisStore`.
    let policy = Policy::new(Duration::from_mins(10));
    let cache = Cache::new(Arc::default(), policy, key_of).with_tags(tags_of);
    let users = [(1, ("Ada", "red".to_owned())), (2, ("Grace", "red".to_owned()))];
    let users = Arc::new(RwLock::new(BTreeMap::from(users)));
    let app = Router::new()
        .route("/teams/{team}/users", get(users_of_team))
        .layer(cache.clone())
        .route("/users/{id}/{team}", put(join_team))
        .with_state(App { users, cache });

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}/teams/red/users", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

async fn users_of_team(State(app): State<App>, Path(team): Path<String>) -> String {
    let users = app.users.read().unwrap_or_else(PoisonError::into_inner);
    users.values().filter(|user| user.1 == team).flat_map(|user| [user.0, "\n"]).collect()
}

/// Changes a user first, and then invalidates the lists of both teams.
async fn join_team(State(app): State<App>, Path((id, team)): Path<(u32, String)>) -> StatusCode {
    let Ok(joined) = tag_of(&team) else { return StatusCode::BAD_REQUEST };
    let left = {
        let mut users = app.users.write().unwrap_or_else(PoisonError::into_inner);
        let Some(user) = users.get_mut(&id) else { return StatusCode::NOT_FOUND };
        std::mem::replace(&mut user.1, team)
    };
    // A name that is not a valid tag is on no response.
    let tags = tag_of(&left).into_iter().chain([joined]);
    for tag in tags {
        if app.cache.invalidate_tag(&tag).await.is_err() {
            // The change is written, but the old list may be served until it expires: let the client retry.
            return StatusCode::SERVICE_UNAVAILABLE;
        }
    }
    StatusCode::NO_CONTENT
}
