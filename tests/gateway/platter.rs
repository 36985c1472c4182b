//! What a disk holds when the power fails, worked out from strace's log: what was synced is there, and of what
//! was only written any part may be.

use crate::soak::Random;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// One event of a log: a call begins, or has returned.
#[derive(Debug)]
pub struct Event {
    pub begins: bool,
    pub call: String,
    /// The name of the descriptor that it is about, or the path.
    pub on: String,
    /// Everything in quotes.
    pub data: Vec<u8>,
    /// What stands behind the descriptor, with the quotes taken out.
    pub rest: String,
    pub failed: bool,
}

/// Reads `\xNN` and plain characters up to `end`. Returns the bytes and what follows.
fn unescape(text: &str, end: char) -> (Vec<u8>, &str) {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some(next) = rest.chars().next() {
        if next == end {
            return (bytes, &rest[1..]);
        }
        if let Some(hex) = rest.strip_prefix("\\x") {
            bytes.push(u8::from_str_radix(&hex[..2], 16).unwrap());
            rest = &hex[2..];
        } else {
            bytes.push(rest.as_bytes()[0]);
            rest = &rest[1..];
        }
    }
    (bytes, rest)
}

/// The arguments of a call: the descriptor's name, everything in quotes, and the rest.
fn arguments(text: &str) -> (String, Vec<u8>, String) {
    let (mut on, mut data, mut plain) = (String::new(), Vec::new(), String::new());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        rest = &rest[next.len_utf8()..];
        if next == '"' {
            let (bytes, after) = unescape(rest, '"');
            (data, rest) = ([data, bytes].concat(), after);
        } else if next == '<' && on.is_empty() && !rest.starts_with("unfinished") {
            // A socket's name holds `->`.
            let end = rest.find(">,").or_else(|| rest.find(">)")).or_else(|| rest.find("> ")).unwrap_or(rest.len());
            on = String::from_utf8_lossy(&unescape(&rest[..end], '\0').0).into_owned();
            rest = rest.get(end + 1..).unwrap_or_default();
        } else {
            plain.push(next);
        }
    }
    (on, data, plain)
}

/// All events of a log, in their order.
pub fn events(log: &str) -> Vec<Event> {
    let (mut events, mut open): (Vec<Event>, HashMap<&str, usize>) = (Vec::new(), HashMap::new());
    for line in log.lines() {
        let Some((thread, text)) = line.split_once(' ') else { continue };
        let text = text.trim_start();
        if text.starts_with("<... ") {
            if let Some(begun) = open.remove(thread) {
                let Event { call, on, data, rest, .. } = &events[begun];
                let (call, on, data, rest) = (call.clone(), on.clone(), data.clone(), rest.clone());
                events.push(Event { begins: false, call, on, data, rest, failed: text.contains(" = -1 ") });
            }
            continue;
        }
        let Some((call, after)) = text.split_once('(') else { continue };
        let (mut on, data, rest) = arguments(after);
        if matches!(call, "openat" | "unlink" | "mkdir") {
            on = String::from_utf8_lossy(&data).into_owned();
        }
        let event = |begins| Event {
            begins,
            call: call.to_owned(),
            on: on.clone(),
            data: data.clone(),
            rest: rest.clone(),
            failed: rest.contains(" = -1 "),
        };
        events.push(event(true));
        if text.contains("<unfinished") {
            open.insert(thread, events.len() - 1);
        } else {
            events.push(event(false));
        }
    }
    events
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Change::Write(at, bytes) => {
                file.resize(file.len().max(at + bytes.len()), 0);
                file[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Change::Length(length) => file.resize(*length, 0),
        }
    }
}

#[derive(Default, Clone)]
struct File {
    synced: Vec<u8>,
    /// With the number of the event at which the call had returned.
    pending: Vec<(usize, Change)>,
    /// Whether its name is on the disk: the folder was synced after it was made.
    named: bool,
}

/// The ledger's folder on a disk.
pub struct Platter {
    folder: String,
    folder_named: bool,
    files: BTreeMap<String, File>,
    syncs: HashMap<String, usize>,
    now: usize,
}

impl Platter {
    /// Of a folder that does not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.display().to_string(),
            folder_named: false,
            files: BTreeMap::new(),
            syncs: HashMap::new(),
            now: 0,
        }
    }

    /// The name of a file that the ledger consists of, or of what is signed of it. The index beside a log (`-shm`) is
    /// made anew at each start.
    fn name(&self, path: &str) -> Option<String> {
        let name = path.strip_prefix(&self.folder)?.strip_prefix('/')?;
        let known = ["ledger.db", "tree.db"].iter().any(|known| name.starts_with(known));
        known.then(|| name.to_owned()).filter(|name| !name.ends_with("-shm"))
    }

    pub fn take(&mut self, event: &Event) {
        self.now += 1;
        let sync = matches!(event.call.as_str(), "fsync" | "fdatasync");
        if sync && event.begins {
            self.syncs.insert(event.on.clone(), self.now);
        }
        if event.begins || event.failed {
            return;
        }
        if sync {
            return self.synced(&event.on);
        }
        let Some(name) = self.name(&event.on) else { return };
        let numbers: Vec<usize> =
            event.rest.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
        let now = self.now;
        let file = self.files.entry(name.clone()).or_default();
        match event.call.as_str() {
            // Descriptor, length, place.
            "pwrite64" => file.pending.push((now, Change::Write(numbers[2], event.data.clone()))),
            "ftruncate" => file.pending.push((now, Change::Length(numbers[1]))),
            "unlink" => drop(self.files.remove(&name)),
            "openat" => {}
            other => panic!("{other} on {name} is not understood"),
        }
    }

    fn synced(&mut self, on: &str) {
        let begun = self.syncs.get(on).copied().unwrap_or(0);
        if on == self.folder {
            self.files.values_mut().for_each(|file| file.named = true);
        } else if Path::new(&self.folder).parent().is_some_and(|parent| parent == Path::new(on)) {
            self.folder_named = true;
        } else if let Some(file) = self.name(on).and_then(|name| self.files.get_mut(&name)) {
            let (before, after) = file.pending.drain(..).partition(|(returned, _)| *returned < begun);
            let before: Vec<(usize, Change)> = before;
            before.iter().for_each(|(_, change)| change.apply(&mut file.synced));
            file.pending = after;
        }
    }

    /// Writes what a power failure now would leave: without chance, what was synced and nothing else.
    pub fn leave(&self, folder: &Path, mut chance: Option<&mut Random>) {
        if !self.folder_named {
            return;
        }
        std::fs::create_dir(folder).unwrap();
        for (name, file) in self.files.iter().filter(|(_, file)| file.named) {
            let mut bytes = file.synced.clone();
            if let Some(random) = chance.as_deref_mut() {
                for (_, change) in &file.pending {
                    match (random.below(3), change) {
                        (0, _) => {}
                        (1, Change::Write(at, data)) => {
                            let torn = SECTOR * random.below(data.len() / SECTOR + 1);
                            Change::Write(*at, data[..torn].to_vec()).apply(&mut bytes);
                        }
                        _ => change.apply(&mut bytes),
                    }
                }
            }
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }
}
