//! Name look-up, one at a time.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use redis::{ErrorKind, RedisError, RedisFuture};
use tokio::sync::Semaphore;

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

impl redis::io::AsyncDNSResolver for Resolver {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            if let Ok(address) = host.parse::<IpAddr>() {
                let found = std::iter::once(SocketAddr::new(address, port));
                return Ok(Box::new(found) as Box<dyn Iterator<Item = SocketAddr> + Send>);
            }
            let gone = || RedisError::from((ErrorKind::Client, "the process is ending"));
            let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| gone())?;
            let host = host.to_owned();
            let look_up = tokio::task::spawn_blocking(move || {
                let found = (host, port).to_socket_addrs();
                drop(turn);
                found
            });
            let found = look_up.await.map_err(|_| gone())??;
            Ok(Box::new(found) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}
