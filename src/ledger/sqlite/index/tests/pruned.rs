//! While the search data forget what was pruned, every answer is that of a naive reading of what is kept.

use super::*;

/// Records that the log begins at `first`.
fn begin_at(folder: &Path, entries: &mut Vec<Value>, first: u64) {
    let (seq, root) = (entries.len() as u64, crate::ledger::tree::leaf_hash(b"").to_string());
    let time = word(entries.last().unwrap(), "time");
    entries
        .push(json!({"v": 1, "seq": seq, "time": time, "kind": "prune", "before": time, "first": first, "root": root,
        "carried_outcomes": 0, "carried_resolutions": 0, "by": "uid 0"}));
    record(folder, entries.len() - 1, entries);
    let db = database::open_to_write(folder).unwrap();
    db.execute("INSERT INTO pruned VALUES (?1, ?2, 1, x'')", [seq.cast_signed(), first.cast_signed()]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, ..ProptestConfig::default() })]

    #[test]
    fn what_was_pruned_is_found_nowhere_and_the_rest_as_before(
        events in proptest::collection::vec((event(), prop_oneof![9 => 0..12u32, 1 => 100_000..400_000u32]), 520..700),
        (at, width) in (any::<Pick>(), select(vec![16, 48, 200, 4096])),
        twice in any::<bool>(),
        queries in proptest::collection::vec(query(), 8),
    ) {
        let (folder, mut entries) = (tempfile::tempdir().unwrap(), log(&events));
        let follow = |entries: &[Value]| {
            let mut index = Index::with_width(folder.path(), width);
            index.rest(true).unwrap();
            while index.next() < entries.len() as u64 {
                let from = index.next();
                let rest: Vec<Vec<u8>> = entries[usize::try_from(from).unwrap()..].iter().take(50).map(|e| e.to_string().into_bytes()).collect();
                index.take(from, &rest).unwrap();
            }
        };
        record(folder.path(), 0, &entries);
        follow(&entries[..at.index(entries.len())]);
        for first in if twice { vec![256, 512] } else { vec![512] } {
            begin_at(folder.path(), &mut entries, first as u64);
            check(folder.path(), &entries[first..], &queries)?;
            let mut index = Index::with_width(folder.path(), width);
            while index.forget(first as u64).unwrap() != Forgot::All {
                check(folder.path(), &entries[first..], &queries)?;
            }
            check(folder.path(), &entries[first..], &queries)?;
            let compared = super::compared(&SqliteReader::open(folder.path()).unwrap(), 0..u64::MAX);
            prop_assert!(compared.is_ok_and(|covered| covered.is_some()), "they say what is left of the entries");
            let ledger = database::open_to_read(folder.path()).unwrap();
            let base = crate::ledger::sqlite::index::store::open_to_read(folder.path(), &ledger).map(|(_, meta)| meta.base);
            prop_assert_eq!(base, Some(first as u64), "the search data are of use");
            let db = database::open_to_write(folder.path()).unwrap();
            db.execute("DELETE FROM entry WHERE seq < ?1", [i64::try_from(first).unwrap()]).unwrap();
            drop(db);
            check(folder.path(), &entries[first..], &queries)?;
            follow(&entries);
            check(folder.path(), &entries[first..], &queries)?;
            let compared = super::compared(&SqliteReader::open(folder.path()).unwrap(), 0..u64::MAX);
            prop_assert!(compared.is_ok(), "they say what is left of the entries and what came");
        }
        crate::ledger::sqlite::reindex(folder.path(), |_, _| {}).unwrap();
        check(folder.path(), &entries[512..], &queries)?;
    }
}
