//! Finds the server that has a key: the only one, or the node of a cluster that has the key's slot.
//!
//! Every command of this store concerns one key, so a cluster needs little: the request follows a `MOVED` or an `ASK`
//! to the node that it names. After the first `MOVED`, the router reads the whole slot table beside requests.
//! ElastiCache Serverless never sends a `MOVED`, so it costs one connection and no extra round trip.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use super::breaker::{Admission, Breaker};
use super::fault::{Failed, Redirection, is_host, timed_out};
use super::node::{ATTEMPT_LIMIT, Command, Node, Resend, Timeouts};
use super::settings::{Address, RedisSettings};
use super::shared::Shared;
use super::unexpected_reply;
use crate::{CacheKey, StoreError};

/// The number of slots in a cluster.
const SLOTS: u16 = 16_384;
/// How many redirections a command follows, and the step by which it waits longer before each retry on the same node.
const HOPS: usize = 5;
const PAUSE: Duration = Duration::from_millis(5);

pub(super) struct Router {
    shared: Arc<Shared>,
    /// The configured server, which is asked for slots whose node is unknown.
    endpoint: Arc<Node>,
    routes: Mutex<Routes>,
}

#[derive(Default)]
struct Routes {
    /// The nodes that the cluster has named.
    nodes: Vec<Arc<Node>>,
    /// For each slot, the index of its node in `nodes`, counted from 1; 0 is the endpoint. Empty until the first
    /// `MOVED`.
    slots: Vec<u16>,
    /// The running refresh of the slots; only one runs at a time. The channel closes when it ends.
    looking: Option<watch::Receiver<()>>,
    /// Backs off while the slots cannot be read.
    pace: Breaker,
}

impl Router {
    pub(super) fn new(settings: RedisSettings) -> Self {
        let endpoint = settings.endpoint.clone();
        let shared = Arc::new(Shared::new(settings));
        let endpoint = Arc::new(Node::new(Arc::clone(&shared), endpoint));
        Self { shared, endpoint, routes: Mutex::default() }
    }

    /// Runs a command that reads.
    ///
    /// While the server fails, the command is refused at once, or sent as a probe that no request waits for.
    pub(super) async fn read(self: &Arc<Self>, key: &str, cmd: Cmd) -> Result<Value, StoreError> {
        self.read_by(key, Command::new(cmd, true, Resend::Allowed)).await
    }

    /// Runs commands that read keys of one server, sent in one write, and returns an array of replies. `None`: the
    /// server rejected one of them, so send them one by one.
    pub(super) async fn read_all(
        self: &Arc<Self>,
        key: &str,
        all: Pipeline,
    ) -> Result<Option<Value>, StoreError> {
        let command = Command::all(all);
        match self.read_by(key, command).await {
            Err(StoreError::Reply { .. }) => Ok(None),
            replies => replies.map(Some),
        }
    }

    /// Groups the keys, as their indexes, by the node that has them.
    pub(super) fn by_node(&self, keys: &[&CacheKey]) -> Vec<Vec<usize>> {
        let mut nodes: Vec<(Arc<Node>, Vec<usize>)> = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            let node = self.node_of(key.as_str());
            match nodes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &node)) {
                Some((_, numbers)) => numbers.push(number),
                None => nodes.push((node, vec![number])),
            }
        }
        nodes.into_iter().map(|(_, numbers)| numbers).collect()
    }

    async fn read_by(self: &Arc<Self>, key: &str, command: Command) -> Result<Value, StoreError> {
        let started = Instant::now();
        let mut node = self.node_of(key);
        self.shared.background.go_on_after_reply();
        match node.admit() {
            Admission::Ask => {}
            Admission::RefusedButProbe => {
                self.start_probe(node, key.to_owned(), command);
                return Err(StoreError::BreakerOpen);
            }
            Admission::Refused => {
                // Half of what a request may wait; the other half is for the command.
                let lent = self.shared.background.lend(self.limit() / 2);
                Box::pin(lent).await;
                node = self.node_of(key);
                if !node.is_trusted() {
                    return Err(StoreError::BreakerOpen);
                }
            }
        }
        self.ask(node, &command, started).await
    }

    /// Runs a command that writes. While the server fails, it is refused at once, because a write must not happen late.
    pub(super) async fn write(
        self: &Arc<Self>,
        key: &str,
        cmd: Cmd,
        resend: Resend,
    ) -> Result<Value, StoreError> {
        let node = self.node_of(key);
        if !node.is_trusted() {
            return Err(StoreError::BreakerOpen);
        }
        let command = Command::new(cmd, false, resend);
        self.ask(node, &command, Instant::now()).await
    }

    /// Runs a command that is sent even while the server fails.
    pub(super) async fn insist(self: &Arc<Self>, key: &str, cmd: Cmd) -> Result<Value, StoreError> {
        let command = Command::new(cmd, false, Resend::Allowed);
        self.ask(self.node_of(key), &command, Instant::now()).await
    }

    /// The longest that a request waits for one command.
    pub(super) fn limit(&self) -> Duration {
        self.shared.settings.deadline()
    }

    /// How long the breakers stay open; `None` if none is.
    pub(super) fn breaker_open_for(&self) -> Option<Duration> {
        let nodes = self.routes().nodes.clone();
        nodes.iter().chain([&self.endpoint]).filter_map(|node| node.breaker_open_for()).max()
    }

    /// Opens the connection to the endpoint if it is not open. It waits no longer than a request would.
    pub(super) async fn open(&self) -> Result<(), StoreError> {
        self.endpoint.open(self.shared.settings.connect_timeout).await.map(drop)
    }

    /// Every server that has keys, for operations on all of them.
    pub(super) async fn primaries(&self) -> Result<Vec<Arc<Node>>, StoreError> {
        if !self.shared.settings.is_cluster {
            return Ok(vec![Arc::clone(&self.endpoint)]);
        }
        let unhurried = Timeouts { connect: ATTEMPT_LIMIT, response: ATTEMPT_LIMIT };
        let ranges = self.slots_from(&self.endpoint, unhurried).await?;
        self.know(&ranges);
        let routes = self.routes();
        let has_slots = |node: &Arc<Node>| ranges.iter().any(|range| range.address == node.address);
        Ok(routes
            .nodes
            .iter()
            .chain([&self.endpoint])
            .filter(|node| has_slots(node))
            .cloned()
            .collect())
    }

    async fn ask(
        self: &Arc<Self>,
        node: Arc<Node>,
        command: &Command,
        started: Instant,
    ) -> Result<Value, StoreError> {
        match node.exchange(command, false, self.timeouts()).await {
            Ok(reply) => Ok(reply),
            // Sending them one by one shows which one the server rejects.
            Err(Failed { error, link: Some(_), .. })
                if command.are_several() && error.code().is_some() =>
            {
                let code = error.code().unwrap_or_default().to_owned();
                Err(StoreError::Reply { code, cause: error.into() })
            }
            // Boxed: this is rare, and would enlarge the future of every request.
            Err(failed) if self.shared.settings.is_cluster && failed.is_unsettled() => {
                let left = self.limit().saturating_sub(started.elapsed());
                let mut followed = Box::pin(self.follow(node, command, failed));
                let reply = self.shared.timers.within_running_time(left, followed.as_mut()).await;
                // The node that was asked has updated its breaker.
                reply.unwrap_or_else(|| Err(StoreError::Timeout(timed_out("no reply").into())))
            }
            Err(failed) => Err(self.judge(&node, command, &failed)),
        }
    }

    /// Follows the cluster's redirections until a reply arrives. A redirection means that the command did not run, so
    /// sending it again is always safe.
    async fn follow(
        self: &Arc<Self>,
        mut node: Arc<Node>,
        command: &Command,
        mut failed: Failed,
    ) -> Result<Value, StoreError> {
        for hop in 1..=HOPS {
            let (next, is_ask) = match failed.redirection(&node.address) {
                Some(Redirection { address, is_ask: true, .. }) => (self.node_at(&address), true),
                Some(Redirection { slot, address, .. }) => (self.moved(slot, &address), false),
                None => {
                    tokio::time::sleep(PAUSE * u32::try_from(hop).unwrap_or(1)).await;
                    (Arc::clone(&node), false)
                }
            };
            if Arc::ptr_eq(&next, &node) && failed.error.redirect_node().is_some() {
                // The name resolves to another server by now, but the open connection still leads to the old one.
                if !failed.was_open {
                    break;
                }
                node.throw_away(&failed);
            } else if !Arc::ptr_eq(&next, &node) && !next.is_trusted() {
                return Err(StoreError::BreakerOpen);
            }
            node = next;
            match node.exchange(command, is_ask, self.timeouts()).await {
                Err(again) if again.is_unsettled() => failed = again,
                Err(other) => return Err(self.judge(&node, command, &other)),
                Ok(reply) => return Ok(reply),
            }
        }
        Err(self.judge(&node, command, &failed))
    }

    /// Updates state after a failure, and returns the error for the caller.
    fn judge(self: &Arc<Self>, node: &Arc<Node>, command: &Command, failed: &Failed) -> StoreError {
        let fault = node.judge(Some(command), failed);
        // Another node may have its slots by now.
        if !node.is_trusted() || failed.error.code() == Some("READONLY") {
            self.look_for_slots();
        }
        fault
    }

    /// Sends a command that no request waits for, to learn whether the server is back or another one has replaced it.
    fn start_probe(self: &Arc<Self>, node: Arc<Node>, key: String, command: Command) {
        let (router, probe) = (Arc::clone(self), node.probe());
        let work = async move {
            if let Some(mut looking) = router.look_for_slots() {
                while looking.changed().await.is_ok() {}
                if !Arc::ptr_eq(&router.node_of(&key), &node) {
                    return;
                }
            }
            if let Err(failed) = probe.send(&command).await
                && router.shared.settings.is_cluster
                && let Some(Redirection { slot, address, is_ask: false }) =
                    failed.redirection(&node.address)
                && Arc::ptr_eq(&router.moved(slot, &address), &node)
            {
                node.throw_away(&failed);
            }
        };
        // The command follows an attempt, and both may follow a refresh of the slots.
        self.shared.background.spawn(2 * ATTEMPT_LIMIT, Box::pin(work));
    }

    fn timeouts(&self) -> Timeouts {
        let RedisSettings { connect_timeout, response_timeout, .. } = self.shared.settings;
        Timeouts { connect: connect_timeout, response: response_timeout }
    }

    /// The node that has a key, as far as is known.
    fn node_of(&self, key: &str) -> Arc<Node> {
        if self.shared.settings.is_cluster {
            let routes = self.routes();
            if !routes.slots.is_empty()
                && let Some(number) = routes.slots[usize::from(slot_of(key))].checked_sub(1)
                && let Some(node) = routes.nodes.get(usize::from(number))
            {
                return Arc::clone(node);
            }
        }
        Arc::clone(&self.endpoint)
    }

    fn node_at(&self, address: &Address) -> Arc<Node> {
        let mut routes = self.routes();
        let number = routes.number_of(address, &self.endpoint, &self.shared);
        routes.node(number, &self.endpoint)
    }

    /// Records the node of a slot, and starts a refresh of all slots.
    fn moved(self: &Arc<Self>, slot: u16, address: &Address) -> Arc<Node> {
        let node = {
            let mut routes = self.routes();
            let number = routes.number_of(address, &self.endpoint, &self.shared);
            routes.slots.resize(usize::from(SLOTS), 0);
            if let Some(known) = routes.slots.get_mut(usize::from(slot)) {
                *known = number;
            }
            routes.node(number, &self.endpoint)
        };
        self.look_for_slots();
        node
    }

    /// Reads the slot table beside requests, in a cluster with several nodes. `None`: not now.
    fn look_for_slots(self: &Arc<Self>) -> Option<watch::Receiver<()>> {
        let (looking, under_way) = watch::channel(());
        {
            let mut routes = self.routes();
            if routes.slots.is_empty() || routes.looking.is_some() {
                return routes.looking.clone();
            }
            if routes.pace.admit(self.shared.clock.now_ms()) == Admission::Refused {
                return None;
            }
            routes.looking = Some(under_way.clone());
        }
        let look = Look { router: Arc::clone(self), has_succeeded: false, _looking: looking };
        self.shared.background.spawn(ATTEMPT_LIMIT, Box::pin(look.run()));
        Some(under_way)
    }

    /// The nodes to ask for the slots; those most likely to answer come first.
    fn informants(&self) -> Vec<Arc<Node>> {
        let nodes = self.routes().nodes.clone();
        let mut informants: Vec<_> =
            [Arc::clone(&self.endpoint)].into_iter().chain(nodes).collect();
        informants.retain(|node| node.is_trusted());
        informants.sort_by_key(|node| !node.is_open());
        if informants.is_empty() {
            informants.push(Arc::clone(&self.endpoint));
        }
        informants
    }

    async fn slots_from(
        &self,
        node: &Arc<Node>,
        timeouts: Timeouts,
    ) -> Result<Vec<Range>, StoreError> {
        let mut cmd = Cmd::new();
        cmd.arg("CLUSTER").arg("SLOTS");
        let command = Command::new(cmd, false, Resend::Allowed);
        let reply = node.exchange(&command, false, timeouts).await;
        let reply = reply.map_err(|failed| node.judge(Some(&command), &failed))?;
        let Value::Array(ranges) = reply else { return Err(unexpected_reply()) };
        let ranges = ranges.iter().map(|range| Range::of(range, &node.address));
        let ranges: Option<Vec<_>> = ranges.collect();
        ranges.filter(|ranges| !ranges.is_empty()).ok_or_else(unexpected_reply)
    }

    fn know(&self, ranges: &[Range]) {
        let mut routes = self.routes();
        let nodes = std::mem::take(&mut routes.nodes);
        let is_named = |node: &Node| ranges.iter().any(|range| range.address == node.address);
        // Drops nodes that the cluster no longer names, with their connections.
        routes.nodes = nodes.into_iter().filter(|node| is_named(node)).collect();
        routes.slots = vec![0; usize::from(SLOTS)];
        for Range { first, last, address } in ranges {
            let number = routes.number_of(address, &self.endpoint, &self.shared);
            if let Some(slots) = routes.slots.get_mut(usize::from(*first)..=usize::from(*last)) {
                slots.fill(number);
            }
        }
        if !is_named(&self.endpoint) {
            self.endpoint.close();
        }
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        // Nothing panics while it holds the lock, and the routes are always consistent.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routes {
    /// The number of the node at this address, which is added if it is new.
    fn number_of(&mut self, address: &Address, endpoint: &Node, shared: &Arc<Shared>) -> u16 {
        if *address == endpoint.address {
            return 0;
        }
        let known = self.nodes.iter().position(|node| node.address == *address);
        let number = known.unwrap_or_else(|| {
            self.nodes.push(Arc::new(Node::new(Arc::clone(shared), address.clone())));
            self.nodes.len() - 1
        });
        u16::try_from(number + 1).unwrap_or(0)
    }

    fn node(&self, number: u16, endpoint: &Arc<Node>) -> Arc<Node> {
        let named = number.checked_sub(1).and_then(|number| self.nodes.get(usize::from(number)));
        Arc::clone(named.unwrap_or(endpoint))
    }
}

/// A refresh of the slots. However it ends, another one may start.
struct Look {
    router: Arc<Router>,
    has_succeeded: bool,
    _looking: watch::Sender<()>,
}

impl Look {
    async fn run(mut self) {
        let router = Arc::clone(&self.router);
        for node in router.informants() {
            match router.slots_from(&node, router.timeouts()).await {
                Ok(ranges) => {
                    router.know(&ranges);
                    self.has_succeeded = true;
                    return;
                }
                Err(fault) => router.shared.tell(&fault, "slots of the cluster not read"),
            }
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let now_ms = self.router.shared.clock.now_ms();
        let mut routes = self.router.routes();
        routes.looking = None;
        if self.has_succeeded {
            routes.pace.success(now_ms);
        } else if routes.pace.is_closed() {
            routes.pace.fault(now_ms);
        } else {
            routes.pace.probe_failed(now_ms);
        }
    }
}

/// A range of slots, and their primary.
struct Range {
    first: u16,
    last: u16,
    address: Address,
}

impl Range {
    /// Parses `[first, last, [host, port, …], replicas…]`. If the primary's host is missing or unknown, it is the
    /// answering server.
    fn of(range: &Value, answering: &Address) -> Option<Self> {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = &range[..] else {
            return None;
        };
        let [host, Value::Int(port), ..] = &primary[..] else { return None };
        let host = match host {
            Value::BulkString(host) => std::str::from_utf8(host).ok().filter(|host| is_host(host)),
            Value::Nil => None,
            _ => return None,
        };
        let host = host.unwrap_or(&answering.host).to_owned();
        Some(Self {
            first: u16::try_from(*first).ok()?,
            last: u16::try_from(*last).ok()?,
            address: Address { host, port: u16::try_from(*port).ok()? },
        })
    }
}

/// The slot of a key: its CRC-16 (XMODEM). Keys of this store have no hash tag, because braces are escaped.
fn slot_of(key: &str) -> u16 {
    let crc = key.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 { shifted } else { shifted ^ 0x1021 }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // From `CLUSTER KEYSLOT`; the first is the check value in the CRC's specification.
        for (key, slot) in
            [("123456789", 0x31c3), ("", 0), ("foo", 12_182), ("users:user:1", 5_378)]
        {
            assert_eq!(slot_of(key), slot, "{key}");
        }
    }
}
