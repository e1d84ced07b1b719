//! An open connection to one server, from name lookup to the last reply.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::socket2::{SockRef, TcpKeepalive};
use redis::{Arg, AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisResult, Value};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::fault::timed_out;
use super::settings::{Address, Credentials};
use super::shared::Shared;
use crate::report::timed;

/// How long to try one address if the name has another.
const ADDRESS_LIMIT: Duration = Duration::from_secs(1);

/// Sending a larger command may take longer than a reply should, and the client cannot observe that.
const LARGE: usize = 64 * 1024;

/// An open connection; clones share it.
#[derive(Clone)]
pub(super) struct Link {
    connection: MultiplexedConnection,
    shared: Arc<Open>,
}

struct Open {
    number: u64,
    opened_at_ms: u64,
    arrivals: Arc<Arrivals>,
    has_answered: AtomicBool,
    driver: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Otherwise the driver would wait for outstanding replies and keep the socket open.
        self.driver.abort();
    }
}

/// When bytes last arrived from the server.
struct Arrivals {
    since: Instant,
    bytes: AtomicU64,
    last_ms: AtomicU64,
}

/// How long to wait for a reply.
#[derive(Clone, Copy)]
pub(super) struct ReplyLimit {
    /// While no byte arrives.
    pub(super) silence: Duration,
    /// In any case.
    pub(super) whole: Duration,
}

impl Link {
    /// Opens a connection and signs in.
    pub(super) async fn open(shared: &Shared, address: &Address, number: u64) -> RedisResult<Self> {
        let settings = &shared.settings;
        let credentials = settings.fresh_credentials().await?;
        let stream = connect(shared, address).await?;
        let arrivals = Arc::new(Arrivals::new());
        let stream = Watched::new(stream, Arc::clone(&arrivals));
        // Callers set the timeouts. The connection uses RESP2 and does not send the client's name, so it is usable at
        // once; RESP3 needs a HELLO, one round trip more, and is no faster afterwards.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        #[cfg(feature = "tls")]
        let (connection, driver) = if settings.is_tls() {
            let stream = super::tls::handshake(&settings.tls, &address.host, stream).await?;
            drive(MultiplexedConnection::new_with_config(&info, stream, config).await?)
        } else {
            drive(MultiplexedConnection::new_with_config(&info, stream, config).await?)
        };
        #[cfg(not(feature = "tls"))]
        let (connection, driver) =
            drive(MultiplexedConnection::new_with_config(&info, stream, config).await?);
        let opened_at_ms = shared.clock.now_ms();
        let has_answered = AtomicBool::new(false);
        let open = Arc::new(Open { number, opened_at_ms, arrivals, has_answered, driver });
        let link = Self { connection, shared: open };
        link.sign_in(credentials, settings.database).await?;
        Ok(link)
    }

    /// Distinguishes this connection from the node's others.
    pub(super) fn number(&self) -> u64 {
        self.shared.number
    }

    pub(super) fn opened_at_ms(&self) -> u64 {
        self.shared.opened_at_ms
    }

    /// Whether the server has ever replied; if not, it may not be Redis.
    pub(super) fn has_answered(&self) -> bool {
        self.shared.has_answered.load(Ordering::Relaxed)
    }

    /// Whether bytes have arrived within this time.
    pub(super) fn has_received_within(&self, time: Duration) -> bool {
        self.shared.arrivals.silence().is_some_and(|silence| silence < time)
    }

    /// Sends a command, after an `ASKING` if `is_asking`, and waits for its reply. If `all` is given, sends those
    /// commands in one write instead and returns an array of their replies.
    pub(super) async fn send(
        &self,
        shared: &Shared,
        command: &Cmd,
        all: Option<&Pipeline>,
        is_asking: bool,
        limit: ReplyLimit,
    ) -> RedisResult<Value> {
        let mut connection = self.connection.clone();
        let reply = async {
            if let Some(all) = all {
                connection.send_packed_commands(all, 0, all.len()).await.map(Value::Array)
            } else if is_asking {
                // In one write, so that no other command of this connection comes between the two.
                let mut both = Pipeline::with_capacity(2);
                both.cmd("ASKING").add_command(command.clone());
                let replies = connection.send_packed_commands(&both, 1, 1).await;
                replies.map(|mut replies| replies.pop().unwrap_or(Value::Nil))
            } else {
                connection.send_packed_command(command).await
            }
        };
        let mut reply = pin!(reply);
        let reply = timed(|report| &mut report.command, self.wait(shared, limit, reply.as_mut()));
        let reply = reply.await.unwrap_or_else(|| Err(timed_out("no reply")));
        if reply.is_ok() {
            self.shared.has_answered.store(true, Ordering::Relaxed);
        }
        reply.and_then(Value::extract_error)
    }

    /// Waits for a reply as long as parts of it keep arriving.
    async fn wait<F: Future>(
        &self,
        shared: &Shared,
        limit: ReplyLimit,
        mut reply: Pin<&mut F>,
    ) -> Option<F::Output> {
        let ReplyLimit { silence, mut whole } = limit;
        loop {
            let received = self.shared.arrivals.bytes();
            let step = silence.min(whole);
            let reply = shared.timers.within_running_time(step, reply.as_mut()).await;
            whole = whole.saturating_sub(step);
            if reply.is_some() || whole.is_zero() || self.shared.arrivals.bytes() == received {
                return reply;
            }
        }
    }

    async fn sign_in(&self, credentials: Credentials, database: u32) -> RedisResult<()> {
        let mut setup = Pipeline::new();
        if let Some(password) = &credentials.password {
            setup.cmd("AUTH").arg(credentials.user).arg(password);
        }
        if database != 0 {
            setup.cmd("SELECT").arg(database);
        }
        let replies = setup.len();
        if replies == 0 {
            return Ok(());
        }
        let replies = self.connection.clone().send_packed_commands(&setup, 0, replies).await?;
        replies.into_iter().try_for_each(|reply| reply.extract_error().map(drop))?;
        self.shared.has_answered.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether sending a command may take longer than a reply should.
pub(super) fn is_large(command: &Cmd) -> bool {
    let size =
        |argument: Arg<&[u8]>| if let Arg::Simple(bytes) = argument { bytes.len() } else { 0 };
    command.args_iter().map(size).sum::<usize>() >= LARGE
}

fn drive(
    (connection, driver): (MultiplexedConnection, impl Future<Output = ()> + Send + 'static),
) -> (MultiplexedConnection, JoinHandle<()>) {
    (connection, tokio::spawn(driver))
}

async fn connect(shared: &Shared, address: &Address) -> io::Result<TcpStream> {
    let addresses = shared.resolver.resolve(address).await?;
    let mut failure = io::Error::other("the name has no address");
    for (number, address) in addresses.iter().enumerate() {
        let is_last = number + 1 == addresses.len();
        // An address that swallows packets must not use up the whole attempt.
        let limit = if is_last { Duration::MAX } else { ADDRESS_LIMIT };
        match shared.timers.within(limit, TcpStream::connect(address)).await {
            Some(Ok(stream)) => {
                set_up(&stream)?;
                return Ok(stream);
            }
            Some(Err(error)) => failure = error,
            None => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failure)
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    // A request is one small packet that waits for one small reply, so Nagle's algorithm only delays it. The response
    // timeout notices a dead connection long before keepalive does; keepalive lets the kernel release the socket, and
    // stops middleboxes from forgetting an idle connection.
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_mins(1))
        .with_interval(Duration::from_secs(10));
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_secs(10)))?;
    Ok(())
}

impl Arrivals {
    fn new() -> Self {
        Self { since: Instant::now(), bytes: AtomicU64::new(0), last_ms: AtomicU64::new(0) }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn note(&self, bytes: usize) {
        let elapsed = crate::clock::whole_ms(self.since.elapsed());
        self.last_ms.store(elapsed, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How long no byte has arrived. `None`: none ever has.
    fn silence(&self) -> Option<Duration> {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        (self.bytes() > 0).then(|| self.since.elapsed().saturating_sub(last))
    }
}

/// A socket that records when bytes arrive.
///
/// A server that rejects all clients says why and closes the connection, often before it has read a command. So nothing
/// is read before the first write, and a write to the closed connection does not fail, so that the reader gets the
/// server's message.
pub(super) struct Watched {
    stream: TcpStream,
    arrivals: Arc<Arrivals>,
    has_written: bool,
    reader: Option<Waker>,
}

impl Watched {
    fn new(stream: TcpStream, arrivals: Arc<Arrivals>) -> Self {
        Self { stream, arrivals, has_written: false, reader: None }
    }

    /// Handles the result of writing `length` bytes.
    fn note_written(&mut self, written: io::Result<usize>, length: usize) -> io::Result<usize> {
        self.has_written = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        let is_closed = |error: &io::Error| {
            [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].contains(&error.kind())
        };
        // The reader will notice that the connection is closed.
        if written.as_ref().is_err_and(is_closed) { Ok(length) } else { written }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.has_written {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.arrivals.note(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        Poll::Ready(self.note_written(written, bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, parts));
        Poll::Ready(self.note_written(written, parts.iter().map(|part| part.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_gather_nothing_and_notice_a_peer_that_has_died() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_up(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(10)));
    }
}
