//! The one connection of a process to Redis (in a cluster: one to each node).
//!
//! It is opened when it is first needed, used by all requests, thrown away when it is of no more
//! use, and opened again. What goes wrong meanwhile costs a request no more than the connect and
//! the response timeout, once; then the [`Breaker`] lets requests pass until a probe has got through.
//!
//! Lambda freezes a process between two requests, for seconds or hours, and whatever it was doing
//! goes on where it stopped. So nothing in here counts on a task or a timer that runs between
//! requests, and what is limited in the background is limited by
//! [`Timers::within_running_time`].

use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisResult, Value};
#[cfg(feature = "cluster")]
use redis::{
    ConnectionAddr, aio::ConnectionLike as _, cluster::ClusterClient,
    cluster_async::ClusterConnection, cluster_routing::RoutingInfo,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::StoreError;
use crate::clock::{Clock, whole_ms};
use crate::redis::breaker::{Admission, Breaker};
use crate::redis::resolver::Resolver;
use crate::redis::{RedisSettings, is_sign_in, store_error};
use crate::report::timed;
use kept_timers::Timers;

/// How long an attempt to connect may take, and a probe: longer than any request waits. TLS on the
/// smallest function takes longer than a request should, and an attempt that was given up with its
/// request each time would never get there.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);

/// In a cluster: how long to wait for one node while connecting to all of them. One that is silent
/// must not use up the attempt.
#[cfg(feature = "cluster")]
const CLUSTER_NODE_LIMIT: Duration = Duration::from_secs(2);

/// In a cluster: how often a command follows a slot that has moved, and waits between. A request
/// waits no longer than its own timeouts all the same.
#[cfg(feature = "cluster")]
const CLUSTER_RETRIES: u32 = 3;
#[cfg(feature = "cluster")]
const CLUSTER_RETRY_WAIT_MS: (u64, u64) = (2, 20);

/// From how long on it is told that Redis was away.
const OUTAGE: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    settings: RedisSettings,
    resolver: Resolver,
    clock: Clock,
    timers: Timers,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    breaker: Breaker,
    link: Option<Link>,
    /// The attempt that is under way: there is one at a time.
    opening: Option<Opening>,
    /// How many links there have been: tells one from the one that came after it.
    opened: u64,
}

/// An open connection; clones share it.
#[derive(Clone)]
pub(super) struct Link {
    commands: Commands,
    timers: Timers,
    number: u64,
    opened_at_ms: u64,
}

#[derive(Clone)]
enum Commands {
    Node(MultiplexedConnection),
    #[cfg(feature = "cluster")]
    Cluster(ClusterConnection),
}

/// Where the outcome of an attempt will be seen.
type Opening = watch::Receiver<Option<RedisResult<Link>>>;

/// Whether a command may be done twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Allowed,
    /// It would do harm late: a lease that comes back after it was deleted.
    Forbidden,
}

/// How long to wait for a connection, and then for a reply.
#[derive(Clone, Copy)]
struct Patience {
    connect: Duration,
    response: Duration,
}

impl Connection {
    pub(super) fn new(settings: RedisSettings) -> Self {
        let (resolver, clock, timers, state) = Default::default();
        Self { inner: Arc::new(Inner { settings, resolver, clock, timers, state }) }
    }

    /// The reply to a command that reads.
    ///
    /// While Redis fails it is refused at once, and now and then sent as a probe that nobody waits
    /// for.
    pub(super) async fn read(&self, command: Cmd) -> Result<Value, StoreError> {
        let admission = self.inner.state().breaker.admit(self.inner.clock.now_ms());
        match admission {
            Admission::Ask => self.inner.ask(&command, Again::Allowed).await,
            Admission::Refused => Err(StoreError::BreakerOpen),
            Admission::RefusedButProbe => {
                tokio::spawn(Arc::clone(&self.inner).probe(command));
                Err(StoreError::BreakerOpen)
            }
        }
    }

    /// The reply to a command that writes. While Redis fails it is refused at once: a write must
    /// not be done late.
    pub(super) async fn write(&self, command: &Cmd, again: Again) -> Result<Value, StoreError> {
        if self.inner.state().breaker.is_closed() {
            self.inner.ask(command, again).await
        } else {
            Err(StoreError::BreakerOpen)
        }
    }

    /// The reply to a command that is to be sent even while Redis fails.
    pub(super) async fn insist(&self, command: &Cmd) -> Result<Value, StoreError> {
        self.inner.ask(command, Again::Allowed).await
    }

    /// The longest that a request waits for one command.
    pub(super) fn limit(&self) -> Duration {
        self.inner.settings.deadline()
    }

    /// The open connection, or a fresh one, for commands that no request waits for.
    pub(super) async fn link(&self) -> Result<Link, StoreError> {
        let link = self.inner.link(ATTEMPT_LIMIT).await;
        link.map(|(link, _)| link).map_err(|error| store_error(&error))
    }

    /// How long the breaker stays open, if it is.
    pub(super) fn closed_for(&self) -> Option<Duration> {
        self.inner.state().breaker.open_for(self.inner.clock.now_ms())
    }

    /// The host that the settings name.
    #[cfg(feature = "cluster")]
    pub(super) fn host(&self) -> &str {
        match self.inner.settings.endpoint.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
            _ => "",
        }
    }

    /// Opens the connection if it is not open. It waits no longer than a request would.
    pub(super) async fn open(&self) -> Result<(), StoreError> {
        let opened = self.inner.link(self.inner.patience().connect).await;
        opened.map(drop).map_err(|error| self.inner.judge(None, &error))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and none of the state can be half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn patience(&self) -> Patience {
        let RedisSettings { connect_timeout, response_timeout, .. } = self.settings;
        Patience { connect: connect_timeout, response: response_timeout }
    }

    async fn ask(self: &Arc<Self>, command: &Cmd, again: Again) -> Result<Value, StoreError> {
        let mut exchange = Exchange::new(self);
        let link_number = &mut exchange.link_number;
        let reply = self.exchange(command, again, self.patience(), link_number).await;
        exchange.is_over = true;
        reply.map_err(|error| self.judge(exchange.link_number, &error))
    }

    /// Sends a command that nobody waits for, to learn whether Redis is back.
    async fn probe(self: Arc<Self>, command: Cmd) {
        let mut probe = Probe { inner: &self, has_succeeded: false };
        let patience = Patience { connect: ATTEMPT_LIMIT, ..self.patience() };
        let mut link_number = None;
        let reply = self.exchange(&command, Again::Allowed, patience, &mut link_number).await;
        match reply {
            Err(error) if verdict(&error, self.settings.is_cluster).opens => {
                let fault = self.judge(link_number, &error);
                debug!(error = %fault, "Redis is not back yet");
            }
            _ => {
                probe.has_succeeded = true;
            }
        }
    }

    /// Sends a command and waits for its reply.
    ///
    /// Where a connection that was open already turns out to be closed, it is sent once more over
    /// a fresh one: a server may close what lay idle or frozen, and that is no fault. So a command may
    /// be done twice, unless [`Again`] forbids it.
    async fn exchange(
        self: &Arc<Self>,
        command: &Cmd,
        again: Again,
        patience: Patience,
        link_number: &mut Option<u64>,
    ) -> RedisResult<Value> {
        let started = Instant::now();
        let (mut link, was_open) = self.link(patience.connect).await?;
        *link_number = Some(link.number);
        match link.send(command, patience.response).await {
            Err(error) if was_open && again == Again::Allowed && is_closed(&error) => {
                self.throw_away(link.number);
                // On the heap: it is seldom, and would make the future of each request larger.
                let mut retry = Box::pin(async {
                    let (mut link, _) = self.link(patience.connect).await?;
                    *link_number = Some(link.number);
                    link.send(command, patience.response).await
                });
                // Both together take no longer than one would.
                let limit = patience.connect.saturating_add(patience.response);
                let left = limit.saturating_sub(started.elapsed());
                let reply = self.timers.within_running_time(left, retry.as_mut()).await;
                reply.unwrap_or_else(|| Err(timed_out("no reply")))
            }
            reply => reply,
        }
    }

    /// The open connection, or a fresh one; and whether it was open.
    async fn link(self: &Arc<Self>, patience: Duration) -> RedisResult<(Link, bool)> {
        let opening = {
            let mut state = self.state();
            if let Some(link) = state.link.clone() {
                let age_ms = self.clock.now_ms().saturating_sub(link.opened_at_ms);
                if age_ms > whole_ms(self.settings.max_age) && state.opening.is_none() {
                    // Beside this request, which need not wait for it.
                    state.opening = Some(self.start_opening());
                }
                return Ok((link, true));
            }
            state.opening.get_or_insert_with(|| self.start_opening()).clone()
        };
        // On the heap, as above.
        Box::pin(self.opened_by(opening, patience)).await.map(|link| (link, false))
    }

    /// What an attempt comes to.
    async fn opened_by(&self, mut opening: Opening, patience: Duration) -> RedisResult<Link> {
        let opened = pin!(opening.wait_for(Option::is_some));
        let opened = self.timers.within_running_time(patience, opened);
        let outcome = timed(|report| &mut report.connect, opened).await;
        let outcome = outcome.and_then(Result::ok).and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(self.not_connected()))
    }

    /// Starts an attempt to connect, which may outlive the request that began it.
    fn start_opening(self: &Arc<Self>) -> Opening {
        let (outcome, opening) = watch::channel(None);
        let attempt = Attempt(Arc::clone(self));
        tokio::spawn(async move {
            let inner = &*attempt.0;
            // On the heap: opening a cluster takes a large future.
            let mut connecting = Box::pin(inner.connect());
            let opened = inner.timers.within_running_time(ATTEMPT_LIMIT, connecting.as_mut()).await;
            let opened = opened.unwrap_or_else(|| Err(inner.not_connected()));
            let opened = opened.map(|commands| inner.opened(commands));
            drop(connecting);
            // So that who hears of a failure can begin another one.
            drop(attempt);
            // Nobody may be waiting any more.
            let _ = outcome.send(Some(opened));
        });
        opening
    }

    fn opened(&self, commands: Commands) -> Link {
        let mut state = self.state();
        state.opened += 1;
        let (number, opened_at_ms) = (state.opened, self.clock.now_ms());
        let timers = self.timers.clone();
        let link = Link { commands, timers, number, opened_at_ms };
        state.link = Some(link.clone());
        link
    }

    fn not_connected(&self) -> RedisError {
        timed_out(if self.settings.is_tls() {
            // A port without TLS takes the beginning of a handshake for a command and waits for
            // the rest of it.
            "no connection; does the port speak TLS?"
        } else {
            "no connection"
        })
    }

    async fn connect(&self) -> RedisResult<Commands> {
        let settings = &self.settings;
        let endpoint = settings.endpoint().await?;
        #[cfg(feature = "cluster")]
        if settings.is_cluster {
            let (shortest_wait, longest_wait) = CLUSTER_RETRY_WAIT_MS;
            let client = ClusterClient::builder([endpoint.clone()])
                .tcp_settings(endpoint.tcp_settings().clone())
                .connection_timeout(CLUSTER_NODE_LIMIT)
                .response_timeout(settings.response_timeout)
                .retries(CLUSTER_RETRIES)
                .min_retry_wait(shortest_wait)
                .max_retry_wait(longest_wait)
                .async_dns_resolver(self.resolver.clone());
            #[cfg(feature = "tls")]
            let client = match settings.own_ca() {
                Some(certificates) => client.certs(certificates),
                None => client,
            };
            return client.build()?.get_async_connection().await.map(Commands::Cluster);
        }
        #[cfg(feature = "tls")]
        let client = match settings.own_ca() {
            Some(certificates) => Client::build_with_tls(endpoint, certificates)?,
            None => Client::open(endpoint)?,
        };
        #[cfg(not(feature = "tls"))]
        let client = Client::open(endpoint)?;
        // The waits are limited by those who wait.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_dns_resolver(self.resolver.clone());
        client.get_multiplexed_async_connection_with_config(&config).await.map(Commands::Node)
    }

    /// Draws the consequences of an error for those who come after, and says what it was.
    fn judge(&self, link_number: Option<u64>, error: &RedisError) -> StoreError {
        let Verdict { throws_away, opens } = verdict(error, self.settings.is_cluster);
        if throws_away && let Some(number) = link_number {
            self.throw_away(number);
        }
        if opens {
            self.state().breaker.fault(self.clock.now_ms());
        }
        store_error(error)
    }

    fn throw_away(&self, number: u64) {
        let mut state = self.state();
        if state.link.as_ref().is_some_and(|link| link.number == number) {
            state.link = None;
        }
    }
}

/// One of the servers that a link leads to. Without a cluster there is one.
#[cfg(feature = "cluster")]
pub(super) type Node = RoutingInfo;
#[cfg(not(feature = "cluster"))]
#[derive(Clone)]
pub(super) enum Node {}

impl Link {
    #[cfg(feature = "cluster")]
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.commands, Commands::Cluster(_))
    }

    /// Sends a command that no request waits for, in a cluster to this node.
    #[cfg_attr(not(feature = "cluster"), expect(unused_variables, reason = "there is one server"))]
    pub(super) async fn send_to(
        &mut self,
        command: Cmd,
        node: Option<&Node>,
    ) -> RedisResult<Value> {
        let reply = pin!(async {
            match &mut self.commands {
                Commands::Node(server) => server.send_packed_command(&command).await,
                #[cfg(feature = "cluster")]
                Commands::Cluster(cluster) => match node {
                    Some(node) => cluster.route_command(command, node.clone()).await,
                    None => cluster.req_packed_command(&command).await,
                },
            }
        });
        let reply = self.timers.within_running_time(ATTEMPT_LIMIT, reply).await;
        let reply = reply.unwrap_or_else(|| Err(timed_out("no reply")));
        reply.and_then(Value::extract_error)
    }

    async fn send(&mut self, command: &Cmd, patience: Duration) -> RedisResult<Value> {
        let reply = pin!(async {
            match &mut self.commands {
                Commands::Node(node) => node.send_packed_command(command).await,
                #[cfg(feature = "cluster")]
                Commands::Cluster(cluster) => cluster.req_packed_command(command).await,
            }
        });
        let reply = self.timers.within_running_time(patience, reply);
        let reply = timed(|report| &mut report.command, reply).await;
        let reply = reply.unwrap_or_else(|| Err(timed_out("no reply")));
        reply.and_then(Value::extract_error)
    }
}

/// An attempt to connect. However it ends, also in a panic of a library, another one may begin.
struct Attempt(Arc<Inner>);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.state().opening = None;
    }
}

/// A probe. However it ends, the breaker hears of it, or it would stay open for ever.
struct Probe<'a> {
    inner: &'a Inner,
    has_succeeded: bool,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let now_ms = self.inner.clock.now_ms();
        let mut state = self.inner.state();
        if !self.has_succeeded {
            return state.breaker.probe_failed(now_ms);
        }
        let away_ms = state.breaker.success(now_ms);
        drop(state);
        // A hiccup is no news, or a Redis that limps would fill the log.
        if away_ms >= whole_ms(OUTAGE) {
            info!(away_ms, "Redis is back");
        } else {
            debug!(away_ms, "Redis is back");
        }
    }
}

/// An exchange that may be cancelled: a request waits for all that it asks of Redis together no
/// longer than its deadline. If that was not because it had only a little left, it is a fault as if
/// the exchange had timed out itself.
struct Exchange<'a> {
    inner: &'a Inner,
    started: Instant,
    link_number: Option<u64>,
    is_over: bool,
}

impl<'a> Exchange<'a> {
    fn new(inner: &'a Inner) -> Self {
        Self { inner, started: Instant::now(), link_number: None, is_over: false }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let was_given_time = self.started.elapsed() * 2 >= self.inner.settings.response_timeout;
        if !self.is_over && was_given_time {
            self.inner.judge(self.link_number, &timed_out("deadline of the request"));
        }
    }
}

/// What an error means for those who come after.
struct Verdict {
    /// The connection is of no more use.
    throws_away: bool,
    /// Asking again at once would be in vain.
    opens: bool,
}

fn verdict(error: &RedisError, is_cluster: bool) -> Verdict {
    let (throws_away, opens) = match error.kind() {
        _ if is_sign_in(error) => (true, true),
        ErrorKind::Server(_) | ErrorKind::Extension => match error.code().unwrap_or_default() {
            // The name of the primary may lead elsewhere by now. A cluster tells who it is.
            "READONLY" => (!is_cluster, false),
            // The server is there, and knows that it cannot answer yet.
            "LOADING" | "CLUSTERDOWN" | "BUSY" | "MASTERDOWN" => (false, true),
            // The server is well; it is this command that it does not do.
            _ => (false, false),
        },
        // Not known to be alive, or known not to be.
        _ => (true, true),
    };
    Verdict { throws_away, opens }
}

fn is_closed(error: &RedisError) -> bool {
    error.is_connection_dropped() && !error.is_timeout()
}

fn timed_out(waited_for: &'static str) -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, waited_for).into()
}
