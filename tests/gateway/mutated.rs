//! Thousands of damaged policies: each is refused with its faults, or means exactly what a slow and obvious reader of
//! the same text says. So none is wider than its text, and none makes the gateway crash.

use crate::running::{BINARY, configuration, sha256};
use crate::soak::{Random, count};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use toml::{Table, Value as Toml};

const LIST: &str = "# groups\n2@g.us\n77@g.us # one more\n9*@g.us\n";
const CALLERS: [&str; 3] = ["c1", "c2", "ghost"];
const SESSIONS: [&str; 3] = ["s1", "s2", "s10"];
const GROUPS: [&str; 6] = ["1", "1@g.us", "2", "2@g.us", "77@g.us", "95@g.us"];
const PEERS: [&str; 4] = ["10.0.0.1", "10.1.0.1", "::ffff:10.1.0.1", "fd00::1"];
const TIMES: [&str; 2] = ["2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z"];

fn whole() -> String {
    let token = |of: &str| sha256(of);
    let callers = format!(
        r#"[[callers]]
name = "c1"
tokens = [{{ id = "t", sha256 = "{}" }}]
from = ["10.0.0.0/8"]
[[callers.allow]]
sessions = ["s1", "s1*"]
groups = ["1@g.us", "2*"]
expires = 2028-01-01T00:00:00Z
[[callers.allow]]
sessions = ["s2"]
groups_file = "groups.txt"
from = ["10.1.0.0/16"]
[[callers.deny]]
sessions = ["*"]
groups = ["77@g.us"]
[[callers.deny]]
sessions = ["s10"]
groups = ["*"]
expires = 2028-01-01T00:00:00Z
[[callers]]
name = "c2"
tokens = [{{ id = "t", sha256 = "{}" }}]
[[callers.allow]]
sessions = ["*"]
groups = ["*@g.us"]
[[callers.deny]]
sessions = ["s2"]
groups_file = "groups.txt"
from = ["fd00::/8", "10.1.0.1"]
"#,
        token("one"),
        token("two")
    );
    configuration("http://127.0.0.1:9", &[], &callers)
}

/// One request: caller, session, group, peer, time.
type Probe = [&'static str; 5];

fn probes() -> Vec<Probe> {
    let mut probes = Vec::new();
    for caller in CALLERS {
        for session in SESSIONS {
            for group in GROUPS {
                for peer in PEERS {
                    probes.extend(TIMES.map(|at| [caller, session, group, peer, at]));
                }
            }
        }
    }
    probes
}

/// A star takes nothing, or one byte and asks again.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    match (glob.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if matches(rest, text) => true,
        (Some((b'*', _)), Some((_, tail))) => matches(glob, tail),
        (Some((wanted, rest)), Some((byte, tail))) => wanted == byte && matches(rest, tail),
        _ => false,
    }
}

fn texts(rule: &Table, key: &str) -> Option<Vec<String>> {
    let list = rule.get(key)?.as_array()?;
    Some(list.iter().map(|text| text.as_str().unwrap().to_owned()).collect())
}

/// An address as 128 bits, IPv4 in its place among IPv6.
fn bits(ip: &str) -> String {
    match ip.parse().unwrap() {
        std::net::IpAddr::V4(ip) => format!("{:0128b}", u128::from(ip.to_ipv6_mapped())),
        std::net::IpAddr::V6(ip) => format!("{:0128b}", u128::from(ip)),
    }
}

fn is_in(networks: &[String], peer: &str) -> bool {
    networks.iter().any(|network| {
        let (ip, length) = network.split_once('/').unwrap_or((network, ""));
        let all = if ip.contains(':') { 128 } else { 32 };
        let length = 128 - all + length.parse().unwrap_or(all);
        // `::/0` and its like are networks of IPv6 alone.
        let same_kind = bits(ip)[..96] == bits("0.0.0.0")[..96] || bits(peer)[..96] != bits("0.0.0.0")[..96];
        same_kind && bits(ip)[..length] == bits(peer)[..length]
    })
}

fn time(value: &Toml) -> jiff::Timestamp {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().unwrap_or_else(|_| format!("{text}T00:00:00Z").parse().unwrap())
}

fn covers(rule: &Table, lists: &Path, [_, session, group, peer, at]: Probe, ids: &[&str]) -> bool {
    let mut groups = texts(rule, "groups").unwrap_or_default();
    if let Some(file) = rule.get("groups_file") {
        let text = std::fs::read_to_string(lists.join(file.as_str().unwrap())).unwrap();
        let entries = text.lines().map(|line| line.split('#').next().unwrap().trim().to_owned());
        groups.extend(entries.filter(|entry| !entry.is_empty()));
    }
    let _ = group;
    texts(rule, "sessions").unwrap().iter().any(|pattern| matches(pattern.as_bytes(), session.as_bytes()))
        && ids.iter().any(|id| groups.iter().any(|pattern| matches(pattern.as_bytes(), id.as_bytes())))
        && texts(rule, "from").is_none_or(|networks| is_in(&networks, peer))
        && rule.get("expires").is_none_or(|expires| at.parse::<jiff::Timestamp>().unwrap() < time(expires))
}

/// Whether the text allows it.
fn reference(config: &Table, lists: &Path, probe: Probe) -> bool {
    let [who, _, group, peer, _] = probe;
    let bare = group.trim_end_matches("@g.us");
    let both = [bare, &format!("{bare}@g.us")];
    let tables = |of: &Table, key: &str| -> Vec<Table> {
        of.get(key).and_then(Toml::as_array).into_iter().flatten().map(|t| t.as_table().unwrap().clone()).collect()
    };
    tables(config, "callers").iter().any(|caller| {
        caller["name"].as_str() == Some(who)
            && texts(caller, "from").is_none_or(|networks| is_in(&networks, peer))
            && !tables(caller, "deny").iter().any(|rule| covers(rule, lists, probe, &both))
            && tables(caller, "allow").iter().any(|rule| covers(rule, lists, probe, &[group]))
    })
}

/// Damages a text in one of the ways in which texts get damaged.
fn damage(text: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(text.len());
    let lines: Vec<Vec<u8>> = text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let (one, other) = (random.below(lines.len()), random.below(lines.len()));
    let mut changed = lines.clone();
    match random.below(8) {
        0 if !text.is_empty() => {
            text[at] = if random.below(4) == 0 {
                u8::try_from(random.below(256)).unwrap()
            } else {
                b"012sdf*@.-/ \""[random.below(13)]
            }
        }
        1 => drop(text.drain(at..(at + 1 + random.below(20)).min(text.len()))),
        2 => text.truncate(at),
        3 => {
            let words = [
                "*",
                "\"",
                "]",
                "[",
                "#",
                "\n",
                ",",
                "@g.us",
                "0",
                "deny",
                "allow",
                "/0",
                "[[callers]]\n",
                "-",
                "\u{0}",
            ];
            let word = words[random.below(words.len())];
            drop(text.splice(at..at, word.bytes()));
        }
        4 if !lines.is_empty() => {
            changed.remove(one);
            *text = changed.concat();
        }
        5 if !lines.is_empty() => {
            changed.insert(other, lines[one].clone());
            *text = changed.concat();
        }
        6 if !lines.is_empty() => {
            changed.swap(one, other);
            *text = changed.concat();
        }
        _ => {
            let (words, place) = (
                ["deny", "allow", "s1", "s2", "\"*\"", "groups", "sessions", "from", "10."],
                String::from_utf8_lossy(text),
            );
            let (old, new) = (words[random.below(words.len())], words[random.below(words.len())]);
            *text = place.replacen(old, new, 1 + random.below(3)).into_bytes();
        }
    }
}

/// What the gateway says to all probes; nothing when it refuses the files.
fn asked(folder: &Path, probes: &[Probe]) -> Option<Vec<bool>> {
    let output = Command::new(BINARY)
        .args(["policy", "test", "probes.toml", "--config", "gateway.toml", "--json"])
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(64) => {
            assert!(said.contains(" fault") && said.lines().count() > 1, "no fault is named: {said}");
            None
        }
        Some(0 | 1) => {
            let text = String::from_utf8(output.stdout).unwrap();
            let answers =
                text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["is"]["allowed"] == true);
            let answers: Vec<bool> = answers.collect();
            assert_eq!(answers.len(), probes.len());
            Some(answers)
        }
        code => panic!("it ended with {code:?}: {said}"),
    }
}

#[test]
fn a_damaged_policy_is_refused_or_means_what_its_text_says() {
    let (probes, mut random) = (probes(), Random::new());
    let folder = tempfile::tempdir().unwrap();
    let (config, list) = (folder.path().join("gateway.toml"), folder.path().join("groups.txt"));
    let table: String = probes
        .iter()
        .map(|[caller, session, group, from, at]| {
            format!("[[decisions]]\ncaller = \"{caller}\"\nsession = \"{session}\"\ngroup = \"{group}\"\nfrom = \"{from}\"\nat = {at}\nexpect = \"refused\"\n")
        })
        .collect();
    std::fs::write(folder.path().join("probes.toml"), table).unwrap();
    let (mut taken, mut refused, mut wider) = (0, 0, 0);
    let mut hold = |config_text: &[u8], list_text: &[u8], before: Option<&[bool]>| -> Option<Vec<bool>> {
        std::fs::write(&config, config_text).unwrap();
        std::fs::write(&list, list_text).unwrap();
        let shown = || format!("{}\n--\n{}", String::from_utf8_lossy(config_text), String::from_utf8_lossy(list_text));
        let Some(answers) = asked(folder.path(), &probes) else {
            refused += 1;
            return None;
        };
        taken += 1;
        let text = std::str::from_utf8(config_text).unwrap_or_else(|_| panic!("it is no text\n{}", shown()));
        let parsed: Table = text.parse().unwrap_or_else(|e| panic!("{e}\n{}", shown()));
        for (index, (probe, is)) in probes.iter().zip(&answers).enumerate() {
            assert_eq!(*is, reference(&parsed, folder.path(), *probe), "{probe:?}\n{}", shown());
            wider += usize::from(*is && before.is_some_and(|before| !before[index]));
        }
        Some(answers)
    };
    let undamaged = hold(whole().as_bytes(), LIST.as_bytes(), None).expect("it is whole");
    assert!(undamaged.iter().filter(|allowed| **allowed).count() > 20, "the probes find something");
    let all = count(10_000);
    for _ in 0..all {
        let (mut config_text, mut list_text) = (whole().into_bytes(), LIST.as_bytes().to_vec());
        // What stands before the callers is not the policy.
        let begin = whole().find("[[callers]]").unwrap();
        let mut policy = config_text.split_off(begin);
        for _ in 0..=random.below(2) {
            damage(if random.below(6) == 0 { &mut list_text } else { &mut policy }, &mut random);
        }
        config_text.extend(policy);
        hold(&config_text, &list_text, Some(&undamaged));
    }
    println!("{taken} taken, {refused} refused, {wider} decisions wider because the text is");
    assert!(
        taken > all / 40 && refused > all / 40,
        "{taken} taken, {refused} refused: the damage is too small or too great"
    );
}
