//! Stands between the replicas and their database, and cuts a connection in the middle of a commit: before the server
//! has seen it, or after it was done and before anybody heard of it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where the next commit of a writer is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The server never sees COMMIT: what was to be written is not there.
    Before,
    /// The server has committed: what was to be written is there, and its answer is gone.
    After,
    /// The replica is cut off at once, and the server gets the commit a second later: whoever looks in between has to
    /// wait for it.
    Late,
}

const COMMIT: &[u8] = b"COMMIT\0";
/// The kind of the message and its length, which stand before the text of a simple query.
const HEADER: usize = 5;

#[derive(Default)]
struct Orders {
    next: Mutex<Option<Cut>>,
    cuts: AtomicUsize,
    connections: Mutex<Vec<TcpStream>>,
}

pub struct Wedge {
    pub port: u16,
    orders: Arc<Orders>,
}

fn find(bytes: &[u8]) -> Option<usize> {
    bytes.windows(COMMIT.len()).position(|window| window == COMMIT)
}

fn end(one: &TcpStream, other: &TcpStream) {
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}

/// From the replica to the server.
fn forth(orders: &Orders, mut client: TcpStream, mut server: TcpStream, swallow: &AtomicBool) {
    let (mut buffer, mut is_writer) = (vec![0; 256 * 1024], false);
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        let bytes = &buffer[..count];
        is_writer |= bytes.windows(21).any(|window| window == b"wasend-gateway writer");
        if is_writer && let Some(at) = find(bytes) {
            let order = orders.next.lock().unwrap().take();
            match order {
                Some(Cut::Before) => {
                    let _ = server.write_all(&bytes[..at.saturating_sub(HEADER)]);
                    orders.cuts.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                Some(Cut::After) => swallow.store(true, Ordering::SeqCst),
                Some(Cut::Late) => {
                    swallow.store(true, Ordering::SeqCst);
                    let _ = client.shutdown(Shutdown::Both);
                    std::thread::sleep(Duration::from_secs(1));
                }
                None => {}
            }
        }
        if server.write_all(bytes).is_err() {
            break;
        }
    }
    // What the server still has to say after a commit is waited for by the other side.
    if !swallow.load(Ordering::SeqCst) {
        end(&client, &server);
    }
}

/// From the server to the replica.
fn back(orders: &Orders, mut server: TcpStream, mut client: TcpStream, swallow: &AtomicBool) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        let bytes = &buffer[..count];
        if swallow.load(Ordering::SeqCst) {
            if find(bytes).is_some() {
                orders.cuts.fetch_add(1, Ordering::SeqCst);
                break;
            }
        } else if client.write_all(bytes).is_err() {
            break;
        }
    }
    end(&client, &server);
}

impl Wedge {
    /// In front of the server on this port of loopback.
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wedge = Self { port: listener.local_addr().unwrap().port(), orders: Arc::default() };
        let (orders, to) = (Arc::clone(&wedge.orders), SocketAddr::from(([127, 0, 0, 1], port)));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(to) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                orders.connections.lock().unwrap().push(client.try_clone().unwrap());
                let swallow = Arc::new(AtomicBool::new(false));
                let (there, here) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let (one, other) = (Arc::clone(&orders), Arc::clone(&orders));
                let shared = Arc::clone(&swallow);
                std::thread::spawn(move || forth(&one, client, there, &shared));
                std::thread::spawn(move || back(&other, server, here, &swallow));
            }
        });
        wedge
    }

    /// Cuts the next commit of a writer.
    pub fn cut_next(&self, cut: Cut) {
        *self.orders.next.lock().unwrap() = Some(cut);
    }

    /// How many commits have been cut.
    pub fn cuts(&self) -> usize {
        self.orders.cuts.load(Ordering::SeqCst)
    }

    /// Cuts every connection that there is.
    pub fn cut_all(&self) {
        for connection in std::mem::take(&mut *self.orders.connections.lock().unwrap()) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}
