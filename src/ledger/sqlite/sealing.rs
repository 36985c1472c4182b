//! Behind the commits: hashes what is durable into the tree, and signs its head, at most once a second.
//!
//! Before it signs anything it is sure that the new head continues the last one, which nobody may take back: a start
//! refuses a ledger that is shorter than what was signed, here or in `checkpoint_copy`, or that hashes to another root.

use super::follower::Follow;
use super::tree_store::{FILE, TreeStore, shown};
use crate::clock::{Moment, moment, since};
use crate::config;
use crate::id::Origin;
use crate::ledger::OpenError;
use crate::ledger::checkpoint::note::{SigningKey, VerifyingKey};
use crate::ledger::checkpoint::{self, Checkpoint};
use crate::ledger::tree::proof::Prover;
use crate::ledger::tree::{Head, TileData, Tree, empty_root, leaf_hash};
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two checkpoints at least.
const PAUSE: Duration = Duration::from_millis(900);
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Complete tiles that wait for the next checkpoint; more are stored before it.
const TILES_AT_MOST: usize = 64;
const NOTE_AT_MOST: u64 = 64 * 1024;

/// Keeps tree and checkpoints.
pub(super) struct Sealer {
    store: TreeStore,
    /// Where the tree is, and which file that was when it was opened.
    file: PathBuf,
    identity: (u64, u64),
    key: SigningKey,
    verifying: VerifyingKey,
    copy: Option<PathBuf>,
    tree: Tree,
    waiting: Vec<TileData>,
    /// What was signed last.
    signed: Head,
    signed_at: Option<Moment>,
    logged_at: Option<Moment>,
    /// The copy is not what was signed last.
    copy_is_behind: bool,
    /// Heads that were signed, and that the tree has to pass through while it is built anew.
    ahead: Vec<Head>,
}

impl Sealer {
    /// Opens tree and key for a ledger of `length` entries. Both are made at the first start.
    ///
    /// # Errors
    /// A key that is missing or of another log; a ledger that is shorter than, or different from, what was signed.
    pub(super) fn open(config: &config::Ledger, length: u64) -> Result<Self, OpenError> {
        let mut store = TreeStore::open_to_write(&config.path)?;
        let stored = store.signed()?;
        let (key, is_new) = signing_key(config, stored.is_some())?;
        let verifying = key.verifying_key();
        let stored = stored.map(|signed| signed.note);
        let copied = config.checkpoint_copy.as_deref().map(read_copy).transpose()?.flatten();
        let copy_is_behind = config.checkpoint_copy.is_some() && copied != stored;
        let head_of = |note: Option<String>, place: &str| -> Result<Option<Head>, OpenError> {
            let Some(note) = note else { return Ok(None) };
            let wrong = |what: String| OpenError::Damaged(format!("{place}: {what}"));
            let head = *Checkpoint::verify(&note, &verifying).map_err(|fault| wrong(fault.to_string()))?.head();
            if head.size > length {
                return Err(wrong(format!(
                    "it was signed for {} entries, but the ledger has {length}: entries were cut off, or an older copy \
                     was put in their place; put back the newer ledger",
                    head.size
                )));
            }
            Ok(Some(head))
        };
        let signed = head_of(stored, "the stored checkpoint")?;
        let place = config.checkpoint_copy.as_deref().map(|file| file.display().to_string()).unwrap_or_default();
        let copied = head_of(copied, &place)?;
        let (tree, ahead) = match signed.map(|head| Tree::open(&store, &head)) {
            Some(Ok(tree)) => (tree, Vec::new()),
            None => {
                if length > 0 && !is_new {
                    tracing::warn!(
                        "the signing key is there, but nothing that it signed: tree.db was lost. The log is signed anew \
                         from what the ledger holds now; compare it with a checkpoint that was kept elsewhere"
                    );
                }
                (Tree::new(), Vec::new())
            }
            Some(Err(fault)) => {
                tracing::warn!(%fault, "the tree is built anew from the ledger");
                store.forget_tiles()?;
                (Tree::new(), signed.into_iter().collect())
            }
        };
        let signed = signed.unwrap_or(Head { size: 0, root: empty_root() });
        let file = config.path.join(FILE);
        let is = std::fs::metadata(&file).map_err(|e| OpenError::Unusable(format!("{}: {e}", file.display())))?;
        let mut sealer = Self {
            store,
            file,
            identity: (is.dev(), is.ino()),
            key,
            verifying,
            copy: config.checkpoint_copy.clone(),
            tree,
            waiting: Vec::new(),
            signed,
            signed_at: None,
            logged_at: None,
            copy_is_behind,
            ahead,
        };
        if let Some(copied) = copied {
            sealer.expect(copied, &place)?;
        }
        Ok(sealer)
    }

    /// A head that was signed earlier: checked now where the tree has it, later where it is still to be built.
    fn expect(&mut self, head: Head, place: &str) -> Result<(), OpenError> {
        if head.size > self.tree.size() {
            self.ahead.push(head);
            self.ahead.sort_by_key(|head| head.size);
            return Ok(());
        }
        let root = Prover::new(&self.store, self.tree.size()).and_then(|mut prover| prover.root(head.size));
        let root = root.map_err(|e| OpenError::Damaged(format!("{place}: {e}")))?;
        if root == head.root {
            return Ok(());
        }
        Err(OpenError::Damaged(format!(
            "{place}: it was signed for {}, but the ledger's first {} have another root: entries were changed",
            shown(&head),
            head.size
        )))
    }

    /// Signs what the tree has, and stores it with its tiles.
    fn sign(&mut self) -> Result<(), OpenError> {
        let head = self.tree.head();
        let note = checkpoint::sign(&self.key, &head);
        let mut tiles = std::mem::take(&mut self.waiting);
        let complete = tiles.len();
        tiles.extend(self.tree.edge());
        let saved = self.store.save(&tiles, Some((&note, &self.verifying)));
        if saved.is_err() {
            tiles.truncate(complete);
            self.waiting = tiles;
        }
        saved?;
        if self.store.signed()?.is_none_or(|signed| signed.note != note) {
            return Err(OpenError::Damaged("tree.db does not hold what was just stored in it".to_owned()));
        }
        (self.signed, self.signed_at, self.copy_is_behind) = (head, Some(moment()), self.copy.is_some());
        if self.logged_at.is_none_or(|logged| since(logged) >= LOG_EVERY) {
            tracing::info!(checkpoint = note, "checkpoint");
            self.logged_at = self.signed_at;
        }
        Ok(())
    }

    /// Brings the copy up to date.
    fn copy(&mut self) -> Result<(), OpenError> {
        let (Some(file), true) = (&self.copy, self.copy_is_behind) else { return Ok(()) };
        let Some(signed) = self.store.signed()? else { return Ok(()) };
        write_durably(file, signed.note.as_bytes(), 0o644)
            .map_err(|e| OpenError::Unusable(format!("ledger.checkpoint_copy: {}: {e}", file.display())))?;
        self.copy_is_behind = false;
        Ok(())
    }
}

impl Follow for Sealer {
    fn name(&self) -> &'static str {
        "the tree"
    }

    fn trouble(&self) -> &'static str {
        "ledger-not-signed"
    }

    fn next(&self) -> u64 {
        self.tree.size()
    }

    fn take(&mut self, _first: u64, entries: &[Vec<u8>]) -> Result<(), OpenError> {
        // Tried on a copy: what fails is tried again from where it began.
        let (mut tree, mut complete) = (self.tree.clone(), Vec::new());
        for entry in entries {
            complete.extend(tree.append(leaf_hash(entry)));
            while let Some(head) = self.ahead.first()
                && head.size == tree.size()
            {
                if tree.root() != head.root {
                    let words = "it was signed for another root: entries were changed; nothing more is signed";
                    return Err(OpenError::Damaged(format!("the ledger's first {}: {words}", shown(head))));
                }
                self.ahead.remove(0);
            }
        }
        self.tree = tree;
        self.waiting.extend(complete);
        if self.waiting.len() >= TILES_AT_MOST {
            self.store.save(&self.waiting, None)?;
            self.waiting.clear();
        }
        Ok(())
    }

    fn rest(&mut self, ended: bool) -> Result<(), OpenError> {
        if std::fs::metadata(&self.file).map(|is| (is.dev(), is.ino())).ok() != Some(self.identity) {
            return Err(OpenError::Damaged(format!(
                "{} was removed or replaced while it was open",
                self.file.display()
            )));
        }
        let due = ended || self.signed_at.is_none_or(|signed| since(signed) >= PAUSE);
        if due && self.ahead.is_empty() && self.tree.size() > self.signed.size {
            self.sign()?;
        }
        self.copy()
    }
}

/// The key, made at the first start, and whether it was made now. A log that has been signed with a key is not gone on with by another.
fn signing_key(config: &config::Ledger, is_signed: bool) -> Result<(SigningKey, bool), OpenError> {
    let file = config.signing_key_file.clone().unwrap_or_else(|| config.path.join("signing-key"));
    let missing = !file.try_exists().unwrap_or(true);
    let key = match (missing, is_signed) {
        (true, true) => {
            return Err(OpenError::Unusable(format!(
                "{}: the signing key is missing; put it back: with another key this would be another log",
                file.display()
            )));
        }
        (true, false) => make_key(config.origin.clone(), &file)?,
        (false, _) => SigningKey::load(&file).map_err(OpenError::Unusable)?,
    };
    match &config.origin {
        Some(origin) if origin != key.origin() => Err(OpenError::Unusable(format!(
            "ledger.origin is {origin}, but the signing key in {} is that of {}; leave ledger.origin out, or name the \
             key's",
            file.display(),
            key.origin()
        ))),
        _ => Ok((key, missing)),
    }
}

fn make_key(origin: Option<Origin>, file: &Path) -> Result<SigningKey, OpenError> {
    let unusable = |what: &dyn std::fmt::Display| {
        OpenError::Unusable(format!("{}: the signing key cannot be made: {what}", file.display()))
    };
    let mut random = [0_u8; 8];
    getrandom::fill(&mut random).map_err(|e| unusable(&e))?;
    let name = format!("wasend-gateway/{:016x}", u64::from_be_bytes(random));
    let origin = origin.map_or_else(|| Origin::parse(&name), Ok).map_err(|e| unusable(&e))?;
    let key = SigningKey::generate(origin).map_err(|e| unusable(&e))?;
    write_durably(file, format!("{}\n", key.to_line().expose()).as_bytes(), 0o600).map_err(|e| unusable(&e))?;
    Ok(key)
}

/// Writes a file so that it is there as a whole or not at all, and survives a crash.
fn write_durably(file: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = folder.join(name);
    let _ = std::fs::remove_file(&new);
    let mut written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    written.write_all(bytes)?;
    // Whatever the process's umask takes away.
    written.set_permissions(Permissions::from_mode(mode))?;
    written.sync_all()?;
    std::fs::rename(&new, file)?;
    File::open(folder)?.sync_all()
}

/// The checkpoint that was copied elsewhere. `None`: there is none yet.
fn read_copy(file: &Path) -> Result<Option<String>, OpenError> {
    match config::file::read(file, NOTE_AT_MOST) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(OpenError::Unusable(format!("ledger.checkpoint_copy: {}: {e}", file.display()))),
        Ok(bytes) => String::from_utf8(bytes.expose().clone())
            .map(Some)
            .map_err(|_| OpenError::Damaged(format!("ledger.checkpoint_copy: {} is not a checkpoint", file.display()))),
    }
}
