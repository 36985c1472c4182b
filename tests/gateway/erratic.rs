//! A provider that does something else with each request, and knows what it has read and what it has confirmed.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One thing that it does.
#[derive(Clone)]
pub enum Step {
    /// Writes these bytes.
    Say(Vec<u8>),
    /// Writes these bytes one by one, so far apart.
    Drip(Vec<u8>, Duration),
    /// Writes these bytes again and again until nobody reads them any more.
    Endless(Vec<u8>),
    /// Waits until the other side has closed.
    Silence,
    /// Closes; with bytes that it has not read, this resets the connection.
    Close,
}

/// How much of a request it reads before that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    Nothing,
    /// So many bytes, which are fewer than there are.
    Some(usize),
    All,
}

/// What it does with one request.
#[derive(Clone)]
pub struct Play {
    pub name: String,
    pub reads: Reads,
    pub steps: Vec<Step>,
    /// Whether it says as documented that the picture was deleted.
    pub confirms: bool,
}

impl Play {
    pub fn new(name: &str, steps: Vec<Step>) -> Self {
        Self { name: name.to_owned(), reads: Reads::All, steps, confirms: false }
    }

    pub fn confirming(self) -> Self {
        Self { confirms: true, ..self }
    }

    pub fn reading(self, reads: Reads) -> Self {
        Self { reads, ..self }
    }
}

/// What it knows, by group.
#[derive(Default)]
pub struct Knowledge {
    /// The heads of deletions, whether it has read them or only seen that they are there.
    pub heads: HashMap<u64, usize>,
    /// Of these it has read something.
    pub read: HashSet<u64>,
    /// These it has told that they are deleted, to the last byte.
    pub confirmed: HashSet<u64>,
    /// Heads that are no deletion of ours.
    pub strange: Vec<String>,
}

type Choice = Box<dyn Fn(u64) -> Play + Send + Sync>;

struct Shared {
    choose: Choice,
    knowledge: Mutex<Knowledge>,
    connections: AtomicUsize,
    is_away: AtomicBool,
}

pub struct Erratic {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// The group in the head of a deletion.
fn group(head: &str) -> Option<u64> {
    let rest = head.strip_prefix("DELETE /sess1/groups/")?;
    rest.split_once("@g.us/picture HTTP/1.1\r\n")?.0.parse().ok()
}

/// Waits until a whole head is there, and reads nothing of it.
fn head(stream: &TcpStream) -> Option<String> {
    let mut buffer = [0; 8192];
    let mut before = 0;
    loop {
        let there = stream.peek(&mut buffer).ok().filter(|there| *there > 0)?;
        let bytes = buffer.get(..there)?;
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            return Some(String::from_utf8_lossy(&bytes[..end + 4]).into_owned());
        }
        // Its end may never come: whoever sends heads in pieces may go between two of them.
        if there == before {
            std::thread::sleep(Duration::from_millis(1));
        }
        before = there;
    }
}

/// Does one step; whether it was done to its end and the connection is still there.
fn act(stream: &mut TcpStream, step: &Step) -> bool {
    let mut buffer = [0; 4096];
    match step {
        Step::Say(bytes) => stream.write_all(bytes).is_ok(),
        Step::Drip(bytes, apart) => bytes.iter().all(|byte| {
            std::thread::sleep(*apart);
            stream.write_all(&[*byte]).is_ok()
        }),
        Step::Endless(bytes) => {
            let many = bytes.repeat(1 + 16 * 1024 / bytes.len());
            while stream.write_all(&many).is_ok() {}
            false
        }
        Step::Silence => {
            while let Ok(1..) = stream.read(&mut buffer) {}
            false
        }
        Step::Close => false,
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        while let Some(head) = head(&stream) {
            let group = group(&head);
            let play = (self.choose)(group.unwrap_or(0));
            {
                let mut knowledge = self.knowledge.lock().unwrap();
                match group {
                    Some(group) => *knowledge.heads.entry(group).or_default() += 1,
                    None => knowledge.strange.push(head.clone()),
                }
                if let (Some(group), true) = (group, play.reads != Reads::Nothing) {
                    knowledge.read.insert(group);
                }
            }
            let read = match play.reads {
                Reads::Nothing => 0,
                Reads::Some(bytes) => bytes.min(head.len() - 1),
                Reads::All => head.len(),
            };
            if stream.read_exact(&mut vec![0; read]).is_err() {
                return;
            }
            // Told before it is said: whoever hears it may look at once.
            if let (Some(group), true) = (group, play.confirms) {
                self.knowledge.lock().unwrap().confirmed.insert(group);
            }
            if !play.steps.iter().all(|step| act(&mut stream, step)) {
                let _ = stream.shutdown(Shutdown::Write);
                return;
            }
        }
    }
}

impl Erratic {
    /// Chooses by the number of the group.
    pub fn start(choose: impl Fn(u64) -> Play + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            choose: Box::new(choose),
            knowledge: Mutex::default(),
            connections: AtomicUsize::new(0),
            is_away: AtomicBool::new(false),
        });
        let ours = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut listener = Some(listener);
            loop {
                // Away: nobody listens there.
                while ours.is_away.load(Ordering::SeqCst) {
                    listener = None;
                    std::thread::sleep(Duration::from_millis(1));
                }
                let listening = listener.get_or_insert_with(|| TcpListener::bind(address).unwrap());
                let Ok((stream, _)) = listening.accept() else { continue };
                let ours = Arc::clone(&ours);
                ours.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    ours.serve(stream);
                    ours.connections.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on nobody listens at its address, or somebody does again.
    pub fn be_away(&self, is_away: bool) {
        self.shared.is_away.store(is_away, Ordering::SeqCst);
        // Its thread waits for a connection.
        drop(TcpStream::connect(self.address));
    }

    /// How many connections it has.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn with<T>(&self, look: impl FnOnce(&Knowledge) -> T) -> T {
        look(&self.shared.knowledge.lock().unwrap())
    }
}
