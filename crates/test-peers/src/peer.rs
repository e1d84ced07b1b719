//! One server or a cluster, for tests that run over either.

use crate::cluster::Cluster;
use crate::redis::RedisServer;

/// The Redis that the processes of a test share.
pub enum Peer {
    Server(RedisServer),
    Cluster(Box<Cluster>),
}

impl Peer {
    /// The URL for clients; in a cluster, that of its first node.
    pub fn url(&self) -> String {
        match self {
            Self::Server(server) => server.url(),
            Self::Cluster(cluster) => cluster.url(0),
        }
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    pub fn nodes(&self) -> &[RedisServer] {
        match self {
            Self::Server(server) => std::slice::from_ref(server),
            Self::Cluster(cluster) => &cluster.nodes,
        }
    }

    /// Deletes a key by hand, as an operator would.
    pub fn delete(&self, key: &str) {
        let node = match self {
            Self::Server(server) => server,
            Self::Cluster(cluster) => &cluster.nodes[cluster.primary_of(key)],
        };
        node.command::<()>(&["DEL", key]);
    }
}
