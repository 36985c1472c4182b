//! The provider does whatever a provider can do: what is answered and recorded is what it confirmed, and nothing is
//! sent twice.

use crate::erratic::{Erratic, Knowledge, Play, Reads, Step};
use crate::plays::{self, Row};
use crate::promises::{Heard, ask, connect};
use crate::running::{Gateway, TOKEN, caller, configuration, eventually};
use crate::soak::{Random, count};
use crate::wire::{Response, delete};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

/// The resolver would ask for pictures in between.
const QUIET: &str = "[resolver]\nenabled = false\n";

fn gateway(url: &str, timeout_ms: usize) -> Gateway {
    let timeout = format!("timeout_ms = {timeout_ms}");
    Gateway::with(&configuration(
        url,
        &[("upstream", &timeout)],
        &(QUIET.to_owned() + &caller("moderation", TOKEN, "")),
    ))
}

/// Asks once for each row, all at once, and holds what is heard, recorded and sent against it. Each row has been asked
/// for `before` times by then.
fn hold(gateway: &Gateway, provider: &Erratic, rows: &[Row], before: usize) {
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let ask = |group: usize| {
            let target = format!("/sess1/groups/{group}@g.us/picture");
            scope.spawn(move || delete(gateway.listen, &target, TOKEN))
        };
        let asked: Vec<_> = (0..rows.len()).map(ask).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    // An answer that is late does not wait for its record.
    eventually("every outcome is recorded", || gateway.of_kind("outcome").len() == rows.len() * (before + 1));
    let mut outcomes = HashMap::new();
    for entry in gateway.of_kind("outcome") {
        let id = entry["request_id"].as_str().unwrap().to_owned();
        assert!(outcomes.insert(id, entry["outcome"].clone()).is_none(), "one outcome each");
    }
    let mut wrong = Vec::new();
    for (group, (Row { play, told, .. }, answer)) in rows.iter().zip(answers).enumerate() {
        let (status, code, sent, outcome) = *told;
        let heads = provider.with(|knows| knows.heads.get(&(group as u64)).copied());
        let recorded = outcomes.get(answer.header("x-request-id").unwrap());
        let is = (answer.status, &*answer.code(), &*answer.sent(), recorded, heads);
        if is != (status, code, sent, Some(&outcome.into()), Some(before + 1)) {
            wrong.push(format!("{}: {is:?}, {}", play.name, answer.body));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(provider.with(|knows| knows.strange.is_empty()), "{:?}", provider.with(|knows| knows.strange.clone()));
}

/// It begins to play once it has heard of every row: no request is sent on a connection that another one is spoiling.
fn provider(rows: &Arc<Vec<Row>>) -> Erratic {
    let (rows, all_heard) = (Arc::clone(rows), Barrier::new(rows.len()));
    Erratic::start(move |group| {
        all_heard.wait();
        rows[usize::try_from(group).unwrap()].play.clone()
    })
}

#[test]
fn whatever_the_provider_does_the_answer_and_the_outcome_say_what_is_known() {
    let elsewhere = Erratic::start(|_| Play::new("elsewhere", vec![Step::Close]));
    let rows: Vec<Row> = plays::all(&elsewhere.url()).into_iter().filter(|row| !row.is_slow).collect();
    let rows = Arc::new(rows);
    let provider = provider(&rows);
    let gateway = gateway(&provider.url(), 25_000);
    // First on connections of their own, then on what the first time left behind.
    for before in [0, 1] {
        hold(&gateway, &provider, &rows, before);
    }
    assert_eq!((elsewhere.connections(), elsewhere.with(|knows| knows.strange.len() + knows.heads.len())), (0, 0));
    println!("{} plays, twice", rows.len());
}

#[test]
fn a_provider_that_says_something_but_never_all_of_it_is_waited_for_until_the_deadline_alone() {
    let rows = plays::all("http://127.0.0.1:1").into_iter().filter(|row| row.is_slow).collect();
    let rows = Arc::new(rows);
    let provider = provider(&rows);
    hold(&gateway(&provider.url(), 6000), &provider, &rows, 0);
    println!("{} plays", rows.len());
}

/// What a provider does by chance: anything, whole answers cut anywhere, refusals with a byte changed.
fn by_chance(random: &mut Random, rows: &[Row]) -> Play {
    let any = |random: &mut Random, fits: &dyn Fn(&Row) -> bool| {
        let fitting: Vec<&Row> = rows.iter().filter(|row| fits(row)).collect();
        fitting[random.below(fitting.len())].play.clone()
    };
    let whole = |random: &mut Random| [plays::yes(), plays::no()[random.below(2)].clone()][random.below(2)].clone();
    match random.below(100) {
        0 => any(random, &|row| row.is_slow),
        1..40 => any(random, &|row| row.play.confirms),
        40..60 => {
            let mut bytes = whole(random).into_bytes();
            bytes.truncate(random.below(bytes.len()));
            Play::new("cut anywhere", vec![Step::Say(bytes), Step::Close])
        }
        60..75 => {
            let mut bytes = plays::no()[random.below(2)].clone().into_bytes();
            let (at, flip) = (random.below(bytes.len()), 1 + random.below(255));
            bytes[at] ^= u8::try_from(flip).unwrap();
            Play::new("changed anywhere", vec![Step::Say(bytes), Step::Close])
        }
        75..80 => Play::new("read in part", vec![Step::Close]).reading(Reads::Some(1 + random.below(100))),
        _ => any(random, &|row| !row.is_slow),
    }
}

/// Callers that ask `calls` times in all.
fn load(gateway: &Gateway, calls: usize, unsent: &AtomicUsize) -> Vec<Heard> {
    let left = AtomicUsize::new(calls);
    let is_left = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
    let call = || {
        let (mut stream, mut heard) = (connect(gateway.listen).unwrap(), Vec::new());
        while is_left() {
            let answer = ask(&mut stream).expect("an answer on a connection that stays");
            unsent.fetch_add(usize::from(answer.sent == "no"), Ordering::SeqCst);
            heard.push(answer);
        }
        heard
    };
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..16).map(|_| scope.spawn(call)).collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    })
}

/// What is wrong with an outcome, given what the provider knows.
fn wrong(outcome: &str, group: u64, knows: &Knowledge) -> bool {
    match outcome {
        "deleted" => !knows.confirmed.contains(&group),
        "not-sent" => knows.read.contains(&group),
        "refused" => !knows.read.contains(&group) || knows.confirmed.contains(&group),
        "unknown" => false,
        _ => true,
    }
}

#[test]
fn a_provider_that_fails_by_chance_never_makes_the_ledger_or_an_answer_say_more_than_is_known() {
    let (random, calls) = (Random::new(), count(100_000));
    let rows = plays::all("http://127.0.0.1:1");
    let provider = Erratic::start(move |group| by_chance(&mut random.of(group), &rows));
    let mut gateway = gateway(&provider.url(), 3000);
    let unsent = AtomicUsize::new(0);
    let mut heard = load(&gateway, calls / 4, &unsent);
    let before = gateway.resident_kib();
    heard.extend(std::thread::scope(|scope| {
        let rest = scope.spawn(|| load(&gateway, calls - calls / 4, &unsent));
        for times in 1..=3 {
            provider.be_away(true);
            eventually("nobody is there", || unsent.load(Ordering::SeqCst) >= times || rest.is_finished());
            provider.be_away(false);
        }
        rest.join().unwrap()
    }));
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(gateway.stop().success(), "every outcome is recorded");
    let mut outcomes: HashMap<String, String> = HashMap::new();
    let (mut groups, mut tally) = (HashMap::new(), BTreeMap::new());
    for entry in gateway.entries() {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        if entry["kind"] == "intent" {
            groups.insert(text("request_id"), text("group").trim_end_matches("@g.us").parse::<u64>().unwrap());
        } else if entry["kind"] == "outcome" {
            *tally.entry(text("outcome")).or_insert(0) += 1;
            assert!(outcomes.insert(text("request_id"), text("outcome")).is_none(), "one outcome each");
        }
    }
    assert_eq!((heard.len(), groups.len(), outcomes.len()), (calls, calls, calls));
    provider.with(|knows| {
        assert!(knows.strange.is_empty(), "{:?}", knows.strange);
        for (id, outcome) in &outcomes {
            assert!(!wrong(outcome, groups[id], knows), "group {} is recorded as {outcome}", groups[id]);
        }
        for answer in &heard {
            let group = groups[&answer.id];
            let told = (answer.status == 200, answer.sent == "no");
            let recorded = &outcomes[&answer.id];
            assert_eq!(told, (recorded == "deleted", recorded == "not-sent"), "{answer:?}: {recorded}");
            assert!(knows.heads.get(&group).is_none_or(|heads| *heads == 1), "{answer:?} was sent twice");
        }
        println!("{calls} calls, {} read, {} confirmed", knows.read.len(), knows.confirmed.len());
    });
    println!("{tally:?}; {before} KiB after a quarter, {grown} KiB more at the end");
    assert_eq!(tally.len(), 4, "each outcome was there: {tally:?}");
    // What is kept for one call alone would be 75 times this in full.
    assert!(grown < 32 * 1024, "{before} KiB grew by {grown} KiB");
}
