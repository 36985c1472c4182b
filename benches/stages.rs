//! The stages that decide, by themselves: reading a head, knowing a caller, asking the policy, asking a rate.
#![allow(missing_docs, clippy::unwrap_used, reason = "not part of the product")]

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use wasend_gateway::config::{Caller, Rule, Token};
use wasend_gateway::head::{Head, Progress};
use wasend_gateway::id::{CallerName, GroupId, SessionId, Target};
use wasend_gateway::identity::{Identity, new_token};
use wasend_gateway::policy::Policy;

fn caller(number: usize, groups: Vec<String>) -> (Caller, String) {
    let (token, hash) = new_token().unwrap();
    let mut sha256 = [0; 32];
    for (byte, at) in sha256.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(hash.get(at..at + 2).unwrap(), 16).unwrap();
    }
    let name = |text: &str| CallerName::parse(text).unwrap();
    let tokens = vec![Token { id: name("t"), sha256, expires: None }];
    let allow = vec![Rule { sessions: vec!["sess1".into()], groups }];
    (
        Caller {
            name: name(&format!("c{number}")),
            tokens,
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
    let (identity, policy) = (Identity::new(&many), Policy::new(&many));
    let value = format!("Bearer {token}");
    let now = wasend_gateway::clock::Timestamp::now();
    criterion.bench_function("know one of 1,000 callers", |b| {
        b.iter(|| identity.identify(std::iter::once(black_box(value.as_bytes())), now))
    });
    let name = CallerName::parse("c999").unwrap();
    let target = Target { session: SessionId::parse("sess1").unwrap(), group: GroupId::parse("999099@g.us").unwrap() };
    let peer = "127.0.0.1".parse().unwrap();
    criterion.bench_function("decide among 100,000 listed groups", |b| {
        b.iter(|| policy.decide(black_box(&name), peer, &target).unwrap())
    });
}

criterion_group!(benches, stages);
criterion_main!(benches);
