//! Behind the commits: hashes what is durable into the tree, and signs its head, at most once a second.
//!
//! Before it signs anything it is sure that the new head continues the last one, which nobody may take back: a start
//! refuses a ledger that is shorter than what was signed, here or in `checkpoint_copy`, or that hashes to another root.

use super::folder;
use super::follower::Follow;
use super::tree_store::{FILE, TreeStore, shown};
use crate::clock::{Moment, moment, since};
use crate::config;
use crate::id::Origin;
use crate::ledger::OpenError;
use crate::ledger::checkpoint::note::{SigningKey, VerifyingKey};
use crate::ledger::checkpoint::{self, Checkpoint};
use crate::ledger::prune::{Edge, Pruned};
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
    pub(super) fn open(
        config: &config::Ledger,
        length: u64,
        beginning: Option<&(Pruned, Edge)>,
    ) -> Result<Self, OpenError> {
        let copied = config.checkpoint_copy.as_deref().map(read_copy).transpose()?.flatten();
        let mut store = open_store(config, copied.as_deref(), length)?;
        let stored = store.signed()?;
        let key = signing_key(config, stored.is_some() || copied.is_some())?;
        let verifying = key.verifying_key();
        let stored = stored.map(|signed| signed.note);
        let differs = config.checkpoint_copy.is_some() && copied != stored;
        let head_of = |note: Option<String>, place: &str| -> Result<Option<Head>, OpenError> {
            let Some(note) = note else { return Ok(None) };
            let wrong = |what: String| OpenError::Damaged(format!("{place}: {what}"));
            let head = *Checkpoint::verify(&note, &verifying).map_err(|fault| wrong(fault.to_string()))?.head();
            if head.size > length {
                return Err(wrong(format!(
                    "it was signed for {} entries, but the ledger has {length}: entries were cut off, or an older copy \
                     was put in their place; put back the newer ledger, or a backup with `audit restore`",
                    head.size
                )));
            }
            Ok(Some(head))
        };
        let signed = head_of(stored, "the stored checkpoint")?;
        if let Some((pruned, _)) = beginning {
            pruned.signed_by(&signed.unwrap_or(Head { size: 0, root: empty_root() }))?;
        }
        let place = config.checkpoint_copy.as_deref().map(|file| file.display().to_string()).unwrap_or_default();
        let copied = head_of(copied, &place)?;
        let (tree, ahead) = match signed.map(|head| Tree::open(&store, &head)) {
            Some(Ok(tree)) => (tree, Vec::new()),
            None => (anew(&mut store, beginning)?, Vec::new()),
            Some(Err(fault)) => {
                tracing::warn!(%fault, "the tree is built anew from the ledger");
                (anew(&mut store, beginning)?, signed.into_iter().collect())
            }
        };
        let signed = signed.unwrap_or(Head { size: 0, root: empty_root() });
        // A copy that is ahead is caught up with by signing, not by putting back what is older.
        let copy_is_behind = differs && copied.is_none_or(|copied| copied.size <= signed.size);
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

    /// Signs what the tree has, and stores it with its tiles. The copy elsewhere comes first: as long as it can be
    /// written, nobody has seen a checkpoint that is newer than it, whatever becomes of this folder.
    fn sign(&mut self) -> Result<(), OpenError> {
        let head = self.tree.head();
        let note = checkpoint::sign(&self.key, &head);
        self.copy_is_behind = self.copy.as_deref().is_some_and(|file| write_copy(file, &note).is_err());
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
        (self.signed, self.signed_at) = (head, Some(moment()));
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
        write_copy(file, &signed.note)?;
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

/// Opens what is signed, or makes it where nothing can have been signed yet. Where it was lost, the checkpoint that was
/// copied elsewhere takes its place; without one nothing would show that the entries are those that were signed.
fn open_store(config: &config::Ledger, copied: Option<&str>, length: u64) -> Result<TreeStore, OpenError> {
    let file = config.path.join(FILE);
    if file.exists() {
        return TreeStore::open_to_write(&config.path);
    }
    let lost = if length == 0 {
        None
    } else {
        let damaged = |what: String| OpenError::Damaged(format!("{} is missing: {what}", file.display()));
        let note = copied.ok_or_else(|| {
            damaged(
                "the ledger has entries, but nothing says which of them were signed. Put it back, or ledger.checkpoint_copy; \
                 else `audit restore --accept-loss` begins a new log after this one"
                    .to_owned(),
            )
        })?;
        let key = signing_key(config, true)?.verifying_key();
        let checkpoint = Checkpoint::verify(note, &key).map_err(|fault| damaged(format!("in the copy {fault}")))?;
        let size = checkpoint.head().size;
        if size > length {
            return Err(damaged(format!(
                "the copy of the checkpoint was signed for {size} entries, but the ledger has {length}: entries were \
                 cut off, or an older copy was put in their place; `audit restore` puts back a backup"
            )));
        }
        tracing::warn!("tree.db was lost: the tree is built anew, from the checkpoint that was copied elsewhere");
        Some((note, key))
    };
    let mut store = TreeStore::open_to_write(&config.path)?;
    if let Some((note, key)) = lost {
        store.save(&[], Some((note, &key)))?;
    }
    // Else a power failure could leave entries, and not the file that says what was signed of them.
    folder::sync(&config.path)?;
    Ok(store)
}

/// The tree to begin with where it is built anew. Of what was pruned the tiles that are there stay: nothing else is left
/// of it; the right edge is enough to go on.
fn anew(store: &mut TreeStore, beginning: Option<&(Pruned, Edge)>) -> Result<Tree, OpenError> {
    let Some((pruned, edge)) = beginning else { return store.forget_tiles().map(|()| Tree::new()) };
    store.rebuild_tiles()?;
    pruned.tree(edge)
}

/// Where the signing key is.
pub(super) fn key_file(config: &config::Ledger) -> PathBuf {
    config.signing_key_file.clone().unwrap_or_else(|| config.path.join("signing-key"))
}

/// The key, made at the first start. A log that has been signed with a key is not gone on with by another.
pub(super) fn signing_key(config: &config::Ledger, is_signed: bool) -> Result<SigningKey, OpenError> {
    let file = key_file(config);
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
        Some(origin) if !key.origin().is_or_follows(origin) => Err(OpenError::Unusable(format!(
            "ledger.origin is {origin}, but the signing key in {} is that of {}; leave ledger.origin out, or name the \
             key's",
            file.display(),
            key.origin()
        ))),
        _ => Ok(key),
    }
}

pub(in crate::ledger) fn make_key(origin: Option<Origin>, file: &Path) -> Result<SigningKey, OpenError> {
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

fn write_copy(file: &Path, note: &str) -> Result<(), OpenError> {
    write_durably(file, note.as_bytes(), 0o644)
        .map_err(|e| OpenError::Unusable(format!("ledger.checkpoint_copy: {}: {e}", file.display())))
}

/// Writes a file so that it is there as a whole or not at all, and survives a crash.
pub(in crate::ledger) fn write_durably(file: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
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
pub(in crate::ledger) fn read_copy(file: &Path) -> Result<Option<String>, OpenError> {
    match config::file::read(file, NOTE_AT_MOST) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(OpenError::Unusable(format!("ledger.checkpoint_copy: {}: {e}", file.display()))),
        Ok(bytes) => String::from_utf8(bytes.expose().clone())
            .map(Some)
            .map_err(|_| OpenError::Damaged(format!("ledger.checkpoint_copy: {} is not a checkpoint", file.display()))),
    }
}
