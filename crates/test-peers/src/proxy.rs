//! Between the function and its Redis: a proxy that does to their sockets what networks do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::io::tcp::socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything is passed on.
    Pass,
    /// Connections are accepted, and what comes is swallowed.
    Silent,
    /// This many bytes of what is asked next, and then nothing; replies are passed on.
    Hears(usize),
    /// This many bytes of the next replies, and then nothing.
    Part(usize),
    /// This many bytes of the next replies, and then a reset.
    Reset(usize),
    /// Each reply this much later.
    Late(Duration),
    /// The next reply this much later, those after it at once.
    LateOnce(Duration),
}

pub struct Proxy {
    port: u16,
    mode: Arc<Mutex<Mode>>,
}

impl Proxy {
    /// A proxy before the server on this port; it ends with the test's runtime.
    pub async fn before(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(Mutex::new(Mode::Pass));
        let shared = Arc::clone(&mode);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(pass(client, server_port, Arc::clone(&shared)));
            }
        });
        Self { port, mode }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }
}

/// Passes on between the two until one of them ends, or the mode says otherwise. Whatever the mode says
/// later, a stream of which something is lost has nothing after that: no network leaves out its middle.
async fn pass(mut client: TcpStream, server_port: u16, mode: Arc<Mutex<Mode>>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server_port)).await else { return };
    let (mut asked, mut replied) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let (mut asked_is_cut, mut replied_is_cut) = (false, false);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                let heard = {
                    let mut mode = mode.lock().unwrap();
                    match &mut *mode {
                        Mode::Silent => 0,
                        _ if asked_is_cut => 0,
                        Mode::Hears(left) => {
                            let heard = read.min(*left);
                            *left -= heard;
                            heard
                        }
                        _ => read,
                    }
                };
                asked_is_cut |= heard < read;
                if server.write_all(&asked[..heard]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut replied) => {
                let Ok(read @ 1..) = read else { return };
                let reply = &replied[..read];
                let now = *mode.lock().unwrap();
                let part = match now {
                    Mode::Silent => &[],
                    _ if replied_is_cut => &[],
                    Mode::Pass | Mode::Hears(_) => reply,
                    Mode::Part(length) | Mode::Reset(length) => &reply[..length.min(read)],
                    Mode::Late(by) => {
                        tokio::time::sleep(by).await;
                        reply
                    }
                    Mode::LateOnce(by) => {
                        *mode.lock().unwrap() = Mode::Pass;
                        tokio::time::sleep(by).await;
                        reply
                    }
                };
                replied_is_cut |= part.len() < read;
                if client.write_all(part).await.is_err() {
                    return;
                }
                if let Mode::Reset(_) = now {
                    // With nothing to linger for, closing is a reset.
                    let _ = client.set_zero_linger();
                    return;
                }
            }
        }
    }
}

/// A host that swallows packets: its queue of connections is full, so the kernel ignores new ones.
pub struct BlackHole {
    listener: Socket,
    _queued: Vec<Socket>,
}

impl BlackHole {
    pub fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address: SockAddr = listener.local_addr().unwrap();
        let queued = (0..4)
            .map(|_| {
                let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                client.set_nonblocking(true).unwrap();
                // In progress, for ever.
                let _ = client.connect(&address);
                client
            })
            .collect();
        Self { listener, _queued: queued }
    }

    pub fn url(&self) -> String {
        let address = self.listener.local_addr().unwrap().as_socket().unwrap();
        format!("redis://{address}")
    }
}
