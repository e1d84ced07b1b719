//! A DynamoDB in the test's process, behind a server that counts requests and injects faults.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dynoxide::Database;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::http::{Server, serve};
use super::lambda::Function;

pub const TABLE: &str = "people";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    #[default]
    Pass,
    /// Rejects each request like this.
    Refuse { status: u16, code: &'static str },
    /// Answers no request.
    Silent,
    /// Delays each response by this much.
    Late(Duration),
}

/// The table `people` with the three users, behind a server that counts.
pub struct DynamoDb {
    server: Server,
    database: Database,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    mode: Mutex<Mode>,
    requests: Mutex<Vec<Value>>,
    late: AtomicUsize,
    most_late: AtomicUsize,
}

impl DynamoDb {
    pub async fn start() -> Self {
        let database = database();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = listener.local_addr().unwrap();
        tokio::spawn(dynoxide::server::serve_on(listener, database.clone()));

        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let server = serve(move |request| answer(Arc::clone(&shared), behind, request)).await;
        Self { server, database, state }
    }

    pub fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<Value> {
        std::mem::take(&mut self.state.requests.lock().unwrap())
    }

    /// The most delayed requests at the same time.
    pub fn most_at_once(&self) -> usize {
        self.state.most_late.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.server.connections.load(Ordering::SeqCst)
    }

    /// Puts an item into the table and replaces an existing one.
    pub fn put(&self, item: &Value) {
        put(&self.database, item);
    }

    /// The variables that make a function use this table.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        variables(&format!("http://{}", self.server.address), TABLE)
    }
}

/// The source of the function's users.
#[derive(Clone, Copy, Debug)]
pub enum Users {
    /// The embedded users.
    Embedded,
    /// A DynamoDB in this process.
    Dynoxide,
    /// A DynamoDB by another project, to which nothing here is adapted.
    Moto,
}

impl Users {
    /// A function with these users and these variables.
    pub async fn function(self, variables: &[(&str, &str)]) -> Function {
        let users = self.variables();
        let users = users.iter().map(|(name, value)| (*name, value.as_str()));
        Function::start(&users.chain(variables.iter().copied()).collect::<Vec<_>>()).await
    }

    fn variables(self) -> Vec<(&'static str, String)> {
        static DYNOXIDE: LazyLock<String> = LazyLock::new(serve_dynoxide);
        match self {
            Self::Embedded => Vec::new(),
            Self::Dynoxide => variables(&DYNOXIDE, TABLE),
            Self::Moto => {
                let url =
                    std::env::var("TEST_MOTO").expect("TEST_MOTO, as scripts/with-moto.sh sets it");
                variables(&url, TABLE)
            }
        }
    }
}

/// Serves at the returned URL until this process ends, longer than one test; hence the separate thread.
fn serve_dynoxide() -> String {
    let (listening, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listening.send(listener.local_addr().unwrap()).unwrap();
            dynoxide::server::serve_on(listener, database()).await;
        });
    });
    format!("http://{}", address.recv().unwrap())
}

fn variables(url: &str, table: &str) -> Vec<(&'static str, String)> {
    vec![
        ("USERS_TABLE", table.to_owned()),
        ("AWS_ENDPOINT_URL_DYNAMODB", url.to_owned()),
        ("AWS_REGION", "eu-west-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "not-a-real-secret".to_owned()),
    ]
}

fn database() -> Database {
    let database = Database::memory().unwrap();
    let table = json!({
        "TableName": TABLE,
        "AttributeDefinitions": [{ "AttributeName": "id", "AttributeType": "N" }],
        "KeySchema": [{ "AttributeName": "id", "KeyType": "HASH" }],
        "BillingMode": "PAY_PER_REQUEST",
    });
    database.create_table(serde_json::from_value(table).unwrap()).unwrap();
    for (id, name, email, age) in [
        ("1", "Manas", "manas@example.com", "25"),
        ("2", "omkar", "omkar@example.com", "29"),
        ("3", "anand", "anand@example.com", "27"),
    ] {
        put(&database, &item(id, name, email, age));
    }
    database
}

/// A user as an item.
pub fn item(id: &str, name: &str, email: &str, age: &str) -> Value {
    json!({ "id": { "N": id }, "name": { "S": name }, "email": { "S": email }, "age": { "N": age } })
}

fn put(database: &Database, item: &Value) {
    let put = json!({ "TableName": TABLE, "Item": item });
    database.put_item(serde_json::from_value(put).unwrap()).unwrap();
}

async fn answer(
    state: Arc<State>,
    behind: SocketAddr,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    state.requests.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    let mode = *state.mode.lock().unwrap();
    match mode {
        Mode::Silent => return std::future::pending().await,
        Mode::Refuse { status, code } => {
            let body = json!({
                "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"),
                "message": "as the test wants it",
            });
            let answer = Response::builder()
                .status(status)
                .header("content-type", "application/x-amz-json-1.0");
            return answer.body(body.to_string().into()).unwrap();
        }
        Mode::Late(by) => {
            let at_once = state.late.fetch_add(1, Ordering::SeqCst) + 1;
            state.most_late.fetch_max(at_once, Ordering::SeqCst);
            tokio::time::sleep(by).await;
            state.late.fetch_sub(1, Ordering::SeqCst);
        }
        Mode::Pass => {}
    }
    let stream = TcpStream::connect(behind).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::from_parts(parts, Full::new(body));
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    Response::from_parts(parts, Full::new(body.collect().await.unwrap().to_bytes()))
}
