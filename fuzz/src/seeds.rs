//! What fuzzing begins with: the tests' corpus of requests, and a few small texts of each other kind.

use crate::{files, records, requests, retry_after, targets};

/// A target: its name, what it holds, and its seeds.
pub struct Target {
    /// The name of its binary.
    pub name: &'static str,
    /// Panics where something does not hold.
    pub hold: fn(&[u8]),
    /// What it begins with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: [Target; 5] = [
    Target { name: "files", hold: files::hold, seeds: configurations },
    Target { name: "records", hold: records::hold, seeds: read_of_a_ledger },
    Target { name: "requests", hold: requests::hold, seeds: connections },
    Target { name: "retry_after", hold: retry_after::hold, seeds: field_values },
    Target { name: "targets", hold: targets::hold, seeds: heads },
];

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn connections() -> Vec<Vec<u8>> {
    let small = |bytes: &Vec<u8>| bytes.len() <= 20_000;
    crate::corpus::all().into_iter().map(|case| case.bytes).filter(small).collect()
}

/// Whole heads, and the targets in them.
fn heads() -> Vec<Vec<u8>> {
    let connections = connections();
    let targets = connections.iter().filter_map(|bytes| bytes.split(|byte| *byte == b' ').nth(1)).map(<[u8]>::to_vec);
    let targets: Vec<Vec<u8>> = targets.collect();
    connections.into_iter().chain(targets).collect()
}

fn field_values() -> Vec<Vec<u8>> {
    texts(&[
        "0",
        "7",
        "007",
        "3600",
        "3601",
        "1000000000000000000000",
        "-1",
        "+7",
        "7.5",
        "7, 8",
        " 7",
        "Tue, 24 Nov 2026 08:00:00 GMT",
        "Tue, 24 Nov 2093 08:00:00 GMT",
        "Tue, 24 Nov 2015 08:00:00 +0000",
        "24 Nov 2026 08:00 GMT",
        "Tuesday, 24-Nov-26 08:00:00 GMT",
        "Tue Nov 24 08:00:00 2026",
        "Tue, 31 Dec 9999 23:59:60 GMT",
        "Sat, 01 Jan 0000 00:00:00 GMT",
    ])
}

fn configurations() -> Vec<Vec<u8>> {
    let mut texts = texts(&[
        wasend_gateway::config::DEFAULTS,
        include_str!("../corpus/files/callers.toml"),
        include_str!("../corpus/files/everything.toml"),
        include_str!("../corpus/files/decisions.toml"),
        include_str!("../corpus/files/postgres.toml"),
    ]);
    texts.push(b"\xef\xbb\xbf[listen]\r\naddress = \"127.0.0.1:0\"\r\n".to_vec());
    texts
}

fn read_of_a_ledger() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = records::signed().into_iter().map(String::into_bytes).collect();
    let entries: Vec<&str> = include_str!("../corpus/records/entries.jsonl").lines().collect();
    seeds.extend(texts(&entries));
    seeds.extend(texts(&include_str!("../corpus/records/lines.txt").lines().collect::<Vec<_>>()));
    let bundle = entries.iter().fold(Vec::new(), |mut bundle, entry| {
        assert!(wasend_gateway::ledger::tree::bundle::push(&mut bundle, entry.as_bytes()));
        bundle
    });
    seeds.push(bundle);
    seeds
}
