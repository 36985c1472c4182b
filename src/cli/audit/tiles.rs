//! `audit export --tiles`: the signed log as files, in the layout of C2SP tlog-tiles.

use crate::cli::{Exit, page};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::tree::tile::{Bundle, TILE_WIDTH, Tile};
use crate::ledger::tree::{TileData, Tree, bundle, leaf_hash};
use crate::ledger::{OpenError, ProofReader, READ_AT_MOST, Reader};
use std::path::Path;

/// Writes what the newest checkpoint covers into a folder of its own. The tiles are made from the entries; the
/// checkpoint comes last, and only if they lead to it.
pub(super) fn export<L: Reader + ProofReader>(folder: &Path, ledger: &L, json: bool) -> Result<Exit, OpenError> {
    let Some(note) = ledger.checkpoint()? else {
        page::complain("nothing of the ledger has been signed yet; `serve` does it within a second");
        return Ok(Exit::Unavailable);
    };
    let checkpoint = Checkpoint::verify(&note, &ledger.verifying_key()?);
    let head = *checkpoint.map_err(|fault| OpenError::Damaged(fault.to_string()))?.head();
    if std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some()) {
        page::complain(format_args!("{} is not empty; name another folder", folder.display()));
        return Ok(Exit::Unavailable);
    }
    let (mut tree, mut contents, mut progress) = (Tree::new(), Vec::new(), page::Progress::new());
    let first = ledger.pruned()?.map_or(0, |pruned| pruned.first);
    // Of what was pruned there are hashes alone.
    while tree.size() < first {
        let tile = Tile::new(0, tree.size() / u64::from(TILE_WIDTH), TILE_WIDTH);
        for hash in tile.map(|tile| ledger.hashes(tile)).transpose()?.unwrap_or_default() {
            for data in tree.append(hash) {
                write(folder, &data.tile.to_string(), &data.bytes)?;
            }
        }
        progress.tick(tree.size(), head.size);
    }
    while tree.size() < head.size {
        let until = head.size.min(tree.size() + READ_AT_MOST);
        for (seq, bytes) in ledger.read(tree.size(), until)? {
            if seq != tree.size() || !bundle::push(&mut contents, &bytes) {
                return Err(OpenError::Damaged(format!(
                    "entry {} is missing or too long; see audit verify",
                    tree.size()
                )));
            }
            for data in tree.append(leaf_hash(&bytes)) {
                write_tile(folder, &data, &mut contents)?;
            }
        }
        if tree.size() != until {
            return Err(OpenError::Damaged(format!("entry {} is missing; see audit verify", tree.size())));
        }
        progress.tick(until, head.size);
    }
    for data in tree.edge() {
        write_tile(folder, &data, &mut contents)?;
    }
    if tree.head() != head {
        let words = "the entries do not lead to the signed root, so no checkpoint was written; audit verify says why";
        return Err(OpenError::Damaged(words.to_owned()));
    }
    write(folder, "checkpoint", note.as_bytes())?;
    if json {
        page::json(&serde_json::json!({"folder": folder, "entries": head.size, "first": first}));
        return Ok(Exit::Done);
    }
    page::line(format_args!("{} entries in {}, as the checkpoint there covers them", head.size, folder.display()));
    if first > 0 {
        page::line(format_args!("entries before {first} were pruned: of them there are hashes alone"));
    }
    Ok(Exit::Done)
}

/// A tile, and with one of leaves the entries that were collected since the last.
fn write_tile(folder: &Path, data: &TileData, contents: &mut Vec<u8>) -> Result<(), OpenError> {
    if data.tile.level() == 0 {
        let entries = Bundle::new(data.tile.index(), data.tile.width());
        let path = entries.map(|entries| entries.to_string()).unwrap_or_default();
        write(folder, &path, contents)?;
        contents.clear();
    }
    write(folder, &data.tile.to_string(), &data.bytes)
}

fn write(folder: &Path, path: &str, bytes: &[u8]) -> Result<(), OpenError> {
    let file = folder.join(path);
    let made = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(&file, bytes))
        .map_err(|e| OpenError::Unusable(format!("{}: it cannot be written: {e}", file.display())))
}
