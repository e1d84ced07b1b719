//! A cluster of six: three primaries, each with a replica.

use crate::redis::{RedisServer, free_port};
use crate::wait_for;

pub struct Cluster {
    /// First the three primaries, then in the same order their replicas.
    pub nodes: Vec<RedisServer>,
}

impl Cluster {
    pub async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..6 {
            nodes.push(
                RedisServer::start_with(|_| {
                    [
                        ["--cluster-enabled", "yes"],
                        ["--cluster-port", &free_port().to_string()],
                        // Until a node counts as failed: a test waits for it, and a busy machine must not
                        // make one of another.
                        ["--cluster-node-timeout", "5000"],
                    ]
                    .concat()
                    .into_iter()
                    .map(ToOwned::to_owned)
                    .collect()
                })
                .await,
            );
        }
        let cluster = Self { nodes };
        for (node, [first, last]) in
            cluster.nodes.iter().zip([[0, 5460], [5461, 10922], [10923, 16383]])
        {
            node.command::<()>(&[
                "CLUSTER",
                "ADDSLOTSRANGE",
                &first.to_string(),
                &last.to_string(),
            ]);
        }
        for (number, node) in cluster.nodes.iter().enumerate() {
            node.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            let (port, bus) = (node.port().to_string(), node.bus_port());
            cluster.nodes[0].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        cluster
            .wait_for_all("every node to know every other", |node| {
                let known: String = node.command(&["CLUSTER", "NODES"]);
                known.lines().count() == 6 && !known.contains("handshake")
            })
            .await;
        for (primary, replica) in cluster.nodes.iter().zip(&cluster.nodes[3..]) {
            let id: String = primary.command(&["CLUSTER", "MYID"]);
            replica.command::<()>(&["CLUSTER", "REPLICATE", &id]);
        }
        cluster
            .wait_for_all("the cluster to be ready", |node| {
                let state: String = node.command(&["CLUSTER", "INFO"]);
                let replication: String = node.command(&["INFO", "replication"]);
                state.contains("cluster_state:ok")
                    && (replication.contains("role:master")
                        || replication.contains("link_status:up"))
            })
            .await;
        // Every node must know who leads by now, so that a client may begin with any of them.
        cluster
            .wait_for_all("every node to know the replicas", |node| {
                let known: String = node.command(&["CLUSTER", "NODES"]);
                known.lines().filter(|line| line.contains("slave")).count() == 3
            })
            .await;
        cluster
    }

    async fn wait_for_all(&self, description: &str, is_so: impl Fn(&RedisServer) -> bool) {
        wait_for(description, || self.nodes.iter().all(&is_so).then_some(())).await;
    }

    /// The number of the primary that a key belongs to at first.
    pub fn primary_of(&self, key: &str) -> usize {
        (self.slot_of(key) / 5461).min(2)
    }

    pub fn slot_of(&self, key: &str) -> usize {
        self.nodes[0].command(&["CLUSTER", "KEYSLOT", key])
    }
}
