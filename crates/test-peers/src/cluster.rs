//! A Redis cluster: primaries, with or without replicas and TLS.

use std::cell::Cell;

use crate::redis::{RedisServer, free_port};
use crate::tls::TlsFiles;
use crate::wait_for;

pub struct Cluster {
    /// The primaries, then their replicas in the same order.
    pub nodes: Vec<RedisServer>,
    primaries: usize,
    tls: Option<TlsFiles>,
    /// The ports that the cluster announces to clients.
    ports: Vec<u16>,
}

/// The shape of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub primaries: u16,
    pub has_replicas: bool,
    pub is_tls: bool,
}

/// The number of slots in a cluster.
const SLOTS: u16 = 16_384;

impl Cluster {
    /// Three primaries, each with a replica.
    pub async fn start() -> Self {
        Self::of(Shape { primaries: 3, has_replicas: true, is_tls: false }).await
    }

    pub async fn of(shape: Shape) -> Self {
        let Shape { primaries, has_replicas, is_tls } = shape;
        let tls = is_tls.then(|| TlsFiles::new(&["127.0.0.1"], |_| ()));
        let number = usize::from(primaries) * if has_replicas { 2 } else { 1 };
        let (mut nodes, mut ports) = (Vec::new(), Vec::new());
        for _ in 0..number {
            let tls_port = Cell::new(0);
            let node = RedisServer::start_with(|_| {
                let mut arguments: Vec<String> = [
                    ["--cluster-enabled", "yes"],
                    ["--cluster-port", &free_port().to_string()],
                    // How long until a node counts as failed. A test waits for it, and a busy machine must not trigger
                    // it by accident.
                    ["--cluster-node-timeout", "5000"],
                    // As in ElastiCache: while a node is away, the others still serve their keys.
                    ["--cluster-require-full-coverage", "no"],
                ]
                .concat()
                .into_iter()
                .map(ToOwned::to_owned)
                .collect();
                if let Some(tls) = &tls {
                    tls_port.set(free_port());
                    arguments.extend(tls.arguments(tls_port.get()));
                    // Otherwise the cluster announces the ports without TLS.
                    let both = ["--tls-cluster", "yes", "--tls-replication", "yes"];
                    arguments.extend(both.map(ToOwned::to_owned));
                }
                arguments
            })
            .await;
            ports.push(if is_tls { tls_port.get() } else { node.port() });
            nodes.push(node);
        }
        let cluster = Self { nodes, primaries: usize::from(primaries), tls, ports };
        cluster.join(number).await;
        cluster
    }

    async fn join(&self, number: usize) {
        let (primaries, replicas) = self.nodes.split_at(self.primaries);
        let share = SLOTS.div_ceil(u16::try_from(primaries.len()).unwrap());
        for (node, first) in primaries.iter().zip((0..SLOTS).step_by(share.into())) {
            let last = (first + share - 1).min(SLOTS - 1);
            let range = ["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()];
            node.command::<()>(&range);
        }
        for (number, node) in self.nodes.iter().enumerate() {
            node.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            let (port, bus) = (node.port().to_string(), node.bus_port());
            self.nodes[0].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        self.wait_for_all("every node to know every other", |node| {
            let known: String = node.command(&["CLUSTER", "NODES"]);
            known.lines().count() == number && !known.contains("handshake")
        })
        .await;
        for (primary, replica) in primaries.iter().zip(replicas) {
            let id: String = primary.command(&["CLUSTER", "MYID"]);
            replica.command::<()>(&["CLUSTER", "REPLICATE", &id]);
        }
        self.wait_until_ready().await;
        // Every node must know the primaries by now, so that a client may start with any of them.
        self.wait_for_all("every node to know the replicas", |node| {
            let known: String = node.command(&["CLUSTER", "NODES"]);
            known.lines().filter(|line| line.contains("slave")).count() == replicas.len()
        })
        .await;
    }

    /// Waits until every node serves its slots.
    pub async fn wait_until_ready(&self) {
        self.wait_for_all("the cluster to be ready", |node| {
            let state: String = node.command(&["CLUSTER", "INFO"]);
            let replication: String = node.command(&["INFO", "replication"]);
            // Without full coverage, the state is `ok` even if slots of other nodes are missing.
            state.contains("cluster_state:ok")
                && state.contains(&format!("cluster_slots_ok:{SLOTS}"))
                && (replication.contains("role:master") || replication.contains("link_status:up"))
        })
        .await;
    }

    pub fn primaries(&self) -> usize {
        self.primaries
    }

    /// The URL of this node for clients.
    pub fn url(&self, node: usize) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.ports[node])
    }

    /// The port of this node that the cluster announces to clients.
    pub fn client_port(&self, node: usize) -> u16 {
        self.ports[node]
    }

    /// The CA that clients trust, in a cluster with TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.tls.as_ref().map(|tls| tls.ca.pem.as_str())
    }

    async fn wait_for_all(&self, description: &str, is_so: impl Fn(&RedisServer) -> bool) {
        wait_for(description, || self.nodes.iter().all(&is_so).then_some(())).await;
    }

    /// The index of the primary that has a key at first.
    pub fn primary_of(&self, key: &str) -> usize {
        self.slot_of(key) / usize::from(SLOTS).div_ceil(self.primaries)
    }

    pub fn slot_of(&self, key: &str) -> usize {
        self.nodes[0].command(&["CLUSTER", "KEYSLOT", key])
    }
}
