//! A fault of ours on the path: the answer says truly whether something was sent, and the intent gets its outcome
//! in the same process.

use crate::crash::FAILPOINTS;
use crate::provider::Provider;
use crate::running::{Gateway, TARGET, TOKEN, caller, configuration, eventually};
use crate::wire::{delete, get};
use std::sync::Arc;

fn failing(provider: &Provider, failpoints: &str) -> Gateway {
    let text = configuration(&provider.url(), &[], &caller("moderation", TOKEN, ""));
    Gateway::in_folder(Arc::new(tempfile::tempdir().unwrap()), &text, &[(FAILPOINTS, failpoints)])
}

#[test]
fn a_panic_before_the_intent_is_answered_500_and_nothing_is_sent() {
    for point in ["accept", "authenticate", "authorize", "limit", "intend", "prepare"] {
        let provider = Provider::start();
        let gateway = failing(&provider, &format!("{point}=panic"));
        let answer = delete(gateway.listen, TARGET, TOKEN);
        let said = (answer.status, answer.code(), answer.sent());
        assert_eq!(said, (500, "internal".to_owned(), "no".to_owned()), "{point}");
        assert_eq!(provider.bytes(), 0, "{point}");
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200, "{point}: it goes on");
        eventually("the refusal is recorded", || gateway.of_kind("refusal").len() == 1);
        assert_eq!((gateway.of_kind("intent").len(), gateway.of_kind("outcome").len()), (1, 1), "{point}");
    }
}

#[test]
fn an_url_that_is_not_the_one_that_was_meant_is_answered_500_and_nothing_is_sent() {
    let provider = Provider::start();
    let gateway = failing(&provider, "other-url");
    let answer = delete(gateway.listen, TARGET, TOKEN);
    assert_eq!((answer.status, answer.code().as_str(), answer.sent().as_str()), (500, "internal", "no"));
    assert_eq!((provider.bytes(), gateway.of_kind("intent").len()), (0, 0));
}

#[test]
fn a_panic_after_the_intent_is_answered_504_and_the_outcome_is_recorded_in_the_same_process() {
    for (point, outcome, sent) in [
        ("forward", "unknown", 0),
        ("send", "unknown", 0),
        ("answer-begun", "unknown", 1),
        ("conclude", "unknown", 1),
        ("answer", "deleted", 1),
    ] {
        let provider = Provider::start();
        let gateway = failing(&provider, &format!("{point}=panic"));
        let answer = delete(gateway.listen, TARGET, TOKEN);
        let said = (answer.status, answer.code(), answer.sent());
        assert_eq!(said, (504, "outcome-unknown".to_owned(), "unknown".to_owned()), "{point}");
        assert_eq!(provider.heads().len(), sent, "{point}");
        eventually("the outcome is recorded", || gateway.of_kind("outcome").len() == 1);
        let (recorded, intent) = (&gateway.of_kind("outcome")[0], &gateway.of_kind("intent")[0]);
        assert_eq!(
            (&recorded["outcome"], &recorded["request_id"]),
            (&outcome.into(), &intent["request_id"]),
            "{point}"
        );
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200, "{point}: it goes on");
        assert!(get(gateway.ops, "/metrics").body.contains("in_flight 0\n"), "{point}: nothing counts as under way");
        assert_eq!(gateway.of_kind("outcome").len(), 2, "{point}: one outcome each");
    }
}

#[test]
fn a_panic_of_the_ledgers_thread_ends_the_process_and_every_intent_has_its_outcome_after_a_restart() {
    for (point, status, sent, outcomes) in [
        ("intent-before-commit", 503, 0, &[][..]),
        ("intent-after-commit", 503, 0, &["unknown"]),
        ("intent-after-sync", 503, 0, &["unknown"]),
        ("outcome-before-commit", 200, 1, &["unknown"]),
        ("outcome-after-commit", 200, 1, &["deleted"]),
        ("outcome-after-sync", 200, 1, &["deleted"]),
    ] {
        let provider = Provider::start();
        let mut gateway = failing(&provider, &format!("{point}=panic"));
        let answer = delete(gateway.listen, TARGET, TOKEN);
        let warned = answer.header("ledger-warning").is_some();
        assert_eq!((answer.status, warned, provider.heads().len()), (status, sent == 1, sent), "{point}");
        assert_eq!(gateway.ended().code(), Some(75), "{point}");
        let text = std::fs::read_to_string(gateway.config()).unwrap();
        let again = Gateway::in_folder(gateway.folder.clone(), &text, &[]);
        let recorded = again.of_kind("outcome");
        assert_eq!(recorded.iter().map(|outcome| &outcome["outcome"]).collect::<Vec<_>>(), outcomes, "{point}");
        assert_eq!((again.of_kind("intent").len(), provider.heads().len()), (outcomes.len(), sent), "{point}");
    }
}
