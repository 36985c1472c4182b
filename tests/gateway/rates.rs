//! How fast: what callers see of their rates.

use crate::provider::Provider;
use crate::running::{Gateway, TARGET, TOKEN, caller, configuration, eventually};
use crate::wire::{Response, delete, delete_with};

#[test]
fn a_rate_per_session_holds_each_session_on_its_own_and_its_window_has_a_name_of_its_own() {
    let provider = Provider::start();
    let rates = "rates = [{ max = 2, per_s = 3600, per = \"session\" }, { max = 2, per_s = 3600 }]";
    let text = configuration(&provider.url(), &[], &caller("moderation", TOKEN, rates)).replace("\"sess1\"", "\"*\"");
    let gateway = Gateway::with(&text.replace("max = 2, per_s = 3600 }", "max = 9, per_s = 3600 }"));
    let ask = |session: &str, n: u8| delete(gateway.listen, &format!("/{session}/groups/{n}@g.us/picture"), TOKEN);
    let first = ask("s1", 1);
    let policy = "\"session-2-3600s\";q=2;w=3600, \"caller-9-3600s\";q=9;w=3600";
    let state = "\"session-2-3600s\";r=1;t=1800, \"caller-9-3600s\";r=8;t=400";
    assert_eq!((first.header("ratelimit-policy"), first.header("ratelimit")), (Some(policy), Some(state)));
    assert_eq!((ask("s1", 2).status, ask("s1", 3).status, ask("s2", 1).status), (200, 429, 200));
    let refused = ask("s1", 4);
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate-limited"));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"session-2-3600s\";q=2;w=3600"));
    assert!(
        refused.body.contains("the rate of caller `moderation` in each session is 2 in 3600 s"),
        "{}",
        refused.body
    );
}

#[test]
fn the_rate_of_all_callers_together_holds() {
    let provider = Provider::start();
    let callers = [caller("a", TOKEN, ""), caller("b", "canary-token-b", "")].concat();
    let gateway =
        Gateway::with(&configuration(&provider.url(), &[("limits", "rates = [{ max = 2, per_s = 3600 }]")], &callers));
    let statuses =
        [TOKEN, "canary-token-b", TOKEN, "canary-token-b"].map(|token| delete(gateway.listen, TARGET, token).status);
    assert_eq!(statuses, [200, 200, 429, 429]);
}

#[test]
fn who_is_refused_hears_how_its_rates_stand_and_nothing_is_taken_from_them() {
    let provider = Provider::start();
    let rates = "rates = [{ max = 7, per_s = 3600 }]";
    let gateway = Gateway::with(&configuration(&provider.url(), &[], &caller("moderation", TOKEN, rates)));
    let stand =
        |answer: &Response| ["ratelimit-policy", "ratelimit"].map(|name| answer.header(name).map(str::to_owned));
    let is =
        |state: &str| [Some("\"caller-7-3600s\";q=7;w=3600".to_owned()), Some(format!("\"caller-7-3600s\";{state}"))];
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    for (target, fields, status) in [
        ("/sess2/groups/1@g.us/picture", "", 403),
        (TARGET, "X-Dry-Run: yes\r\n", 400),
        (TARGET, "Idempotency-Key: a b\r\n", 400),
    ] {
        let answer = delete_with(gateway.listen, target, &format!("{token}{fields}"));
        assert_eq!((answer.status, stand(&answer)), (status, is("r=7;t=0")), "{answer:?}");
        // Who is not known has no rates, and is not told what is wrong with its fields.
        let unknown = delete_with(gateway.listen, target, &format!("Authorization: Bearer x\r\n{fields}"));
        assert_eq!((unknown.status, stand(&unknown)), (401, [None, None]), "{unknown:?}");
    }
    assert_eq!(stand(&delete(gateway.listen, TARGET, TOKEN)), is("r=6;t=515"));
    eventually("all are recorded", || gateway.of_kind("refusal").len() == 6);
    let named = gateway.of_kind("refusal").iter().filter(|entry| entry["caller"] == "moderation").count();
    assert_eq!(named, 3, "with the caller, where it is known");
}
