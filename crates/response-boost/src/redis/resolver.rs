//! Name look-up, one at a time.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::settings::Address;

/// Looks names up on a thread, as the system's resolver wants it.
///
/// Such a look-up cannot be cancelled: while a resolver is silent, each new one would hold one more
/// thread for as long as the system is patient. So there is one, and who comes later waits for it.
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
    /// Where a name leads now: one address or more.
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
