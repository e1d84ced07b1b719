//! Puts users into a DynamoDB table: `make seed TABLE=… [USERS=file.json]`.
//!
//! The file is a JSON array of users, or has one user per line. Without a file, it writes the three embedded users. A
//! user that is already in the table is replaced, so the command can be repeated. With `--create`, it first creates the
//! table if it does not exist.
//!
//! At the end it names the users that it could not write, and exits with 1.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, PutRequest, ScalarAttributeType,
    TableStatus, WriteRequest,
};
use serde_json::Value;
use users_function::aws;
use users_function::users::{EmbeddedUsers, TableName, User, UserId, UserStore as _};

/// The most items that DynamoDB accepts in one request.
const BATCH: usize = 25;
/// How often to resend items that DynamoDB left unwritten, with a pause that doubles from 50 ms.
const ATTEMPTS: u32 = 10;

type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether everything was written.
async fn run(mut arguments: Vec<String>) -> Result<bool, Error> {
    let create = arguments.first().is_some_and(|first| first == "--create");
    if create {
        arguments.remove(0);
    }
    let (table, file) = match &arguments[..] {
        [table] => (table, None),
        [table, file] => (table, Some(file)),
        _ => return Err("usage: seed [--create] TABLE [FILE]".into()),
    };
    let table = TableName::parse(table).map_err(|wanted| format!("{table} is not {wanted}"))?;
    let (users, refused) = match file {
        Some(file) => read(file)?,
        None => (embedded().await?, Vec::new()),
    };

    let client = Client::new(aws::config().await);
    if create {
        make(&client, &table).await?;
    }
    let total = users.len();
    let (written, stopped_by) = write(&client, &table, users).await;
    println!("{written} of {} users are in the table {}", total + refused.len(), table.as_str());
    for reason in &refused {
        println!("not written: {reason}");
    }
    if let Some(error) = &stopped_by {
        println!("not written: {} users, since {error}", total - written);
    }
    Ok(refused.is_empty() && stopped_by.is_none())
}

async fn embedded() -> Result<Vec<User>, Error> {
    let mut users = Vec::new();
    for id in 1..=3 {
        users.extend(EmbeddedUsers.find(UserId::try_from(id)?).await?);
    }
    Ok(users)
}

/// The users in a file, and the records that are not users.
fn read(file: &str) -> Result<(Vec<User>, Vec<String>), Error> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let records: Vec<(String, Result<Value, serde_json::Error>)> = if text
        .trim_start()
        .starts_with('[')
    {
        let array: Vec<Value> =
            serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))?;
        let place = |number| format!("{file}: user {}", number + 1);
        array.into_iter().enumerate().map(|(number, user)| (place(number), Ok(user))).collect()
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(number, line)| (format!("{file}:{}", number + 1), serde_json::from_str(line)))
            .collect()
    };

    let (mut users, mut refused) = (Vec::new(), Vec::new());
    let mut places = HashMap::new();
    for (place, record) in records {
        match record.and_then(serde_json::from_value::<User>) {
            // With two records for one user, either could end up in the table.
            Ok(user) => match places.insert(user.id, place.clone()) {
                None => users.push(user),
                Some(first) => {
                    refused.push(format!("{place}: the id {} is that of {first}", user.id));
                    places.insert(user.id, first);
                }
            },
            Err(error) => refused.push(format!("{place}: {error}")),
        }
    }
    Ok((users, refused))
}

/// Creates the table if it does not exist, and waits until it is usable.
async fn make(client: &Client, table: &TableName) -> Result<(), Error> {
    let id = AttributeDefinition::builder()
        .attribute_name("id")
        .attribute_type(ScalarAttributeType::N)
        .build()?;
    let key = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash).build()?;
    let made = client
        .create_table()
        .table_name(table.as_str())
        .attribute_definitions(id)
        .key_schema(key)
        .billing_mode(BillingMode::PayPerRequest)
        .send()
        .await;
    if let Err(error) = made
        && !error.as_service_error().is_some_and(CreateTableError::is_resource_in_use_exception)
    {
        return Err(aws::causes(&error).into());
    }
    loop {
        let described = client.describe_table().table_name(table.as_str()).send().await;
        let described = described.map_err(|error| aws::causes(&error))?;
        let status = described.table.and_then(|table| table.table_status);
        if status == Some(TableStatus::Active) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Returns how many users were written, and what stopped it before the end.
async fn write(client: &Client, table: &TableName, users: Vec<User>) -> (usize, Option<Error>) {
    let total = users.len();
    let mut written = 0;
    for batch in users.chunks(BATCH) {
        let (unwritten, stopped_by) = write_batch(client, table, batch).await;
        written += batch.len() - unwritten;
        if stopped_by.is_some() {
            return (written, stopped_by);
        }
        // On a terminal, one line that is overwritten; in a log, a line now and then.
        if std::io::stderr().is_terminal() {
            let end = if written == total { "\n" } else { "" };
            eprint!("\r{written} of {total}{end}");
        } else if written.is_multiple_of(1_000) {
            eprintln!("{written} of {total}");
        }
    }
    (written, None)
}

/// Returns how many users of the batch were not written, and why.
async fn write_batch(client: &Client, table: &TableName, batch: &[User]) -> (usize, Option<Error>) {
    let put = |user: &User| {
        let put = PutRequest::builder().set_item(Some(serde_dynamo::to_item(user)?)).build()?;
        Ok::<_, Error>(WriteRequest::builder().put_request(put).build())
    };
    let mut left: Vec<WriteRequest> = match batch.iter().map(put).collect() {
        Ok(requests) => requests,
        Err(error) => return (batch.len(), Some(error)),
    };
    for attempt in 0..ATTEMPTS {
        let unwritten = left.len();
        let sent = client.batch_write_item().request_items(table.as_str(), left).send().await;
        // DynamoDB leaves items for which it had no capacity.
        let rest = match sent {
            Ok(sent) => sent.unprocessed_items.unwrap_or_default().remove(table.as_str()),
            Err(error) => return (unwritten, Some(aws::causes(&error).into())),
        };
        left = rest.unwrap_or_default();
        if left.is_empty() {
            return (0, None);
        }
        if attempt + 1 < ATTEMPTS {
            tokio::time::sleep(Duration::from_millis(50) * 2_u32.pow(attempt)).await;
        }
    }
    (left.len(), Some("the table takes no more for now; run it again".into()))
}
