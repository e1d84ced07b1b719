//! The one connection of a process: opened when it is first needed, used by all, opened anew when
//! it is lost.
//!
//! Every wait in here has an end: the connect timeout for a connection, the response timeout for a
//! reply.

use std::fmt;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, RedisError, Value};
use tokio::sync::Mutex;

use crate::cache::redis::{RedisSettings, is_sign_in};

pub(super) struct Connection {
    endpoint: ConnectionInfo,
    config: AsyncConnectionConfig,
    /// Held while a connection is being opened, so that requests that meet here open one together.
    open: Mutex<Opened>,
}

#[derive(Default)]
struct Opened {
    connection: Option<MultiplexedConnection>,
    /// How many were opened before: tells a connection from the one that came after it.
    generation: u64,
}

/// A handle on the open connection.
struct Handle {
    connection: MultiplexedConnection,
    generation: u64,
    /// It was open before this request, so it may have been closed since it was last used.
    is_reused: bool,
}

impl Connection {
    pub(super) fn new(settings: RedisSettings) -> Self {
        Self {
            endpoint: settings.endpoint,
            config: AsyncConnectionConfig::new()
                .set_connection_timeout(Some(settings.connect_timeout))
                .set_response_timeout(Some(settings.response_timeout)),
            open: Mutex::default(),
        }
    }

    /// The reply to `command`.
    ///
    /// Where a connection that was open already turns out to be closed, it is sent once more over
    /// a fresh one: a server may close what lay idle or frozen, and that is no fault of this
    /// request. So a command may be done twice, and only such may be sent here as do no harm then.
    pub(super) async fn query(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut handle = self.handle().await?;
        match self.send(&mut handle, command).await {
            Err(error) if handle.is_reused && error.is_connection_dropped() => {
                let mut handle = self.handle().await?;
                self.send(&mut handle, command).await
            }
            reply => reply,
        }
    }

    /// The open connection, or a fresh one.
    async fn handle(&self) -> Result<Handle, RedisError> {
        let mut open = self.open.lock().await;
        if let Some(connection) = open.connection.clone() {
            return Ok(Handle { connection, generation: open.generation, is_reused: true });
        }
        let connection = Client::open(self.endpoint.clone())?
            .get_multiplexed_async_connection_with_config(&self.config)
            .await?;
        open.generation += 1;
        open.connection = Some(connection.clone());
        Ok(Handle { connection, generation: open.generation, is_reused: false })
    }

    async fn send(&self, handle: &mut Handle, command: &Cmd) -> Result<Value, RedisError> {
        let reply = handle.connection.send_packed_command(command).await;
        let reply = reply.and_then(Value::extract_error);
        if let Err(error) = &reply
            && is_lost(error)
        {
            let mut open = self.open.lock().await;
            if open.generation == handle.generation {
                open.connection = None;
            }
        }
        reply
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the endpoint: it may hold a password.
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Whether the connection is of no more use after this error.
///
/// After a timeout it is not known whether the peer still lives; after READONLY the name of the
/// primary may lead elsewhere by now; other error replies come from a server that is well.
fn is_lost(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            is_sign_in(error) || error.code() == Some("READONLY")
        }
        _ => true,
    }
}
