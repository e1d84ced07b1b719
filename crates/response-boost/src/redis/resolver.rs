//! Name lookup, one at a time.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::settings::Address;

/// Resolves names with the system's resolver, on a blocking thread.
///
/// Such a lookup cannot be cancelled. While a name server is silent, each new lookup would block another thread until
/// the system's timeout. So only one runs at a time, and later ones wait for it.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    turn: Arc<Semaphore>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Resolver {
    /// The addresses of a name, at least one.
    pub(super) async fn resolve(
        &self,
        Address { host, port }: &Address,
    ) -> io::Result<Vec<SocketAddr>> {
        let port = *port;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let gone = || io::Error::other("the process is ending");
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| gone())?;
        let host = host.clone();
        let look_up = tokio::task::spawn_blocking(move || {
            let found = (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
            drop(turn);
            found
        });
        let found = look_up.await.map_err(|_| gone())??;
        if found.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(found) }
    }
}
