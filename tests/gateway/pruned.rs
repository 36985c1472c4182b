//! What is said, and what is verified, of a ledger that was pruned.

use crate::old::Old;

#[test]
fn what_is_asked_of_an_older_log_is_not_done_to_the_one_that_is_there() {
    let old = Old::new(700, 100, "retention_days = 30");
    assert!(old.settled().stop().success());
    std::fs::create_dir(old.ledger().join("1")).unwrap();
    std::fs::copy(old.ledger().join("ledger.db"), old.ledger().join("1/ledger.db")).unwrap();
    let (code, said) = old.run(&["audit", "prune", "--log", "1", "--before", "60d"]);
    assert_eq!(old.first(), 0, "{said}");
    assert!(code == Some(64) && said.contains("an older log"), "{code:?} {said}");
}
