//! The stages that decide, by themselves: reading a head, knowing a caller, asking the policy, asking a rate.
#![allow(missing_docs, clippy::unwrap_used, reason = "not part of the product")]

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use wasend_gateway::config::{Caller, Listed, Rule, Token};
use wasend_gateway::head::{Head, Progress};
use wasend_gateway::id::{CallerName, GroupId, SessionId, Target};
use wasend_gateway::identity::{Identity, new_token};
use wasend_gateway::policy::{Policy, Question};

fn caller(number: usize, groups: Vec<String>) -> (Caller, String) {
    let (token, hash) = new_token().unwrap();
    let mut sha256 = [0; 32];
    for (byte, at) in sha256.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(hash.get(at..at + 2).unwrap(), 16).unwrap();
    }
    let name = |text: &str| CallerName::parse(text).unwrap();
    let tokens = vec![Token { id: name("t"), sha256, expires: None }];
    let allow = vec![Rule { sessions: vec!["sess1".into()], groups, ..Rule::default() }];
    (
        Caller {
            name: name(&format!("c{number}")),
            tokens,
            jwt: None,
            certificate: None,
            from: None,
            rates: vec![],
            budgets: vec![],
            allow,
            deny: vec![],
        },
        token,
    )
}

fn stages(criterion: &mut Criterion) {
    let (many, tokens): (Vec<_>, Vec<_>) =
        (0..1000).map(|n| caller(n, (0..100).map(|g| format!("{n}{g:03}@g.us")).collect())).unzip();
    let token = tokens.last().unwrap();
    let bytes = format!(
        "DELETE /sess1/groups/120363000000000001@g.us/picture HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\nAccept: */*\r\nUser-Agent: bench\r\n\r\n"
    );
    criterion.bench_function("read a head", |b| {
        b.iter(|| {
            let length = Progress::default().advance(black_box(bytes.as_bytes())).unwrap().unwrap();
            Head::parse(bytes.as_bytes().get(..length).unwrap()).unwrap()
        });
    });
    let (identity, policy) = (Identity::new(&many, &[]), Policy::new(&many));
    let value = format!("Bearer {token}");
    let now = wasend_gateway::clock::Timestamp::now();
    criterion.bench_function("know one of 1,000 callers", |b| {
        b.iter(|| identity.identify(std::iter::once(black_box(value.as_bytes())), None, now))
    });
    let name = CallerName::parse("c999").unwrap();
    let target = Target { session: SessionId::parse("sess1").unwrap(), group: GroupId::parse("999099@g.us").unwrap() };
    let peer = "127.0.0.1".parse().unwrap();
    criterion.bench_function("decide among 100,000 groups in 1,000 rules", |b| {
        b.iter(|| policy.decide(&Question::new(black_box(&name), peer, &target, now)).unwrap())
    });
    let policy = Policy::new(&everything_at_once(&many));
    criterion.bench_function("decide with lists of 100,000 groups, networks and expiry", |b| {
        b.iter(|| policy.decide(&Question::new(black_box(&name), peer, &target, now)).unwrap())
    });
}

/// The same callers, each with networks, a denied list of 100,000 groups and an allowed one, in rules that expire.
fn everything_at_once(callers: &[Caller]) -> Vec<Caller> {
    let list = |file: &str, first: u32| {
        let groups = (first..first + 100_000).map(|group| format!("{group}@g.us").into()).collect();
        Some(Arc::new(Listed { file: file.into(), groups }))
    };
    let from: Option<Vec<_>> = Some(["10.0.0.0/8", "fd00::/8", "127.0.0.0/8"].map(|net| net.parse().unwrap()).to_vec());
    let expires = wasend_gateway::clock::Timestamp::parse("2999-01-01");
    let whole = Rule { sessions: vec!["sess1".into(), "eu-*".into()], from: from.clone(), expires, ..Rule::default() };
    let allow = Rule { listed: list("allowed", 900_000), ..whole.clone() };
    let deny = Rule { listed: list("denied", 1_000_000), groups: vec!["00*@g.us".into()], ..whole };
    let full = |caller: &Caller| Caller {
        from: from.clone(),
        allow: vec![allow.clone()],
        deny: vec![deny.clone()],
        ..caller.clone()
    };
    callers.iter().map(full).collect()
}

criterion_group!(benches, stages);
criterion_main!(benches);
