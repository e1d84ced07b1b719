//! An in-memory DynamoDB on this machine, for `make run STORE=dynamodb`: dynoxide on the port given as the argument.

use dynoxide::Database;
use dynoxide::server::start;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), String> {
    let port = std::env::args().nth(1).ok_or("usage: dynamodb_local PORT")?;
    let port = port.parse().map_err(|_| format!("{port} is no port"))?;
    let database = Database::memory().map_err(|error| error.to_string())?;
    start("127.0.0.1", port, database).await
}
