//! The policy against a slow and obvious reference, and what must hold whatever the rules are.

use super::*;
use crate::config::{Budget, Caller, Listed, OnExhausted, Per, Rate};
use crate::id::{GroupId, SessionId};
use proptest::prelude::*;

fn name(text: &str) -> CallerName {
    CallerName::parse(text).unwrap()
}

fn target(session: &str, group: &str) -> Target {
    Target { session: SessionId::parse(session).unwrap(), group: GroupId::parse(group).unwrap() }
}

fn rule(session: &str, group: &str) -> config::Rule {
    config::Rule { sessions: vec![session.into()], groups: vec![group.into()], ..config::Rule::default() }
}

fn caller(allow: Vec<config::Rule>, deny: Vec<config::Rule>, from: Option<&str>) -> Caller {
    let from = from.map(|network| vec![network.parse().unwrap()]);
    Caller {
        name: name("c"),
        tokens: vec![],
        jwt: None,
        certificate: None,
        from,
        rates: vec![],
        budgets: vec![],
        allow,
        deny,
    }
}

const PEER: &str = "10.1.2.3";
const NOW: i64 = 1_000;

fn decide_at(callers: &[Caller], peer: &str, group: &str, at: i64) -> Result<Arc<str>, NotAllowed> {
    let (who, target) = (name("c"), target("s1", group));
    Policy::new(callers).decide(&Question::new(&who, peer.parse().unwrap(), &target, Timestamp::from_micros(at)))
}

fn decide(
    allow: Vec<config::Rule>,
    deny: Vec<config::Rule>,
    from: Option<&str>,
    group: &str,
) -> Result<Arc<str>, NotAllowed> {
    decide_at(&[caller(allow, deny, from)], PEER, group, NOW)
}

#[test]
fn what_no_rule_allows_is_refused() {
    assert!(decide(vec![], vec![], None, "1@g.us").is_err());
    assert!(decide(vec![rule("s2", "*")], vec![], None, "1@g.us").is_err());
    assert_eq!(
        decide(vec![rule("s2", "*"), rule("s*", "1@g.us")], vec![], None, "1@g.us").as_deref(),
        Ok("c.allow[1]")
    );
}

#[test]
fn allow_matches_what_was_sent_and_deny_matches_both_spellings() {
    assert!(decide(vec![rule("*", "1@g.us")], vec![], None, "1").is_err());
    for (denied, sent) in [("1@g.us", "1"), ("1", "1@g.us"), ("*@g.us", "1")] {
        let decision = decide(vec![rule("*", "*")], vec![rule("*", denied)], None, sent);
        assert!(matches!(decision, Err(NotAllowed::Denied(_, ref by)) if &**by == "c.deny[0]"), "{denied} {sent}");
    }
}

#[test]
fn a_caller_outside_of_its_networks_is_refused_before_its_rules() {
    assert!(decide(vec![rule("*", "*")], vec![], Some("10.0.0.0/8"), "1").is_ok());
    let decision = decide(vec![rule("*", "*")], vec![], Some("10.9.0.0/16"), "1");
    assert_eq!(decision.clone(), Err(NotAllowed::From(name("c"))));
    assert_eq!(decision.unwrap_err().rule().as_deref(), Some("c.from"));
}

#[test]
fn an_ipv4_address_in_an_ipv6_coat_is_the_ipv4_address() {
    let near = config::Rule { from: Some(vec!["10.0.0.0/8".parse().unwrap()]), ..rule("*", "*") };
    for (peer, allowed) in [("::ffff:10.0.0.1", true), ("10.0.0.1", true), ("::ffff:11.0.0.1", false), ("::1", false)] {
        assert_eq!(decide_at(&[caller(vec![near.clone()], vec![], None)], peer, "1", NOW).is_ok(), allowed, "{peer}");
        let whole = caller(vec![rule("*", "*")], vec![], Some("10.0.0.0/8"));
        assert_eq!(decide_at(&[whole], peer, "1", NOW).is_ok(), allowed, "{peer}");
        let denied = decide_at(&[caller(vec![rule("*", "*")], vec![near.clone()], None)], peer, "1", NOW).is_err();
        assert_eq!(denied, allowed, "{peer}");
    }
}

#[test]
fn a_rule_covers_nothing_from_the_moment_it_expires() {
    let until = |at| config::Rule { expires: Some(Timestamp::from_micros(at)), ..rule("*", "*") };
    let allows = |allow, deny| decide(allow, deny, None, "1").is_ok();
    assert!(allows(vec![until(NOW + 1)], vec![]) && !allows(vec![until(NOW)], vec![]));
    assert!(!allows(vec![rule("*", "*")], vec![until(NOW + 1)]) && allows(vec![rule("*", "*")], vec![until(NOW)]));
}

#[test]
fn the_hash_is_the_same_in_every_version_and_for_every_order_that_changes_nothing() {
    let listed = |groups: &[&str]| {
        Some(Arc::new(Listed { file: "l".into(), groups: groups.iter().map(|g| (*g).into()).collect() }))
    };
    let mut first = caller(vec![rule("s1", "2"), rule("*", "*@g.us")], vec![rule("*", "9@g.us")], Some("10.1.2.3/8"));
    let rate = |max, per_s, per| Rate { max, per_s, per };
    first.rates = vec![rate(60, 60, Per::Caller), rate(5, 1, Per::Caller)];
    first.budgets = vec![Budget { max: 500, per_s: 86_400, per: Per::Session, on_exhausted: OnExhausted::Freeze }];
    first.allow[0].groups.push("1".into());
    first.allow[0].listed = listed(&["7", "8@g.us"]);
    first.allow[1].from = Some(vec!["fd00::1/8".parse().unwrap(), "127.0.0.1/32".parse().unwrap()]);
    first.deny[0].expires = Timestamp::parse("2027-01-01T00:00:00Z");
    let second = Caller { name: name("b"), from: Some(vec![]), ..caller(vec![], vec![], None) };
    let canonical = Canonical::new(&[first.clone(), second.clone()]);
    // `printf '7\n8@g.us\n' | sha256sum`; and of this text, `sha256sum`.
    let expected = concat!(
        "wasend-gateway policy v1\n",
        r#"{"name":"b","from":[]}"#,
        "\n",
        r#"{"name":"c","from":["10.0.0.0/8"],"rates":[{"per_s":1,"max":5},{"per_s":60,"max":60}],"budgets":[{"per_s":86400,"max":500,"per":"session","on_exhausted":"freeze"}],"allow":[{"sessions":["s1"],"groups":["1","2"],"groups_file":"sha256:ca651660729bba68ab3ad90ad44bc056432b813681bb101a4939918e881f60f0"},{"sessions":["*"],"groups":["*@g.us"],"from":["127.0.0.1/32","fd00::/8"]}],"deny":[{"sessions":["*"],"groups":["9@g.us"],"expires":"2027-01-01T00:00:00.000000Z"}]}"#,
        "\n"
    );
    assert_eq!(canonical.text(), expected);
    assert_eq!(canonical.hash(), "sha256:f0fc7514b78aaa7cf6e0c70cea0906efd69ea98e843fe8a932e67e57f05df705");

    let mut same = first.clone();
    same.allow[0].groups = vec!["1".into(), "2".into(), "1".into()];
    same.allow[0].listed = listed(&["8@g.us", "7", "7"]);
    same.rates.reverse();
    same.tokens = vec![config::Token { id: name("t"), sha256: [1; 32], expires: None }];
    assert_eq!(Canonical::new(&[second.clone(), same]), canonical);
    let mut apart = first.clone();
    apart.rates[1].per = Per::Session;
    let apart = Canonical::new(&[apart]);
    assert!(
        apart.text().contains(r#""rates":[{"per_s":1,"max":5,"per":"session"},{"per_s":60,"max":60}]"#),
        "{apart:?}"
    );
    let mut swapped = first;
    swapped.allow.swap(0, 1);
    assert_ne!(Canonical::new(&[second, swapped]).hash(), canonical.hash(), "rules are named by their places");
}

#[test]
fn a_list_that_many_rules_name_is_held_once() {
    let groups: Vec<Box<str>> = (0..1_000).map(|n| format!("{n}@g.us").into()).collect();
    let listed = Some(Arc::new(Listed { file: "l".into(), groups }));
    let rules = |count| (0..count).map(|_| config::Rule { listed: listed.clone(), ..rule("*", "x") }).collect();
    let policy = Policy::new(&[caller(rules(50), rules(50), None)]);
    assert_eq!(policy.callers[&name("c")].allow[0].holders_of_its_list(), 50);
}

/// Slow and obvious: a star takes nothing, or one byte and asks again.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    match (glob.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if matches(rest, text) => true,
        (Some((b'*', _)), Some((_, tail))) => matches(glob, tail),
        (Some((wanted, rest)), Some((byte, tail))) => wanted == byte && matches(rest, tail),
        _ => false,
    }
}

/// By bits, one after the other.
fn is_in(network: &IpNet, peer: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => format!("{:032b}", u32::from(ip)),
        IpAddr::V6(ip) => format!("{:0128b}", u128::from(ip)),
    };
    network.addr().is_ipv4() == peer.is_ipv4()
        && bits(network.addr()).bytes().zip(bits(peer).bytes()).take(network.prefix_len().into()).all(|(a, b)| a == b)
}

/// The names of all allow rules that cover it, unless it is refused. No table, no order, no early end.
fn reference(callers: &[Caller], who: &str, peer: IpAddr, target: &Target, at: i64) -> Vec<String> {
    let covers = |rule: &config::Rule, ids: &[&str]| {
        let listed: Vec<String> = rule.listed.iter().flat_map(|l| l.groups.iter().map(ToString::to_string)).collect();
        let groups: Vec<String> = rule.groups.iter().cloned().chain(listed).collect();
        let session = rule.sessions.iter().any(|p| matches(p.as_bytes(), target.session.as_str().as_bytes()));
        let group = ids.iter().any(|id| groups.iter().any(|p| matches(p.as_bytes(), id.as_bytes())));
        let from = rule.from.as_ref().is_none_or(|nets| nets.iter().any(|net| is_in(net, peer)));
        let lasts = rule.expires.is_none_or(|expires| at < expires.as_micros());
        session && group && from && lasts
    };
    let mut allowed = Vec::new();
    for caller in callers.iter().filter(|caller| caller.name.as_str() == who) {
        let bare = target.group.as_str().trim_end_matches("@g.us");
        let both = [bare, &format!("{bare}@g.us")];
        let outside = caller.from.as_ref().is_some_and(|nets| !nets.iter().any(|net| is_in(net, peer)));
        if outside || caller.deny.iter().any(|rule| covers(rule, &both)) {
            continue;
        }
        for (index, _) in caller.allow.iter().enumerate().filter(|(_, r)| covers(r, &[target.group.as_str()])) {
            allowed.push(format!("{who}.allow[{index}]"));
        }
    }
    allowed
}

prop_compose! {
    fn a_network()(text in prop::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "::/0", "fd00::/8"])) -> IpNet {
        text.parse().unwrap()
    }
}

prop_compose! {
    fn a_rule()(
        sessions in prop::collection::vec("[s*][12*]{0,2}", 1..3),
        groups in prop::collection::vec("[12*]{1,3}(@g\\.us)?", 0..3),
        listed in prop::option::of(prop::collection::vec("[12*]{1,2}(@g\\.us)?", 0..3)),
        from in prop::option::of(prop::collection::vec(a_network(), 1..3)),
        expires in prop::option::of(998..1_003_i64),
        file in 0..1_000_000_u32,
    ) -> config::Rule {
        let listed = listed.map(|groups| Arc::new(Listed {
            file: file.to_string().into(),
            groups: groups.into_iter().map(String::into_boxed_str).collect(),
        }));
        config::Rule { sessions, groups, listed, from, expires: expires.map(Timestamp::from_micros) }
    }
}

prop_compose! {
    fn a_caller(who: &'static str)(
        from in prop::option::weighted(0.2, prop::collection::vec(a_network(), 0..3)),
        allow in prop::collection::vec(a_rule(), 0..4),
        deny in prop::collection::vec(a_rule(), 0..3),
    ) -> Caller {
        Caller { name: name(who), tokens: vec![], jwt: None, certificate: None, from, rates: vec![], budgets: vec![], allow, deny }
    }
}

fn callers() -> impl Strategy<Value = Vec<Caller>> {
    (a_caller("c"), a_caller("d")).prop_map(|(c, d)| vec![c, d])
}

prop_compose! {
    fn a_request()(
        who in prop::sample::select(vec!["c", "d", "nobody"]),
        session in "s[12]{0,2}",
        group in "[12]{1,3}(@g\\.us)?",
        peer in prop::sample::select(vec!["10.1.2.3", "10.9.9.9", "192.0.2.1", "::ffff:10.1.2.3", "fd00::1"]),
        at in 997..1_004_i64,
    ) -> Request {
        (name(who), peer.parse().unwrap(), target(&session, &group), at)
    }
}

type Request = (CallerName, IpAddr, Target, i64);

/// What a policy says to each request.
fn decisions(callers: &[Caller], requests: &[Request]) -> Vec<Result<Arc<str>, NotAllowed>> {
    let policy = Policy::new(callers);
    let decide = |(who, peer, target, at): &Request| {
        policy.decide(&Question::new(who, *peer, target, Timestamp::from_micros(*at)))
    };
    requests.iter().map(decide).collect()
}

/// The same rules but for one thing that each of them says.
fn with_less(callers: &[Caller], which: usize) -> Vec<Caller> {
    let mut less = callers.to_vec();
    for rule in less.iter_mut().flat_map(|caller| caller.allow.iter_mut().chain(&mut caller.deny)) {
        match which {
            0 => rule.expires = None,
            1 => rule.from = None,
            2 => rule.listed = None,
            3 => drop(rule.groups.pop()),
            _ => drop(rule.sessions.pop()),
        }
    }
    less
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_decision_is_that_of_an_obvious_reference_and_so_is_the_explanation(callers in callers(), request in a_request()) {
        let (who, peer, target, at) = &request;
        let policy = Policy::new(&callers);
        let question = Question::new(who, *peer, target, Timestamp::from_micros(*at));
        let (decision, explanation) = (policy.decide(&question), policy.explain(&question));
        let expected = reference(&callers, who.as_str(), peer.to_canonical(), target, *at);
        prop_assert_eq!(decision.as_deref().ok(), expected.first().map(String::as_str));
        prop_assert_eq!(&explanation.decision, &decision);
        let by = decision.as_ref().map_or_else(NotAllowed::rule, |rule| Some(Arc::clone(rule)));
        prop_assert_eq!(explanation.rule(), by.as_ref());
        // What each rule comes to is enough to decide by.
        let covering = |kind: &str| explanation.looked.iter().filter(|l| l.covers && l.rule.contains(kind)).count();
        let shut_out = explanation.looked.iter().any(|l| l.rule.ends_with(".from") && !l.covers);
        prop_assert_eq!(!shut_out && covering(".deny[") == 0 && covering(".allow[") > 0, decision.is_ok());
        prop_assert!(explanation.looked.iter().all(|looked| !looked.why.is_empty()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn fewer_allow_rules_or_more_deny_rules_never_allow_more(
        callers in callers(),
        rule in a_rule(),
        at in any::<prop::sample::Index>(),
        requests in prop::collection::vec(a_request(), 1..20),
    ) {
        let mut fewer = callers.clone();
        let allow = &mut fewer[0].allow;
        if !allow.is_empty() {
            allow.remove(at.index(allow.len()));
        }
        let mut more = callers.clone();
        let deny = &mut more[0].deny;
        deny.insert(at.index(deny.len() + 1), rule);
        let [whole, fewer, more] = [&callers, &fewer, &more].map(|callers| decisions(callers, &requests));
        for ((whole, fewer), more) in whole.iter().zip(&fewer).zip(&more) {
            prop_assert!(whole.is_ok() || fewer.is_err() && more.is_err());
        }
    }

    #[test]
    fn policies_that_decide_differently_have_different_hashes(
        one in callers(),
        other in callers(),
        which in 0..5_usize,
        requests in prop::collection::vec(a_request(), 20),
    ) {
        for other in [other, with_less(&one, which)] {
            if decisions(&one, &requests) != decisions(&other, &requests) {
                prop_assert_ne!(Canonical::new(&one).hash(), Canonical::new(&other).hash());
            }
        }
    }
}
