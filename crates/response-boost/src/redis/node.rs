//! One server, and the one connection to it.
//!
//! The connection is opened on first use, shared by all requests, and replaced when it fails. A fault costs a request
//! at most the connect timeout plus the response timeout, once; then the [`Breaker`] makes requests do without Redis
//! until a probe succeeds.
//!
//! Nothing here relies on a task or a timer running between requests (see [`background`](super::background)). Limits on
//! background work count its running time.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info};

use super::breaker::{Admission, Breaker};
use super::fault::{Failed, Verdict, timed_out};
use super::link::{Link, ReplyLimit, is_large};
use super::settings::Address;
use super::shared::Shared;
use crate::StoreError;
use crate::clock::whole_ms;
use crate::report::timed;

/// How long a connection attempt or a probe may take: longer than a request waits. On the smallest function a TLS
/// handshake takes longer than a request should wait, so an attempt that ended with its request would never succeed.
pub(super) const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);

/// From this length on, an outage is logged.
const OUTAGE: Duration = Duration::from_secs(1);

pub(super) struct Node {
    pub(super) address: Address,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    breaker: Breaker,
    link: Option<Link>,
    /// The running attempt; only one runs at a time.
    opening: Option<Opening>,
    /// Counts the links, to tell one from its successor.
    opened: u64,
    /// Backs off while an aged connection cannot be replaced.
    replacing: Breaker,
}

/// Delivers the outcome of an attempt.
type Opening = watch::Receiver<Option<RedisResult<Link>>>;

/// A command on one key, or several commands that read.
pub(super) struct Command {
    cmd: Cmd,
    /// Set for several commands.
    all: Option<Box<Pipeline>>,
    pub(super) reads: bool,
    pub(super) resend: Resend,
}

/// Whether a command may run twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Resend {
    Allowed,
    /// A late second run would do harm, as with a lease that reappears after its deletion.
    Forbidden,
}

/// How long to wait for a connection, and then for a reply.
#[derive(Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) response: Duration,
}

impl Command {
    pub(super) fn new(cmd: Cmd, reads: bool, resend: Resend) -> Self {
        Self { cmd, all: None, reads, resend }
    }

    /// Several commands that read.
    pub(super) fn all(all: Pipeline) -> Self {
        Self { all: Some(Box::new(all)), ..Self::new(Cmd::new(), true, Resend::Allowed) }
    }

    /// The command, or the first of several.
    fn first(&self) -> &Cmd {
        self.all.as_ref().and_then(|all| all.cmd_iter().next()).unwrap_or(&self.cmd)
    }

    pub(super) fn are_several(&self) -> bool {
        self.all.is_some()
    }
}

impl Timeouts {
    fn whole(self) -> Duration {
        self.connect.saturating_add(self.response)
    }
}

impl Node {
    pub(super) fn new(shared: Arc<Shared>, address: Address) -> Self {
        Self { address, shared, state: Mutex::default() }
    }

    /// What a request may do now. A caller that gets `RefusedButProbe` must send a probe.
    pub(super) fn admit(&self) -> Admission {
        let mut state = self.state();
        if state.breaker.is_closed() {
            return Admission::Ask;
        }
        state.breaker.admit(self.shared.clock.now_ms())
    }

    /// Whether requests may call this server.
    pub(super) fn is_trusted(&self) -> bool {
        self.state().breaker.is_closed()
    }

    /// Whether the connection is open.
    pub(super) fn is_open(&self) -> bool {
        self.state().link.is_some()
    }

    /// How long the breaker stays open; `None` if it is closed.
    pub(super) fn breaker_open_for(&self) -> Option<Duration> {
        self.state().breaker.open_for(self.shared.clock.now_ms())
    }

    /// Opens the connection if it is not open.
    pub(super) async fn open(
        self: &Arc<Self>,
        connect_timeout: Duration,
    ) -> Result<Link, StoreError> {
        let link = self.link(connect_timeout, None).await;
        link.map(|(link, _)| link).map_err(|failed| self.judge(None, &failed))
    }

    /// Sends a command and waits for its reply.
    ///
    /// If a connection that was already open turns out to be closed, sends the command again over a new one: a server
    /// may close an idle or frozen connection, which is not a fault. So a command may run twice, unless [`Resend`]
    /// forbids it.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        command: &Command,
        is_asking: bool,
        timeouts: Timeouts,
    ) -> Result<Value, Failed> {
        let mut exchange = Exchange::new(self, command);
        let started = exchange.started;
        let first = self.try_once(command, is_asking, timeouts, &mut exchange).await;
        let reply = match first {
            Err(failed)
                if failed.was_open && command.resend == Resend::Allowed && failed.is_closed() =>
            {
                self.throw_away(&failed);
                // Boxed: a retry is rare, and would enlarge the future of every request.
                let mut retry =
                    Box::pin(self.try_once(command, is_asking, timeouts, &mut exchange));
                // Both attempts together get the time of one.
                let left = timeouts.whole().saturating_sub(started.elapsed());
                let reply = self.shared.timers.within_running_time(left, retry.as_mut()).await;
                drop(retry);
                reply.unwrap_or_else(|| Err(exchange.timed_out()))
            }
            reply => reply,
        };
        exchange.is_over = true;
        reply
    }

    /// Updates connection and breaker after a failure, and returns the error for the caller.
    pub(super) fn judge(&self, command: Option<&Command>, failed: &Failed) -> StoreError {
        let reads = command.is_some_and(|command| command.reads);
        let is_large = command.is_some_and(|command| is_large(command.first()));
        let Verdict { throws_away, opens } = failed.verdict(reads, is_large);
        if throws_away {
            self.throw_away(failed);
        }
        if opens {
            self.state().breaker.fault(self.shared.clock.now_ms());
        }
        failed.told(command.map(Command::first), &self.address, &self.shared.settings)
    }

    /// Drops the connection of this failure, unless it has been replaced.
    pub(super) fn throw_away(&self, failed: &Failed) {
        let mut state = self.state();
        if let (Some(link), Some(thrown)) = (&state.link, &failed.link)
            && link.number() == thrown.number()
        {
            state.link = None;
        }
    }

    /// Closes the connection, because no more requests come here or the node has left the cluster.
    pub(super) fn close(&self) {
        self.state().link = None;
    }

    /// Starts a probe, which must report how it ended.
    pub(super) fn probe(self: &Arc<Self>) -> Probe {
        Probe { node: Arc::clone(self), has_succeeded: false }
    }

    async fn try_once(
        self: &Arc<Self>,
        command: &Command,
        is_asking: bool,
        timeouts: Timeouts,
        exchange: &mut Exchange<'_>,
    ) -> Result<Value, Failed> {
        let (link, was_open) = self.link(timeouts.connect, Some(command)).await?;
        exchange.link = Some(link.clone());
        // An open connection takes no time, and needs no look at the clock.
        let opened_in = if was_open { Duration::ZERO } else { exchange.started.elapsed() };
        let whole = timeouts.whole().saturating_sub(opened_in);
        let silence = if is_large(command.first()) { whole } else { timeouts.response };
        let limit = ReplyLimit { silence, whole };
        let reply =
            link.send(&self.shared, &command.cmd, command.all.as_deref(), is_asking, limit).await;
        reply.map_err(|error| {
            let is_slow = error.is_timeout() && link.has_received_within(timeouts.response);
            Failed { error, link: Some(link), was_open, is_slow }
        })
    }

    /// The open connection or a new one, and whether it was already open.
    async fn link(
        self: &Arc<Self>,
        connect_timeout: Duration,
        asked_for: Option<&Command>,
    ) -> Result<(Link, bool), Failed> {
        let opening = {
            let now_ms = self.shared.clock.now_ms();
            let mut state = self.state();
            if let Some(link) = state.link.clone() {
                let age_ms = now_ms.saturating_sub(link.opened_at_ms());
                if age_ms > whole_ms(self.shared.settings.max_age)
                    && state.opening.is_none()
                    && let Some(question) = asked_for.filter(|command| command.reads)
                    && state.replacing.admit(now_ms) != Admission::Refused
                {
                    // Runs beside this request, which does not wait for it.
                    let (attempt, opening) = self.attempt(Some(question.first().clone()));
                    state.opening = Some(opening);
                    drop(state);
                    attempt.begin();
                }
                return Ok((link, true));
            }
            if let Some(opening) = state.opening.clone() {
                opening
            } else {
                let (attempt, opening) = self.attempt(None);
                state.opening = Some(opening.clone());
                drop(state);
                attempt.begin();
                opening
            }
        };
        // Boxed, for the same reason as the retry in `exchange`.
        Box::pin(self.opened_by(opening, connect_timeout)).await.map(|link| (link, false))
    }

    /// Waits for the outcome of an attempt.
    async fn opened_by(
        &self,
        mut opening: Opening,
        connect_timeout: Duration,
    ) -> Result<Link, Failed> {
        let opened = pin!(opening.wait_for(Option::is_some));
        let opened = self.shared.timers.within_running_time(connect_timeout, opened);
        let outcome = timed(|report| &mut report.connect, opened).await;
        let outcome = outcome.and_then(Result::ok).and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(timed_out("no connection"))).map_err(Failed::to_connect)
    }

    fn attempt(self: &Arc<Self>, question: Option<Cmd>) -> (Attempt, Opening) {
        let (outcome, opening) = watch::channel(None);
        (Attempt { node: Arc::clone(self), question, outcome, has_ended: false }, opening)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and every state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failed {
    fn to_connect(error: redis::RedisError) -> Self {
        Self { error, link: None, was_open: false, is_slow: false }
    }
}

/// A connection attempt, which may outlive the request that started it. However it ends, even in a panic of a library,
/// another one may start.
struct Attempt {
    node: Arc<Node>,
    /// The command that a new connection must answer before it replaces an aged one.
    question: Option<Cmd>,
    outcome: watch::Sender<Option<RedisResult<Link>>>,
    has_ended: bool,
}

impl Attempt {
    fn begin(self) {
        let background = Arc::clone(&self.node.shared.background);
        // Boxed: connecting needs a large future.
        background.spawn(ATTEMPT_LIMIT, Box::pin(self.run()));
    }

    async fn run(mut self) {
        let number = {
            let mut state = self.node.state();
            state.opened += 1;
            state.opened
        };
        let shared = &self.node.shared;
        let opened = Link::open(shared, &self.node.address, number).await;
        let opened = match (opened, &self.question) {
            (Ok(link), Some(question)) => self.asked(link, question).await,
            (Ok(link), None) => Ok(link),
            (Err(error), _) => Err(Failed::to_connect(error)),
        };
        self.end(opened);
    }

    /// Returns the link once it has answered as a healthy server does.
    async fn asked(&self, link: Link, question: &Cmd) -> Result<Link, Failed> {
        let limit = ReplyLimit { silence: ATTEMPT_LIMIT, whole: ATTEMPT_LIMIT };
        let Err(error) = link.send(&self.node.shared, question, None, false, limit).await else {
            return Ok(link);
        };
        let failed = Failed { error, link: Some(link.clone()), was_open: false, is_slow: false };
        let is_of_the_key = failed.verdict(true, false) == Verdict::default();
        if is_of_the_key || failed.is_unsettled() { Ok(link) } else { Err(failed) }
    }

    fn end(&mut self, opened: Result<Link, Failed>) {
        self.has_ended = true;
        let shared = &self.node.shared;
        let now_ms = shared.clock.now_ms();
        let mut state = self.node.state();
        state.opening = None;
        let outcome = match opened {
            Ok(link) => {
                state.link = Some(link.clone());
                state.replacing.success(now_ms);
                Ok(link)
            }
            Err(failed) if self.question.is_some() => {
                if state.replacing.is_closed() {
                    state.replacing.fault(now_ms);
                } else {
                    state.replacing.probe_failed(now_ms);
                }
                let fault =
                    failed.told(self.question.as_ref(), &self.node.address, &shared.settings);
                shared.tell(&fault, "connection not replaced; the old one is used on");
                Err(failed.error)
            }
            Err(failed) => {
                state.breaker.fault(now_ms);
                Err(failed.error)
            }
        };
        drop(state);
        // The receivers may be gone by now.
        let _ = self.outcome.send(Some(outcome));
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(Err(Failed::to_connect(timed_out("no connection"))));
        }
    }
}

/// A probe. However it ends, it tells the breaker, which would otherwise stay open forever.
pub(super) struct Probe {
    node: Arc<Node>,
    has_succeeded: bool,
}

impl Probe {
    /// Sends a command that no request waits for, to learn whether the server is back.
    pub(super) async fn send(mut self, command: &Command) -> Result<Value, Failed> {
        let response = self.node.shared.settings.response_timeout;
        let timeouts = Timeouts { connect: ATTEMPT_LIMIT, response };
        let reply = self.node.exchange(command, false, timeouts).await;
        match &reply {
            Err(failed) if failed.verdict(command.reads, false).opens => {
                let fault = self.node.judge(Some(command), failed);
                let cause = std::error::Error::source(&fault).map(ToString::to_string);
                debug!(error = %fault, cause, "Redis is not back yet");
            }
            _ => self.has_succeeded = true,
        }
        reply
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let Node { address, shared, .. } = &*self.node;
        let now_ms = shared.clock.now_ms();
        let mut state = self.node.state();
        if !self.has_succeeded {
            return state.breaker.probe_failed(now_ms);
        }
        let away_ms = state.breaker.success(now_ms);
        drop(state);
        let node = address.to_string();
        // A short outage is only logged at DEBUG, because an unstable Redis would flood the log.
        if away_ms >= whole_ms(OUTAGE) {
            info!(node, away_ms, "Redis is back");
        } else {
            debug!(node, away_ms, "Redis is back");
        }
    }
}

/// An exchange that may be cancelled: a request's deadline limits its total wait for Redis. If the exchange had at
/// least half of the response timeout, its cancellation counts as a fault, as if it had timed out itself.
struct Exchange<'a> {
    node: &'a Node,
    command: &'a Command,
    started: Instant,
    link: Option<Link>,
    is_over: bool,
}

impl<'a> Exchange<'a> {
    fn new(node: &'a Node, command: &'a Command) -> Self {
        Self { node, command, started: Instant::now(), link: None, is_over: false }
    }

    fn timed_out(&self) -> Failed {
        let response = self.node.shared.settings.response_timeout;
        let is_slow = self.link.as_ref().is_some_and(|link| link.has_received_within(response));
        Failed { error: timed_out("no reply"), link: self.link.clone(), was_open: false, is_slow }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let response = self.node.shared.settings.response_timeout;
        if !self.is_over && self.started.elapsed() * 2 >= response {
            self.node.judge(Some(self.command), &self.timed_out());
        }
    }
}
