//! Every fault of Redis, in every topology, in a process that runs between two requests and in one that is frozen: at
//! most five requests after the fault, a request is a hit.

use std::time::Duration;

use redis::Connection;
use response_boost::RedisSettings;
use test_peers::cluster::{Cluster, Shape};
use test_peers::redis::{RedisServer, info, send};
use test_peers::tls::TlsServer;
use test_peers::wait_for;
use tokio::runtime::Runtime;

use crate::environment::{Between, Environment, NAMESPACE, key};

/// How long a request waits for a connection and for a reply: so long that a busy machine does not look like a fault.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The pause between two requests: longer than the breaker's first step, so that this step alone refuses no request.
const PAUSE: Duration = Duration::from_millis(120);
/// How many requests it may take after a fault until one is a hit.
const REQUESTS: usize = 5;

enum Peers {
    One(RedisServer),
    Tls(TlsServer),
    Cluster(Cluster),
}

/// Servers, and a key on one of them: if possible, not on the one that the settings name.
struct Deployment {
    peers: Peers,
    name: String,
    runtime: Runtime,
}

impl Deployment {
    fn new(start: impl AsyncFnOnce() -> Peers) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let peers = runtime.block_on(start());
        let name = match &peers {
            Peers::Cluster(cluster) => {
                let mut names = (0..).map(|number: u32| number.to_string());
                let of_the_last = |name: &String| {
                    cluster.primary_of(key(name).as_str()) + 1 == cluster.primaries()
                };
                names.find(of_the_last).unwrap()
            }
            _ => "a".to_owned(),
        };
        let deployment = Self { peers, name, runtime };
        for server in deployment.servers() {
            // The rights that the template grants; Redis would deny any other command of the library.
            let rights = "-@all +get +set +del +eval +evalsha +type +getrange +mget +pttl +cluster|slots +asking";
            let user = format!("ACL SETUSER app on >pw ~{NAMESPACE}:* {rights}");
            server.command::<()>(&user.split(' ').collect::<Vec<_>>());
        }
        deployment
    }

    fn servers(&self) -> Vec<&RedisServer> {
        match &self.peers {
            Peers::One(server) => vec![server],
            Peers::Tls(server) => vec![&server.redis],
            Peers::Cluster(cluster) => cluster.nodes.iter().collect(),
        }
    }

    fn settings(&self) -> RedisSettings {
        let (url, ca, is_cluster) = match &self.peers {
            Peers::One(server) => (server.url(), None, false),
            Peers::Tls(server) => (server.url(), Some(server.files.ca.pem.as_str()), false),
            Peers::Cluster(cluster) => (cluster.url(0), cluster.ca_pem(), true),
        };
        let mut settings = RedisSettings::parse(&url.replace("://", "://app:pw@")).unwrap();
        if let Some(pem) = ca {
            settings = settings.with_own_ca(pem.as_bytes()).unwrap();
        }
        if is_cluster {
            settings = settings.with_cluster();
        }
        settings.with_connect_timeout(TIMEOUT).with_response_timeout(TIMEOUT)
    }

    fn on_all(&self, command: &[&str]) {
        for server in self.servers() {
            server.command::<redis::Value>(command);
        }
    }

    fn close_connections(&self) {
        self.on_all(&["CLIENT", "KILL", "USER", "app"]);
    }

    fn kill(&mut self) {
        match &mut self.peers {
            Peers::One(server) => server.kill(),
            Peers::Tls(server) => server.redis.kill(),
            Peers::Cluster(cluster) => cluster.nodes.iter_mut().for_each(RedisServer::kill),
        }
    }

    fn restart(&mut self) {
        self.runtime.block_on(async {
            match &mut self.peers {
                Peers::One(server) => server.restart().await,
                Peers::Tls(server) => server.redis.restart().await,
                Peers::Cluster(cluster) => {
                    for node in &mut cluster.nodes {
                        node.restart().await;
                    }
                    cluster.wait_until_ready().await;
                }
            }
        });
        let password = "ACL SETUSER app on resetpass >pw ~* +@all";
        self.on_all(&password.split(' ').collect::<Vec<_>>());
    }

    /// Connections of the test, for a time when no new ones can be opened.
    fn connections(&self) -> Vec<Connection> {
        self.servers().into_iter().map(RedisServer::connect).collect()
    }

    fn warm(&self, between: Between) -> Environment {
        let environment = Environment::new(self.settings(), between);
        environment.requests_until_hit(&self.name, PAUSE);
        environment
    }

    /// Asserts that, after the fault, it takes at most this many requests until one is a hit.
    fn assert_back(&self, environment: &Environment, fault: &str, within: usize) {
        // The breaker counts the time between two requests.
        environment.pause(PAUSE);
        let seen = environment.requests_until_hit(&self.name, PAUSE);
        assert!(seen.len() <= within, "{fault}, {:?}: {seen:?}", environment.between());
    }

    fn run(&mut self) {
        for between in [Between::Running, Between::Frozen] {
            self.closed_connections(between);
            self.hiccup(between);
            self.another_password(between);
            self.no_room_for_another_client(between);
            self.no_right_to_read(between);
            self.no_memory(between);
            self.a_script_that_runs(between);
            self.restart_of_all(between);
            self.death_of_all(between);
        }
        self.hiccup(Between::FrozenWithoutLayer);
    }

    fn closed_connections(&self, between: Between) {
        let environment = self.warm(between);
        for _ in 0..3 {
            self.close_connections();
            let status = environment.get(&self.name);
            assert!(status.starts_with("hit; "), "closed, {between:?}: {status}");
        }
    }

    fn hiccup(&self, between: Between) {
        let environment = self.warm(between);
        for server in self.servers() {
            server.signal("STOP");
        }
        let status = environment.get(&self.name);
        assert_eq!(status, "fwd=bypass; detail=redis-timeout", "{between:?}");
        assert_eq!(environment.get(&self.name), "fwd=bypass; detail=breaker-open");
        for server in self.servers() {
            server.signal("CONT");
        }
        self.assert_back(&environment, "hiccup", REQUESTS);
    }

    fn another_password(&self, between: Between) {
        let environment = self.warm(between);
        self.on_all(&["ACL", "SETUSER", "app", "resetpass", ">another"]);
        self.close_connections();
        let status = environment.get(&self.name);
        assert_eq!(status, "fwd=bypass; detail=redis-auth", "{between:?}");
        self.assert_few_attempts(&environment);
        self.on_all(&["ACL", "SETUSER", "app", "resetpass", ">pw"]);
        self.assert_back_after_a_while(&environment, "another password");
    }

    fn no_room_for_another_client(&self, between: Between) {
        let environment = self.warm(between);
        let mut connections = self.connections();
        for connection in &mut connections {
            send::<()>(connection, &["CONFIG", "SET", "maxclients", "1"]);
            send::<redis::Value>(connection, &["CLIENT", "KILL", "USER", "app"]);
        }
        let rejected = |connections: &mut Vec<Connection>| -> u64 {
            connections.iter_mut().map(|connection| info(connection, "rejected_connections")).sum()
        };
        let before = rejected(&mut connections);
        for _ in 0..100 {
            let status = environment.get(&self.name);
            assert!(status.starts_with("fwd=bypass; detail="), "{between:?}: {status}");
        }
        let attempts = rejected(&mut connections) - before;
        assert!((1..=12).contains(&attempts), "{between:?}: {attempts}");
        for connection in &mut connections {
            send::<()>(connection, &["CONFIG", "SET", "maxclients", "1000"]);
        }
        self.assert_back_after_a_while(&environment, "no room");
    }

    fn no_right_to_read(&self, between: Between) {
        let environment = self.warm(between);
        self.on_all(&["ACL", "SETUSER", "app", "-get"]);
        for _ in 0..3 {
            let status = environment.get(&self.name);
            assert_eq!(status, "fwd=bypass; detail=redis-error", "{between:?}");
        }
        self.on_all(&["ACL", "SETUSER", "app", "+get"]);
        assert!(environment.get(&self.name).starts_with("hit; "), "at once: it is no outage");
    }

    fn no_memory(&self, between: Between) {
        let environment = self.warm(between);
        self.on_all(&["CONFIG", "SET", "maxmemory", "1"]);
        let other = format!("{}-{between:?}", self.name);
        let status = environment.get(&other);
        assert!(status.starts_with("fwd=uri-miss") && !status.contains("stored"), "{status}");
        assert!(environment.get(&self.name).starts_with("hit; "), "what is there can be read");
        self.on_all(&["CONFIG", "SET", "maxmemory", "0"]);
    }

    fn a_script_that_runs(&self, between: Between) {
        let environment = self.warm(between);
        self.on_all(&["CONFIG", "SET", "lua-time-limit", "1"]);
        let scripts: Vec<_> = self
            .connections()
            .into_iter()
            .map(|mut connection| {
                std::thread::spawn(move || {
                    let endless = redis::cmd("EVAL").arg("while true do end").arg(0).to_owned();
                    // Killed, or denied: a replica runs no script that could write.
                    endless.query::<()>(&mut connection).unwrap_err();
                })
            })
            .collect();
        let busy = loop {
            let status = environment.get(&self.name);
            if status.starts_with("fwd=bypass") {
                break status;
            }
        };
        assert_eq!(busy, "fwd=bypass; detail=redis-error", "{between:?}");
        for server in self.servers() {
            self.runtime.block_on(wait_for("the script to be killed", || {
                let client = redis::Client::open(server.operator_url()).ok()?;
                let mut connection = client.get_connection().ok()?;
                let killed = redis::cmd("SCRIPT").arg("KILL").query::<()>(&mut connection);
                let is_over = |error: redis::RedisError| error.code() == Some("NOTBUSY");
                (killed.is_ok() || killed.is_err_and(is_over)).then_some(())
            }));
        }
        for script in scripts {
            script.join().unwrap();
        }
        self.assert_back_after_a_while(&environment, "a script that runs");
    }

    fn restart_of_all(&mut self, between: Between) {
        let environment = self.warm(between);
        self.kill();
        self.restart();
        // The servers are empty, so it takes one more request.
        self.assert_back(&environment, "restart", REQUESTS + 1);
    }

    fn death_of_all(&mut self, between: Between) {
        let environment = self.warm(between);
        self.kill();
        let status = environment.get(&self.name);
        assert_eq!(status, "fwd=bypass; detail=redis-refused", "{between:?}");
        for _ in 0..10 {
            let status = environment.get(&self.name);
            assert_eq!(status, "fwd=bypass; detail=breaker-open", "{between:?}");
        }
        self.restart();
        self.assert_back_after_a_while(&environment, "death");
    }

    /// Each attempt to sign in costs the server a connection.
    fn assert_few_attempts(&self, environment: &Environment) {
        let mut connections = self.connections();
        let mut received = || -> u64 {
            connections
                .iter_mut()
                .map(|connection| info(connection, "total_connections_received"))
                .sum()
        };
        let before = received();
        for _ in 0..100 {
            environment.get(&self.name);
        }
        let attempts = received() - before;
        assert!(attempts <= 12, "{attempts}");
    }

    /// The same after a longer outage. It first waits for the breaker's current step, which is as long as all earlier
    /// ones together.
    fn assert_back_after_a_while(&self, environment: &Environment, fault: &str) {
        environment.pause(environment.age().min(Duration::from_secs(5)));
        self.assert_back(environment, fault, REQUESTS + 1);
    }
}

#[test]
fn one_server() {
    Deployment::new(async || Peers::One(RedisServer::start().await)).run();
}

#[test]
fn a_cluster_of_three() {
    let shape = Shape { primaries: 3, has_replicas: false, is_tls: false };
    Deployment::new(async || Peers::Cluster(Cluster::of(shape).await)).run();
}

/// In a module, so that `make test` can leave it out by name if the redis-server has no TLS.
mod tls {
    use super::*;

    #[test]
    fn one_server_behind_tls() {
        Deployment::new(async || Peers::Tls(TlsServer::good().await)).run();
    }

    /// As on ElastiCache Serverless.
    #[test]
    fn a_cluster_of_one_behind_tls() {
        let shape = Shape { primaries: 1, has_replicas: false, is_tls: true };
        Deployment::new(async || Peers::Cluster(Cluster::of(shape).await)).run();
    }

    #[test]
    fn a_cluster_of_three_with_replicas_behind_tls() {
        let shape = Shape { primaries: 3, has_replicas: true, is_tls: true };
        Deployment::new(async || Peers::Cluster(Cluster::of(shape).await)).run();
    }
}
