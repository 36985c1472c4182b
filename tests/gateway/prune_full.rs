//! The disk is filled while a ledger is pruned: nothing is lost, and it is pruned in the end.

use crate::full::SmallDisk;
use crate::old::{Old, PHONE};
use crate::promises::fresh_target;
use crate::running::{TOKEN, eventually};
use crate::wire::{Response, delete};

/// What was heard while it pruned.
#[derive(Default)]
struct Heard {
    deleted: Vec<String>,
    refused: usize,
}

impl Heard {
    fn take(&mut self, answer: &Response) {
        match answer.status {
            200 if answer.header("ledger-warning").is_none() => {
                self.deleted.push(answer.header("x-request-id").unwrap().to_owned());
            }
            503 => {
                assert_eq!((answer.code(), answer.sent()), ("ledger-unavailable".to_owned(), "no".to_owned()));
                self.refused += 1;
            }
            _ => panic!("{answer:?}"),
        }
    }
}

#[test]
fn a_disk_that_fills_up_during_a_prune_loses_nothing_and_it_goes_on_when_there_is_room() {
    let (mut stuck, mut points) = (0, 0);
    for pages in [0, 6, 40, 110, 220] {
        let disk = SmallDisk::new(24);
        let old = Old::at(Some(disk.path()), 5_000, 100, "retention_days = 30");
        let mut gateway = old.settled();
        let mut heard = Heard::default();
        let ask = || delete(gateway.listen, &fresh_target(), TOKEN);
        heard.take(&ask());
        disk.fill(pages);
        let pruned = std::thread::scope(|scope| {
            // Deletions take room away as well, so that it ends in the middle of one step or another.
            let pruning = scope.spawn(|| old.prune());
            let mut tries = 0;
            while !pruning.is_finished() && heard.refused < 3 && tries < 400 {
                heard.take(&ask());
                tries += 1;
            }
            if heard.refused > 0 {
                let verified = old.run(&["audit", "verify"]);
                assert_eq!(verified.0, Some(0), "{pages}: {}", verified.1);
                stuck += usize::from(!pruning.is_finished());
            }
            disk.empty();
            pruning.join().unwrap()
        });
        assert!(matches!(pruned.0, Some(0 | 75)), "{pages}: {pruned:?}");
        eventually("deletions go on", || {
            let answer = ask();
            heard.take(&answer);
            answer.status == 200
        });
        eventually("it is pruned", || old.prune().0 == Some(0));
        assert_eq!(old.holding(PHONE.as_bytes()), [""; 0]);
        assert!(gateway.stop().success());
        old.is_gone();
        assert_eq!(old.first(), 4_864);
        old.verifies("their hashes lead to the signed root");
        let outcomes = gateway.of_kind("outcome");
        for id in &heard.deleted {
            let of = outcomes.iter().filter(|outcome| outcome["request_id"] == **id);
            assert_eq!(of.map(|outcome| outcome["outcome"].as_str().unwrap()).collect::<Vec<_>>(), ["deleted"]);
        }
        assert_eq!(old.provider.heads().len(), heard.deleted.len(), "{pages}: what was refused was not sent");
        points += 1;
    }
    assert!(stuck >= 2, "the disk was full before the prune was done in {stuck} of {points}");
}
