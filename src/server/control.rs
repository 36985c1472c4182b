//! `control.sock` in the ledger's folder: how commands reach the process that serves. One line of JSON asks, one answers,
//! and the connection ends.
//!
//! Only the same user and root are heard; the system says who it is. A socket's path ends at 107 bytes, so it is reached
//! through a descriptor of its folder. A verb is a variant of [`Verb`] and an arm of [`Reach::obey`].

mod client;

pub use client::{NotHeard, ask};

use crate::clock::Timestamp;
use crate::gateway::Gateway;
use crate::gateway::brake::{Status, Stopped};
use crate::id::RequestId;
use crate::ledger::NotRecorded;
use crate::ledger::freeze::{Covers, Freeze};
use crate::ledger::prune::{Order, Prune, Stage};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const NAME: &str = "control.sock";
/// The longest question.
const LINE_AT_MOST: u64 = 16 * 1024;
/// The longest answer: a request id takes 39 bytes of it.
const ANSWER_AT_MOST: u64 = 64 * 1024 * 1024;
/// How long one side waits for a line of the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many are heard at once; more wait.
const SEATS: usize = 8;
/// After an error of the listener: no descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

/// What can be asked of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verb {
    /// Prune the ledger before a time (RFC 3339). Answered at once: it is only begun.
    Prune {
        /// The time.
        before: String,
    },
    /// How far the prune is.
    Pruning,
    /// Stop what this covers. Answered when it is recorded.
    Freeze {
        /// What.
        covers: Covers,
        /// Until then; without it until somebody unfreezes.
        until: Option<Timestamp>,
        /// Why.
        reason: String,
    },
    /// Take back the freeze that covers just this.
    Unfreeze {
        /// What.
        covers: Covers,
        /// Why.
        reason: String,
    },
    /// Which of the requests that this covers have no outcome yet.
    Covered {
        /// What.
        covers: Covers,
    },
    /// How the process stands.
    Status,
}

/// What the process says to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "is", rename_all = "kebab-case")]
pub enum Said {
    /// How far the prune is.
    Pruning(Stage),
    /// It is frozen.
    Stopped(Stopped),
    /// It is not frozen any more.
    Unfrozen {
        /// It was.
        any: bool,
    },
    /// Requests without an outcome.
    Open {
        /// Theirs.
        open: Vec<RequestId>,
    },
    /// How the process stands.
    Status(Box<Status>),
    /// No, in words.
    No(String),
}

impl Said {
    /// How far the prune is, if that is what was said.
    #[must_use]
    pub fn pruning(self) -> Option<Stage> {
        if let Self::Pruning(stage) = self { Some(stage) } else { None }
    }

    /// What was stopped, if that is what was said.
    #[must_use]
    pub fn stopped(self) -> Option<Stopped> {
        if let Self::Stopped(stopped) = self { Some(stopped) } else { None }
    }

    /// Whether it had been frozen, if that is what was said.
    #[must_use]
    pub fn unfrozen(self) -> Option<bool> {
        if let Self::Unfrozen { any } = self { Some(any) } else { None }
    }

    /// The requests without an outcome, if that is what was said.
    #[must_use]
    pub fn open(self) -> Option<Vec<RequestId>> {
        if let Self::Open { open } = self { Some(open) } else { None }
    }

    /// How the process stands, if that is what was said.
    #[must_use]
    pub fn status(self) -> Option<Status> {
        if let Self::Status(status) = self { Some(*status) } else { None }
    }
}

/// What the verbs act on.
#[derive(Clone)]
pub struct Reach {
    /// The store.
    pub store: Arc<dyn Prune>,
    /// The path.
    pub gateway: Arc<Gateway>,
}

impl Reach {
    /// Does it and says what came of it. What it waits for has to end within the time in which an answer is waited for.
    async fn obey(&self, verb: Verb, user: u32) -> Said {
        match verb {
            Verb::Prune { before } => match Timestamp::parse(&before) {
                None => Said::No(format!("`{}` is no time", before.escape_debug())),
                Some(before) => match self.store.prune(Order {
                    before,
                    by: by(user),
                    longest_budget: self.gateway.longest_budget(),
                }) {
                    Ok(()) => Said::Pruning(self.store.pruning()),
                    Err(_) => Said::No("another prune is under way; try again when it is done".to_owned()),
                },
            },
            Verb::Pruning => Said::Pruning(self.store.pruning()),
            Verb::Freeze { covers, until, reason } => {
                let freeze = Freeze { covers, until, reason, by: by(user) };
                self.gateway.freeze(freeze).await.map_or_else(|NotRecorded| not_recorded(), Said::Stopped)
            }
            Verb::Unfreeze { covers, reason } => {
                let unfrozen = self.gateway.unfreeze(covers, reason, by(user)).await;
                unfrozen.map_or_else(|NotRecorded| not_recorded(), |any| Said::Unfrozen { any })
            }
            Verb::Covered { covers } => {
                let open = self.gateway.ledger.covered(covers).await;
                open.map_or_else(not_recorded, |open| Said::Open { open })
            }
            Verb::Status => Said::Status(Box::new(self.gateway.status().await)),
        }
    }
}

fn not_recorded() -> Said {
    Said::No("the ledger takes no entries now; the log of the process that serves says why".to_owned())
}

/// A user of this machine, as entries name one.
#[must_use]
pub fn by(user: u32) -> String {
    format!("uid {user}")
}

/// The folder, as a path that is short whatever the folder's own is. Good while the file is open.
fn short(folder: &Path) -> io::Result<(File, PathBuf)> {
    use std::os::fd::AsRawFd;
    let folder = File::open(folder)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()));
    Ok((folder, path))
}

/// The process's end of it. Gone with this value.
pub struct Control {
    listener: UnixListener,
    _folder: File,
    path: PathBuf,
}

impl Control {
    /// Listens in the folder of a ledger that this process holds: what an earlier process left there is replaced.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(folder: &Path) -> io::Result<Self> {
        let (folder, path) = short(folder)?;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        Ok(Self { listener: UnixListener::bind(&path)?, _folder: folder, path })
    }

    /// Answers until `stop`.
    pub async fn run(self, reach: Reach, stop: CancellationToken) {
        let (seats, tasks) = (Arc::new(Semaphore::new(SEATS)), TaskTracker::new());
        loop {
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
            let stream = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match stream {
                Ok((stream, _)) => {
                    let reach = reach.clone();
                    tasks.spawn(async move {
                        // Whoever is too slow, or has gone, is not answered.
                        let _ = tokio::time::timeout(PATIENCE, answer(stream, &reach)).await;
                        drop(seat);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket accepts nothing now");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(stream: UnixStream, reach: &Reach) -> io::Result<()> {
    let user = stream.peer_cred()?.uid();
    let (from, mut to) = stream.into_split();
    let said = if user == 0 || user == rustix::process::geteuid().as_raw() {
        let mut line = Vec::new();
        BufReader::new(from.take(LINE_AT_MOST)).read_until(b'\n', &mut line).await?;
        match serde_json::from_slice::<Verb>(&line) {
            Ok(verb) => {
                tracing::debug!(?verb, user, "asked over the control socket");
                reach.obey(verb, user).await
            }
            Err(error) => Said::No(format!("this process does not know what it is asked: {error}")),
        }
    } else {
        Said::No("only the user that serves, and root, may ask".to_owned())
    };
    let mut line = serde_json::to_vec(&said)?;
    line.push(b'\n');
    to.write_all(&line).await
}
