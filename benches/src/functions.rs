//! The functions that are compared, and the events that they get.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Result;
use crate::lambda::Program;

/// The response body of `GET /users/1`.
pub(crate) const USER: &str = r#"{"id":1,"name":"Manas","email":"manas@example.com","age":25}"#;
/// Its entity tag.
const ETAG: &str = "a43ee3cf8af93a7ebee04608a7d6657f";
/// The key under which response-boost stores it.
pub(crate) const KEY: &str = "users:user:1";
/// The key of the value that the floor passes through.
pub(crate) const FLOOR_KEY: &str = "floor";

/// The folders of the programs and the Python packages.
pub(crate) struct Places {
    pub(crate) programs: PathBuf,
    /// `None`: the Python functions are left out.
    pub(crate) python_packages: Option<PathBuf>,
}

impl Places {
    pub(crate) fn program(&self, name: &str) -> Program {
        let path = self.programs.join(name).to_string_lossy().into_owned();
        Program { command: vec![path], variables: Vec::new() }
    }

    /// The users function, with this Redis.
    pub(crate) fn ours(&self, redis_url: &str) -> Program {
        // The TTL is longer than any run, so that only the tests of misses have misses.
        self.program("users").with("REDIS_URL", redis_url).with("CACHE_TTL_SECONDS", "86400")
    }

    pub(crate) fn floor(&self, redis_url: &str, key: &str) -> Program {
        self.program("redis_get").with("REDIS_URL", redis_url).with("KEY", key)
    }

    pub(crate) fn limit(&self, redis_url: &str, key: &str) -> Program {
        self.program("limit").with("REDIS_URL", redis_url).with("KEY", key)
    }

    pub(crate) fn cached(&self, redis_url: &str) -> Program {
        self.program("cached").with("CACHED_REDIS_CONNECTION_STRING", redis_url)
    }

    pub(crate) fn tower_http_cache(&self, redis_url: &str) -> Program {
        self.program("tower_http_cache").with("REDIS_URL", redis_url)
    }

    pub(crate) fn hitbox(&self, redis_url: &str) -> Program {
        self.program("hitbox").with("REDIS_URL", redis_url)
    }

    pub(crate) fn python(&self, module: &str, redis_url: &str) -> Option<Program> {
        let packages = self.python_packages.as_ref()?.to_string_lossy();
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        let command = ["python3", "-m", "awslambdaric", &format!("{module}.handler")];
        let program = Program { command: command.map(Into::into).to_vec(), variables: Vec::new() };
        let program = program
            .with("PATH", std::env::var("PATH").ok()?)
            .with("PYTHONPATH", format!("{}:{packages}", own.display()))
            .with("PYTHONDONTWRITEBYTECODE", "1")
            .with("REDIS_URL", redis_url);
        Some(program)
    }
}

/// Makes a program look its users up in this DynamoDB.
pub(crate) fn with_dynamodb(program: Program, url: &str) -> Program {
    program
        .with("USERS_TABLE", "users")
        .with("AWS_ENDPOINT_URL_DYNAMODB", url)
        .with("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .with("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")
}

/// `GET /users/<id>`, as an HTTP API sends it to a function.
pub(crate) fn event(id: u64) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&event_of(id)?)?)
}

/// The same from a client that already has the response.
pub(crate) fn conditional_event() -> Result<Vec<u8>> {
    let mut event = event_of(1)?;
    event["headers"]["if-none-match"] = format!("\"{ETAG}\"").into();
    Ok(serde_json::to_vec(&event)?)
}

fn event_of(id: u64) -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events/http-existing.json");
    let mut event: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    event["rawPath"] = format!("/users/{id}").into();
    event["requestContext"]["http"]["path"] = event["rawPath"].clone();
    event["pathParameters"]["id"] = id.to_string().into();
    Ok(event)
}

/// A JSON body of about this size.
pub(crate) fn body(bytes: usize) -> String {
    let user = format!("{USER},");
    let users = user.repeat(bytes / user.len());
    format!("[{}]", users.trim_end_matches(','))
}

/// An entry of response-boost with this body, as stored in Redis.
pub(crate) fn entry(body: &str) -> Result<Vec<u8>> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let metadata = json!({
        "version": 1,
        "id": "00000000000000000000000000000001",
        "status": 200,
        "headers": [["content-type", "application/json"]],
        "etag": ETAG,
        "load_started_at_ms": u64::try_from(now.as_millis())?,
        "load_cost_ms": 3,
        "ttl_ms": 86_400_000,
        "body_bytes": body.len(),
    });
    Ok(format!("{metadata}\n{body}").into_bytes())
}
