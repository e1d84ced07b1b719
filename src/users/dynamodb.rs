//! Users in a DynamoDB table whose partition key is `id`, a number.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use thiserror::Error;
use tokio::sync::OnceCell;

use crate::aws;
use crate::users::{User, UserId, UserStore, UserStoreError};

/// The attributes of a user; an item may have others.
const ATTRIBUTES: [&str; 4] = ["id", "name", "email", "age"];

/// Name lookup, TCP and TLS together. TLS alone takes 0.75 s on the smallest Lambda.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// One attempt, including a new connection.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// The first pause before a retry. The SDK's own is a second, for which the client would wait.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// Users in a DynamoDB table.
///
/// The first lookup creates the client, so a process that only serves hits never pays for it. Credentials, region and
/// endpoint are found like in all AWS tools (`AWS_ENDPOINT_URL_DYNAMODB` names another server).
///
/// The SDK retries failed attempts, and gives up after four seconds in total.
pub struct DynamoDbUsers {
    table: TableName,
    client: OnceCell<Client>,
}

/// The name of a table: 3 to 255 letters, digits, `_`, `-` and `.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName(String);

/// Why a [`TableName`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the name of a table: 3 to 255 characters out of A-Z a-z 0-9 _ - .")]
pub struct InvalidTableName;

impl TableName {
    /// Parses a name by the rules of DynamoDB.
    pub fn parse(text: &str) -> Result<Self, InvalidTableName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        let is_name = (3..=255).contains(&text.len()) && text.bytes().all(is_allowed);
        if is_name { Ok(Self(text.to_owned())) } else { Err(InvalidTableName) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DynamoDbUsers {
    /// The longest that a lookup takes, including all attempts, the pauses between them, and creating the client. It
    /// suffices for two attempts that hang.
    pub const TIME_LIMIT: Duration = Duration::from_secs(4);

    /// Creates a store of the users in `table`. It does not call AWS yet.
    #[must_use]
    pub fn new(table: TableName) -> Self {
        Self { table, client: OnceCell::new() }
    }

    async fn client(&self) -> &Client {
        let make = || async {
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .build();
            let config = aws_sdk_dynamodb::config::Builder::from(aws::config().await)
                .timeout_config(timeouts)
                .retry_config(RetryConfig::standard().with_initial_backoff(FIRST_BACKOFF))
                .build();
            Client::from_conf(config)
        };
        self.client.get_or_init(make).await
    }

    /// The item with this id. No item has the id 0.
    async fn item(&self, id: u64) -> Result<Option<HashMap<String, AttributeValue>>, Fault> {
        let ask = async {
            let mut request = self
                .client()
                .await
                .get_item()
                .table_name(self.table.as_str())
                .key("id", AttributeValue::N(id.to_string()))
                // An eventually consistent read may return data from before an invalidation, which the cache would
                // store for a whole TTL.
                .consistent_read(true)
                .projection_expression(ATTRIBUTES.map(|name| format!("#{name}")).join(","));
            for name in ATTRIBUTES {
                // Each by a placeholder, because some, such as `name`, are reserved words.
                request = request.expression_attribute_names(format!("#{name}"), name);
            }
            request.send().await
        };
        let answer = tokio::time::timeout(Self::TIME_LIMIT, ask).await;
        Ok(answer.map_err(|_| Fault::TimedOut)??.item)
    }

    fn error(&self, fault: Fault) -> UserStoreError {
        UserStoreError::new(TableError { table: self.table.clone(), fault })
    }
}

impl UserStore for DynamoDbUsers {
    async fn find(&self, id: UserId) -> Result<Option<User>, UserStoreError> {
        let item = self.item(id.get()).await.map_err(|fault| self.error(fault))?;
        let user = item.map(|item| user_of(id, item)).transpose();
        user.map_err(|fault| self.error(fault))
    }

    async fn warm_up(&self) -> Result<(), UserStoreError> {
        let asked = tokio::time::timeout(CONNECT_TIMEOUT, self.item(0)).await;
        let asked = asked.unwrap_or(Err(Fault::TimedOut));
        asked.map(drop).map_err(|fault| self.error(fault))
    }
}

impl fmt::Debug for DynamoDbUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbUsers").field("table", &self.table).finish_non_exhaustive()
    }
}

fn user_of(id: UserId, item: HashMap<String, AttributeValue>) -> Result<User, Fault> {
    if let Some(missing) = ATTRIBUTES.iter().find(|&&name| !item.contains_key(name)) {
        return Err(Fault::Malformed { id, what: format!("has no {missing}") });
    }
    let item = serde_dynamo::Deserializer::from_attribute_value(serde_dynamo::AttributeValue::M(
        serde_dynamo::Item::from(item).into(),
    ));
    // The error's own message shows the value, which is personal data.
    serde_path_to_error::deserialize(item).map_err(|error| Fault::Malformed {
        id,
        what: format!("has another {} than a user can have", error.path()),
    })
}

/// Why a table lookup failed.
#[derive(Debug, Error)]
#[error("DynamoDB table {}: {fault}", .table.as_str())]
struct TableError {
    table: TableName,
    fault: Fault,
}

/// The causes that need different actions. They show nothing of an item except its id.
#[derive(Debug, Error)]
enum Fault {
    /// The requests exceed the capacity of the table or the account.
    #[error("throttled ({0})")]
    Throttled(String),
    /// The function's role, its credentials or its clock are wrong.
    #[error("denied ({0})")]
    Denied(String),
    #[error("no such table ({0})")]
    NoSuchTable(String),
    #[error("timed out")]
    TimedOut,
    /// No connection, or no credentials or region for a request.
    #[error("not reached ({0})")]
    NotReached(String),
    #[error("malformed item: {} {what}", .id.get())]
    Malformed { id: UserId, what: String },
    #[error("failed ({0})")]
    Failed(String),
}

impl From<SdkError<GetItemError>> for Fault {
    fn from(error: SdkError<GetItemError>) -> Self {
        let said =
            || format!("{}: {}", error.code().unwrap_or("?"), error.message().unwrap_or("?"));
        match &error {
            SdkError::TimeoutError(_) => Self::TimedOut,
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Self::TimedOut,
            SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => {
                Self::NotReached(aws::causes(&error))
            }
            SdkError::ServiceError(_) => match error.code().unwrap_or_default() {
                "ProvisionedThroughputExceededException"
                | "RequestLimitExceeded"
                | "ThrottlingException" => Self::Throttled(said()),
                "AccessDeniedException"
                | "ExpiredTokenException"
                | "IncompleteSignatureException"
                | "InvalidSignatureException"
                | "MissingAuthenticationTokenException"
                | "UnrecognizedClientException" => Self::Denied(said()),
                "ResourceNotFoundException" => Self::NoSuchTable(said()),
                _ => Self::Failed(said()),
            },
            _ => Self::Failed(aws::causes(&error)),
        }
    }
}
