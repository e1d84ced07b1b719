//! A proxy between the function and its Redis that makes their sockets fail as networks do.

use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::io::tcp::socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Accepts connections, and swallows whatever arrives.
    Silent,
    /// Passes on this many bytes of the next requests, then nothing. Passes replies on.
    Hears(usize),
    /// Passes on this many bytes of the next replies, then nothing.
    Part(usize),
    /// Passes on this many bytes of the next replies, then resets the connection.
    Reset(usize),
    /// Delays each reply by this much.
    Late(Duration),
    /// Delays the next reply by this much, and no later one.
    LateOnce(Duration),
    /// Closes all connections, as if the server were gone.
    Closed,
    /// Loses the next reply and its connection; passes later traffic on.
    ResetOnce,
    /// Sends replies at this many bytes per second.
    Slow(u32),
    /// Delays the next conditional `SET` (`NX`) by this much, and closes its connection at once, so that its client
    /// gets no reply. Passes later traffic on.
    ClaimLate(Duration),
}

pub struct Proxy {
    port: u16,
    mode: Arc<Mutex<Mode>>,
    server_port: Arc<AtomicU16>,
    accepted: Arc<AtomicUsize>,
    late: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts a proxy for the server on this port. It ends with the test's runtime.
    pub async fn before(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            mode: Arc::new(Mutex::new(Mode::Pass)),
            server_port: Arc::new(server_port.into()),
            accepted: Arc::default(),
            late: Arc::default(),
        };
        let late = Arc::clone(&proxy.late);
        let mode = Arc::clone(&proxy.mode);
        let (server_port, accepted) = (Arc::clone(&proxy.server_port), Arc::clone(&proxy.accepted));
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                let server_port = server_port.load(Ordering::SeqCst);
                tokio::spawn(pass(client, server_port, Arc::clone(&mode), Arc::clone(&late)));
            }
        });
        proxy
    }

    /// Connects new connections to this server; open ones stay.
    pub fn lead_to(&self, server_port: u16) {
        self.server_port.store(server_port, Ordering::SeqCst);
    }

    /// How many connections the proxy has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn mode(&self) -> Mode {
        *self.mode.lock().unwrap()
    }

    /// Whether no delayed claim of a disconnected client is still on its way.
    pub fn is_idle(&self) -> bool {
        self.late.load(Ordering::SeqCst) == 0
    }

    pub fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }
}

/// Passes data on between the two until one side ends or the mode says otherwise. Once a stream has lost data it
/// carries no more, whatever later modes say: no network drops the middle of a stream.
async fn pass(
    mut client: TcpStream,
    server_port: u16,
    mode: Arc<Mutex<Mode>>,
    late: Arc<AtomicUsize>,
) {
    if *mode.lock().unwrap() == Mode::Closed {
        return;
    }
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
                        Mode::Silent | Mode::Closed => 0,
                        _ if asked_is_cut => 0,
                        Mode::Hears(left) => {
                            let heard = read.min(*left);
                            *left -= heard;
                            heard
                        }
                        _ => read,
                    }
                };
                let claim_late = {
                    let mut mode = mode.lock().unwrap();
                    let is_claim = asked[..read].windows(6).any(|part| part == b"\r\nNX\r\n");
                    match *mode {
                        Mode::ClaimLate(by) if is_claim => {
                            late.fetch_add(1, Ordering::SeqCst);
                            *mode = Mode::Pass;
                            Some(by)
                        }
                        _ => None,
                    }
                };
                if let Some(by) = claim_late {
                    drop(client);
                    tokio::time::sleep(by).await;
                    let _ = server.write_all(&asked[..read]).await;
                    // Until the server has run the command.
                    let _ = server.read(&mut replied).await;
                    late.fetch_sub(1, Ordering::SeqCst);
                    return;
                }
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
                    Mode::Closed => return,
                    Mode::Silent => &[],
                    _ if replied_is_cut => &[],
                    Mode::Pass | Mode::Hears(_) | Mode::ClaimLate(_) => reply,
                    Mode::ResetOnce => {
                        *mode.lock().unwrap() = Mode::Pass;
                        let _ = client.set_zero_linger();
                        return;
                    }
                    Mode::Slow(bytes_a_second) => {
                        // In small steps, like a slow link.
                        for part in reply.chunks(usize::try_from(bytes_a_second / 100).unwrap()) {
                            if client.write_all(part).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                        continue;
                    }
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
                    // With zero linger, closing resets the connection.
                    let _ = client.set_zero_linger();
                    return;
                }
            }
        }
    }
}

/// A host that swallows packets: its accept queue is full, so the kernel ignores new connections.
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
                // This connection stays in progress forever.
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
