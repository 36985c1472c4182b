//! A provider that keeps every byte it read and plays what it is told.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How to answer one request.
#[derive(Clone)]
pub enum Reply {
    /// These bytes.
    Raw(Vec<u8>),
    /// These bytes, then close.
    RawThenClose(Vec<u8>),
    /// A JSON answer with its own framing.
    Json(u16, &'static str),
    /// Close when the request is read.
    HangUp,
    /// Close when the request is there, and read nothing of it.
    HangUpUnread,
    /// Nothing, until the other side gives up.
    Silent,
    /// A success after this long.
    Late(Duration),
    /// A success as soon as this is set.
    When(Arc<AtomicBool>),
    /// A JSON answer as soon as this is set.
    JsonWhen(u16, Arc<AtomicBool>),
    /// `103` again and again from when the first is set until the second is; then close.
    Flood([Arc<AtomicBool>; 2]),
}

#[derive(Default)]
struct Memory {
    heads: Mutex<Vec<String>>,
    script: Mutex<VecDeque<Reply>>,
    bytes: AtomicUsize,
    connections: AtomicUsize,
    accepted: AtomicUsize,
    floods: AtomicUsize,
}

impl Memory {
    fn hangs_up_unread(&self) -> bool {
        let mut script = self.script.lock().unwrap();
        let unread = matches!(script.front(), Some(Reply::HangUpUnread));
        if unread {
            script.pop_front();
        }
        unread
    }
}

pub struct Provider {
    address: SocketAddr,
    memory: Arc<Memory>,
}

fn json(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nset-cookie: a=b\r\nserver: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn wait(set: &AtomicBool) {
    while !set.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn connection(memory: &Memory, mut stream: TcpStream) {
    let mut arrived = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some(end) = arrived.windows(4).position(|w| w == b"\r\n\r\n") {
            let head: Vec<u8> = arrived.drain(..end + 4).collect();
            memory.heads.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
            let reply = memory.script.lock().unwrap().pop_front();
            let sent = match reply.unwrap_or(Reply::Json(200, "{\"success\": true}")) {
                Reply::Raw(bytes) => stream.write_all(&bytes),
                Reply::Json(status, body) => stream.write_all(&json(status, body)),
                Reply::RawThenClose(bytes) => {
                    let _ = stream.write_all(&bytes);
                    return;
                }
                Reply::HangUp | Reply::HangUpUnread => return,
                Reply::Silent => {
                    let _ = stream.read(&mut buffer);
                    return;
                }
                Reply::When(set) => {
                    wait(&set);
                    stream.write_all(&json(200, "{\"success\": true}"))
                }
                Reply::JsonWhen(status, set) => {
                    wait(&set);
                    stream.write_all(&json(status, "{}"))
                }
                Reply::Flood([begin, end]) => {
                    wait(&begin);
                    memory.floods.fetch_add(1, Ordering::SeqCst);
                    let many = b"HTTP/1.1 103 E\r\n\r\n".repeat(1024);
                    while !end.load(Ordering::SeqCst) && stream.write_all(&many).is_ok() {}
                    memory.floods.fetch_sub(1, Ordering::SeqCst);
                    return;
                }
                Reply::Late(span) => {
                    std::thread::sleep(span);
                    stream.write_all(&json(200, "{\"success\": true}"))
                }
            };
            if sent.is_err() {
                return;
            }
        }
        if matches!(stream.peek(&mut buffer), Ok(1..)) && memory.hangs_up_unread() {
            return;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                memory.bytes.fetch_add(count, Ordering::SeqCst);
                arrived.extend_from_slice(&buffer[..count]);
            }
        }
    }
}

impl Provider {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let memory = Arc::new(Memory::default());
        let shared = Arc::clone(&memory);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let memory = Arc::clone(&shared);
                memory.accepted.fetch_add(1, Ordering::SeqCst);
                memory.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    connection(&memory, stream);
                    memory.connections.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, memory }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next request is answered so.
    pub fn next(&self, reply: Reply) {
        self.memory.script.lock().unwrap().push_back(reply);
    }

    pub fn heads(&self) -> Vec<String> {
        self.memory.heads.lock().unwrap().clone()
    }

    /// The targets of the deletions since this was last asked.
    pub fn take_targets(&self) -> Vec<String> {
        let heads = std::mem::take(&mut *self.memory.heads.lock().unwrap());
        let deletions = heads.iter().filter_map(|head| head.strip_prefix("DELETE "));
        deletions.map(|rest| rest.split(' ').next().unwrap_or_default().to_owned()).collect()
    }

    /// How many connections it has; none once a dead process's last bytes have been read.
    pub fn connections(&self) -> usize {
        self.memory.connections.load(Ordering::SeqCst)
    }

    /// How many connections it has had.
    pub fn accepted(&self) -> usize {
        self.memory.accepted.load(Ordering::SeqCst)
    }

    /// How many floods are on.
    pub fn floods(&self) -> usize {
        self.memory.floods.load(Ordering::SeqCst)
    }

    pub fn bytes(&self) -> usize {
        self.memory.bytes.load(Ordering::SeqCst)
    }
}
