//! A custom store: a folder with a file for each key. `cargo run --example own_store FOLDER` prints a miss and a hit;
//! run it again and it prints two hits.

use std::convert::Infallible;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use response_boost::{
    CacheKey, Expected, Found, Namespace, Policy, ResponseCacheLayer, Store, StoreError,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

/// The first line of a file is its expiry time, in milliseconds since the epoch.
struct Folder {
    path: PathBuf,
    /// Makes `put` atomic; this store serves one process.
    one_at_a_time: Mutex<()>,
}

impl Folder {
    fn file(&self, key: &CacheKey) -> PathBuf {
        // A key is printable ASCII of any length. Its colons are safe in file names on Unix.
        self.path.join(key.as_str().replace('/', "%2F"))
    }

    fn read(&self, key: &CacheKey) -> Result<Found, StoreError> {
        let content = match fs::read(self.file(key)) {
            Ok(content) => Bytes::from(content),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(StoreError::Failed(error.into())),
        };
        let end_of_line = content.iter().position(|&byte| byte == b'\n');
        let ends_at_ms = end_of_line
            .and_then(|end| std::str::from_utf8(&content[..end]).ok()?.parse::<u128>().ok());
        Ok(match (end_of_line, ends_at_ms) {
            (Some(end), Some(ends_at_ms)) if ends_at_ms > now_ms() => {
                Found::Value(content.slice(end + 1..))
            }
            (Some(_), Some(_)) => Found::Nothing,
            _ => Found::Foreign,
        })
    }
}

// Local files are fast enough to read on the request's thread. For slower ones use `tokio::task::spawn_blocking`.
impl Store for Folder {
    async fn get(&self, key: &CacheKey) -> Result<Found, StoreError> {
        self.read(key)
    }

    async fn put(
        &self,
        key: &CacheKey,
        expected: Expected<'_>,
        value: Bytes,
        life: Duration,
    ) -> Result<bool, StoreError> {
        let _guard = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let is_expected = match (expected, self.read(key)?) {
            (Expected::Anything, _)
            | (Expected::Nothing, Found::Nothing)
            | (Expected::Foreign, Found::Foreign) => true,
            (Expected::StartsWith(start), Found::Value(value)) => value.starts_with(start),
            _ => false,
        };
        if is_expected {
            let ends_at_ms = now_ms() + life.as_millis();
            let content = [format!("{ends_at_ms}\n").as_bytes(), &value].concat();
            // Readers never see half a file: it gets its name once it is complete.
            let (file, draft) = (self.file(key), self.path.join("draft"));
            fs::write(&draft, content)
                .and_then(|()| fs::rename(draft, file))
                .map_err(|error| StoreError::Failed(error.into()))?;
        }
        Ok(is_expected)
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        match fs::remove_file(self.file(key)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(StoreError::Failed(error.into()))
            }
            _ => Ok(()),
        }
    }

    fn name(&self) -> &'static str {
        "folder"
    }
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: own_store FOLDER")?;
    let store = Folder { path: path.into(), one_at_a_time: Mutex::default() };
    let answers = Namespace::parse("answers")?;
    let cache = ResponseCacheLayer::new(
        store,
        Policy::new(Duration::from_mins(1)),
        move |request: &Request<()>| Some(answers.path_key(request.uri())),
    );
    let service = cache.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("42"))))
    }));
    for _ in 0..2 {
        let response = service.clone().oneshot(Request::new(())).await?;
        println!("{}", response.headers()["cache-status"].to_str()?);
    }
    Ok(())
}
