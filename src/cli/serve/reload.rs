//! Reading files again: all of them when told to, and each when it has changed. A thread of its own, one thing after
//! the other.
//!
//! Files are looked at, not listened for: a look sees a file that was replaced, a link that was turned elsewhere
//! (Kubernetes mounts), a file on a disk of another machine, and it cannot miss anything for good. A changed file is
//! read once it has stayed the same from one look to the next, so that nobody is caught in the middle of writing.

use crate::cli::{Exit, page};
use crate::config::file::Seen;
use crate::config::{self, Config, Fault, Loaded};
use crate::failpoint;
use crate::gateway::{Gateway, KEY_FILE};
use crate::identity::Operators;
use crate::server::Certificate;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How long a file that cannot be used gets to become another one.
const SETTLE: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(20);
/// How often files that change while they are read are read again.
const TRIES: u32 = 25;
/// What could not be read is tried again after so many looks, though it has not changed.
const AGAIN: u32 = 10;
/// How often to look for what waits to be recorded, where no files are watched.
const UNWATCHED: Duration = Duration::from_secs(2);

/// Files that are read together.
struct Watched {
    /// As they were when they were read.
    read: Vec<Seen>,
    /// As they were at the last look.
    looked: Vec<Seen>,
    /// What was wrong with them, and how often they were looked at since.
    failed: Option<(String, u32)>,
}

impl Watched {
    fn new(files: Vec<Seen>) -> Self {
        Self { looked: files.clone(), read: files, failed: None }
    }

    fn of(files: &[&Path]) -> Self {
        Self::new(files.iter().map(|file| Seen::of(file)).collect())
    }

    fn look(&self) -> Vec<Seen> {
        self.read.iter().map(Seen::again).collect()
    }

    /// Looks at them. Whether they are to be read: they are other ones, and the same as at the last look.
    fn is_due(&mut self) -> bool {
        let now = self.look();
        let (changed, settled) = (now != self.read, now == self.looked);
        self.looked = now;
        let again = self.failed.as_mut().is_some_and(|(_, looks)| {
            *looks += 1;
            looks.is_multiple_of(AGAIN)
        });
        settled && (changed || again)
    }

    /// They were these when they were read, with this result. Whether it is worth a word: the same failure again is not.
    fn was_read(&mut self, files: Vec<Seen>, failure: Option<String>) -> bool {
        let news = failure.is_none() || self.failed.as_ref().map(|(what, _)| what) != failure.as_ref();
        (self.read, self.failed) = (files, failure.map(|what| (what, 0)));
        news
    }
}

/// A port's certificate, under its key in the configuration.
struct Port {
    key: &'static str,
    certificate: Arc<Certificate>,
    files: Watched,
}

/// What a reload reaches.
struct Reloading {
    file: PathBuf,
    /// Key, value and source of every setting, as it is in force.
    effective: Vec<[String; 3]>,
    gateway: Arc<Gateway>,
    operators: Arc<Operators>,
    configuration: Watched,
    key: Watched,
    ports: Vec<Port>,
    interval: Option<Duration>,
}

/// What is watched, looked at before any of it is read.
pub(super) struct Beginning {
    configuration: Watched,
    key: Watched,
    tls: [Option<Watched>; 2],
    interval: Option<Duration>,
}

impl Beginning {
    /// `seen` is what the configuration and its lists were when they were read.
    pub(super) fn new(config: &Config, seen: Vec<Seen>) -> Self {
        let tls = |tls: &Option<config::Tls>| tls.as_ref().map(|tls| Watched::of(&tls.files().collect::<Vec<_>>()));
        Self {
            configuration: Watched::new(seen),
            key: Watched::of(&[&config.upstream.api_key_file]),
            tls: [tls(&config.listen.tls), tls(&config.ops.tls)],
            interval: config.reload.watch.then_some(config.reload.interval),
        }
    }

    /// Starts the thread. It ends when the sender is dropped; each message is a reload of everything.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(super) fn start(
        self,
        (file, effective): (PathBuf, Vec<[String; 3]>),
        (gateway, operators): (Arc<Gateway>, Arc<Operators>),
        certificates: [Option<Arc<Certificate>>; 2],
    ) -> Result<Sender<()>, Exit> {
        let Self { configuration, key, tls, interval } = self;
        let ports = ["listen.tls", "ops.tls"].into_iter().zip(certificates.into_iter().zip(tls));
        let port = |(key, (certificate, files))| Some(Port { key, certificate: certificate?, files: files? });
        let ports = ports.filter_map(port).collect();
        let reloading = Reloading { file, effective, gateway, operators, configuration, key, ports, interval };
        let (tell, told) = channel();
        let started = std::thread::Builder::new().name("reload".into()).spawn(move || reloading.run(&told));
        started.map(|_| tell).map_err(|error| {
            page::complain(format_args!("the thread that reloads cannot be started: {error}"));
            Exit::Unavailable
        })
    }
}

impl Reloading {
    fn run(mut self, told: &Receiver<()>) {
        loop {
            match told.recv_timeout(self.interval.unwrap_or(UNWATCHED)) {
                Ok(()) => self.read_all(),
                Err(RecvTimeoutError::Timeout) if self.interval.is_some() => self.look(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let gateway = &self.gateway;
            let _ = calmly(|| gateway.record_policies());
        }
    }

    /// Reads callers, rates, operators, key and certificates again. Each of these files stands for itself: a faulty
    /// configuration changes nothing, and does not keep a key from being taken away.
    fn read_all(&mut self) {
        let ports = self.ports.iter_mut().map(|port| &mut port.files);
        for files in [&mut self.configuration, &mut self.key].into_iter().chain(ports) {
            files.failed = None;
        }
        self.read_key();
        self.ports.iter_mut().for_each(|port| port.read(&self.gateway));
        self.read_configuration();
    }

    fn look(&mut self) {
        if self.key.is_due() {
            self.read_key();
        }
        for port in &mut self.ports {
            if port.files.is_due() {
                port.read(&self.gateway);
            }
        }
        if self.configuration.is_due() {
            self.read_configuration();
        }
    }

    fn read_key(&mut self) {
        let seen = self.key.look();
        let upstream = &self.gateway.upstream;
        let result = calmly(|| upstream.reload_key().map_err(|fault| fault.to_string())).and_then(|result| result);
        let news = self.key.was_read(seen, result.as_ref().err().cloned());
        match result {
            Ok(()) => {
                self.gateway.file_reloaded(KEY_FILE);
                tracing::info!("the provider's key was read again");
            }
            Err(_) if !news => {}
            Err(error) => {
                if upstream.has_key() {
                    tracing::error!(error, "the provider's key was not reloaded; the old one stays");
                } else {
                    tracing::error!(error, "there is no key for the provider any more: nothing can be deleted");
                }
                self.gateway.file_not_reloaded(KEY_FILE);
            }
        }
    }

    fn read_configuration(&mut self) {
        let (loaded, seen) = read_as_one(&self.file);
        let panicked = |what| vec![fault_of(&self.file, what)];
        let applied = loaded.and_then(|loaded| calmly(|| self.apply(loaded)).map_err(panicked));
        let faults = applied.as_ref().err().map(|faults| faults.iter().map(ToString::to_string).collect());
        let news = self.configuration.was_read(seen, faults.map(|faults: Vec<String>| faults.join("\n")));
        if let (Err(faults), true) = (applied, news) {
            for fault in &faults {
                tracing::error!(%fault, "the configuration was not reloaded; the old one stays");
            }
            self.gateway.not_reloaded(faults.into_iter().map(|fault| fault.key));
        }
    }

    fn apply(&self, loaded: Loaded) {
        failpoint::hit("reload");
        loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let keys = needing_a_restart(&self.effective, &loaded.effective);
        if !keys.is_empty() {
            tracing::warn!(keys = keys.join(", "), "these keys have changed and need a restart");
        }
        let policy = self.gateway.reload(&loaded.config);
        self.operators.reload(&loaded.config.ops.operators);
        tracing::info!(%policy, "callers and rates were reloaded, and operators");
    }
}

impl Port {
    fn read(&mut self, gateway: &Gateway) {
        let seen = self.files.look();
        let result = calmly(|| self.certificate.reload()).and_then(|result| result);
        let news = self.files.was_read(seen, result.as_ref().err().cloned());
        match result {
            Ok(()) => {
                gateway.file_reloaded(self.key);
                tracing::info!("a certificate was read again");
            }
            Err(_) if !news => {}
            Err(error) => {
                tracing::error!(error, "a certificate was not reloaded; the old one stays");
                gateway.file_not_reloaded(self.key);
            }
        }
    }
}

/// Does it, and takes a panic for a fault: it ends neither the thread nor what comes behind it.
fn calmly<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| "makes the gateway panic".to_owned())
}

fn fault_of(file: &Path, what: String) -> Fault {
    Fault { key: "the file".to_owned(), source: file.display().to_string(), what }
}

/// The keys outside of `callers`, `identity.issuers`, `limits.rates` and `ops.operators` whose value is another one than that in force.
fn needing_a_restart(old: &[[String; 3]], new: &[[String; 3]]) -> Vec<String> {
    let settled = |rows: &[[String; 3]]| -> BTreeSet<(String, String)> {
        let live = ["callers[", "identity.issuers", "limits.rates", "ops.operators"];
        let fixed = |key: &str| !live.iter().any(|live| key.starts_with(live));
        rows.iter().filter(|[key, ..]| fixed(key)).map(|[key, value, _]| (key.clone(), value.clone())).collect()
    };
    let (old, new) = (settled(old), settled(new));
    let mut keys: Vec<String> = old.symmetric_difference(&new).map(|(key, _)| key.clone()).collect();
    keys.dedup();
    keys
}

/// Reads the configuration and its lists of groups as they were at one moment: they are the same after the reading as
/// before it. What cannot be used may be half written, and is read again if it changes within a moment.
pub(super) fn read_as_one(file: &Path) -> (Result<Loaded, Vec<Fault>>, Vec<Seen>) {
    for _ in 0..TRIES {
        let read = calmly(|| config::load_seen(file));
        let (loaded, seen) = read.unwrap_or_else(|what| (Err(vec![fault_of(file, what)]), vec![Seen::of(file)]));
        if loaded.is_err() {
            std::thread::sleep(SETTLE);
        }
        // Twice, so that what is turned to and fro between two of them is noticed, too.
        if seen.iter().chain(&seen).all(|seen| seen.again() == *seen) {
            return (loaded, seen);
        }
        std::thread::sleep(PAUSE);
    }
    let what = "keeps changing while it is read; write another file beside it and rename that".to_owned();
    (Err(vec![fault_of(file, what)]), vec![Seen::of(file)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::write;

    #[test]
    fn a_file_is_due_once_it_has_changed_and_then_stayed_the_same_for_a_look() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        write(&file, "1").unwrap();
        let mut watched = Watched::of(&[&file]);
        assert!(!watched.is_due() && !watched.is_due(), "it is the one that was read");
        for half in ["22", "333", "4444"] {
            write(&file, half).unwrap();
            assert!(!watched.is_due(), "it is being written");
        }
        assert!(watched.is_due());
        watched.was_read(watched.look(), None);
        assert!(!watched.is_due());
        std::fs::remove_file(&file).unwrap();
        assert!(!watched.is_due(), "it may be there again in a moment");
        write(&file, "55555").unwrap();
        assert!(!watched.is_due() && watched.is_due());
    }

    #[test]
    fn what_could_not_be_read_is_tried_again_and_told_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut watched = Watched::of(&[file.path()]);
        let fault = |what: &str| Some(what.to_owned());
        assert!(watched.was_read(watched.look(), fault("it is busy")));
        assert_eq!((1..=AGAIN).map(|_| watched.is_due()).filter(|due| *due).count(), 1, "though it has not changed");
        assert!(!watched.was_read(watched.look(), fault("it is busy")));
        assert!(watched.was_read(watched.look(), fault("it is gone")));
        assert!(watched.was_read(watched.look(), None));
        assert!((0..=2 * AGAIN).all(|_| !watched.is_due()));
    }

    #[test]
    fn a_link_that_is_turned_elsewhere_is_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for side in ["a", "b"] {
            std::fs::create_dir(at(side)).unwrap();
            write(at(side).join("file"), "the same").unwrap();
        }
        std::os::unix::fs::symlink("a", at("data")).unwrap();
        let mut watched = Watched::of(&[&at("data").join("file")]);
        std::os::unix::fs::symlink("b", at("new")).unwrap();
        std::fs::rename(at("new"), at("data")).unwrap();
        assert!(!watched.is_due() && watched.is_due());
    }
}
