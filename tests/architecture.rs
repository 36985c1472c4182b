//! Holds the shape of the house: what may import what, what stands in one place alone, and how large things get.
//!
//! Each rule is a test. When one fails, it names file and line and says how to mend it; a rule that has become wrong is
//! changed here, together with ARCHITECTURE.md. The rules read text: clippy.toml holds some of them by resolved name.
#![cfg(test)]

#[path = "architecture/planted.rs"]
mod planted;
#[path = "architecture/rules.rs"]
mod rules;
#[path = "architecture/source.rs"]
mod source;

use rules::Finding;
use source::Source;
use std::fs;
use std::path::Path;

const LONGEST_FILE: usize = 400;
const LONGEST_FUNCTION: usize = 70;
const LONGEST_ARCHITECTURE: usize = 200;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What ships.
fn shipped() -> Vec<Source> {
    let sources = source::read_all(root(), "src").expect("src can be read");
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"), "src/lib.rs was not found: nothing was checked");
    sources
}

/// All Rust code of ours.
fn everything() -> Vec<Source> {
    let mut sources = shipped();
    for folder in ["tests", "benches", "fuzz"] {
        sources.extend(source::read_all(root(), folder).expect("the folder can be read"));
    }
    sources
}

/// Fails with every finding and the mend.
fn hold(findings: &[Finding], mend: &str) {
    let list: String = findings.iter().map(|finding| format!("\n  {finding}")).collect();
    assert!(findings.is_empty(), "{list}\n  Mend: {mend}\n");
}

#[test]
fn imports_run_downward_only() {
    hold(
        &rules::upward_imports(&shipped()),
        "move what both need down a layer, or pass it in as a value from cli/serve.rs; a new module gets its layer in \
         tests/architecture/rules.rs",
    );
}

#[test]
fn reqwest_is_known_to_upstream_alone() {
    hold(
        &rules::outside(&shipped(), &["reqwest"], &["upstream"]),
        "let src/upstream.rs do it: one client, without redirects, retries, proxies and decompression, holds the key",
    );
}

#[test]
fn redis_is_known_to_the_shared_rates_alone() {
    let library = ["redis::{", "redis::aio", "redis::cmd", "redis::Client", "MultiplexedConnection"];
    hold(
        &rules::outside(&shipped(), &library, &["rate/redis"]),
        "let src/rate/redis do it: one connection, given up when in doubt, and no answer but a sure one",
    );
}

#[test]
fn sql_stands_in_the_stores_alone() {
    let (sources, home) = (shipped(), ["ledger/sqlite", "ledger/postgres"]);
    let mut findings = rules::outside(&sources, &["rusqlite"], &["ledger/sqlite"]);
    findings.extend(rules::outside(&sources, &["tokio_postgres"], &["ledger/postgres"]));
    findings.extend(rules::sql_outside(&sources, &home));
    hold(&findings, "give the store a verb of the gateway's (intend, conclude, search …) and put the SQL behind it");
}

#[test]
fn the_environment_is_read_by_config_and_main_alone() {
    hold(
        &rules::outside(
            &shipped(),
            &["use std::env", "env::var", "env::args", "env::set_var", "env::remove_var"],
            &["config", "main"],
        ),
        "make it a key of the configuration: check-config then sees it, and faults are reported together",
    );
}

#[test]
fn time_is_read_by_clock_alone() {
    let readings = ["Instant::now", "SystemTime::now", "Moment::now", ".elapsed()", "jiff"];
    hold(
        &rules::outside(&shipped(), &readings, &["clock"]),
        "call clock::moment() for deadlines and clock::Timestamp::now() for entries; a new need is a function in src/clock.rs",
    );
}

#[test]
fn the_call_that_forwards_stands_once_in_the_forward_stage() {
    let (sources, forward) = (shipped(), "src/gateway/forward.rs");
    let mut findings = rules::exactly_once(&sources, ".delete(", &["upstream"], forward);
    findings.extend(rules::exactly_once(&sources, "upstream.delete(", &["upstream"], forward));
    hold(
        &findings,
        "forwarding takes an Intent and happens in src/gateway/forward.rs, once: hand the intent to that stage",
    );
}

#[test]
fn the_resolver_only_reads() {
    let (sources, look) = (shipped(), "src/upstream/picture.rs");
    // A request is built in one place, which two others reach, each with its method.
    let mut findings =
        rules::exactly_once(&sources, "Request::new(", &["server", "sandbox", "head"], "src/upstream.rs");
    findings.extend(rules::exactly_once(&sources, "ready(Method::DELETE", &[], "src/upstream.rs"));
    findings.extend(rules::exactly_once(&sources, "ready(Method::GET", &[], look));
    for pattern in ["client.request(", "client.delete(", "client.get(", "client.put(", "client.post(", ".method_mut("] {
        findings.extend(rules::outside(&sources, &[pattern], &["server", "gateway", "sandbox", "head"]));
    }
    let reading: Vec<_> = sources.into_iter().filter(|s| s.path == look || s.path == "src/resolver.rs").collect();
    assert_eq!(reading.len(), 2, "the files that look at pictures were not found");
    findings.extend(rules::outside(&reading, &["DELETE", "Prepared", "prepare(", ".delete(", ".intend("], &[]));
    hold(&findings, "a look at a picture is a GET that src/upstream/picture.rs builds, and nothing else");
}

#[test]
fn the_process_ends_through_main_or_serve_alone() {
    hold(
        &rules::outside(&shipped(), &["process::exit", "process::abort"], &["main", "cli/serve"]),
        "return an exit code: intents that are under way must get their outcome first",
    );
}

#[test]
fn files_stay_short_enough_to_be_read() {
    hold(&rules::long_files(&everything(), LONGEST_FILE), "split the file where its second subject begins");
}

#[test]
fn functions_stay_short_enough_to_be_read() {
    hold(&rules::long_functions(&everything(), LONGEST_FUNCTION), "name a part of the function after what it does");
}

#[test]
fn names_say_what_is_inside() {
    hold(
        &rules::empty_names(&everything()),
        "name it after the one thing that it is about, or move each part to where it is used",
    );
}

#[test]
fn nothing_unfinished_is_left() {
    hold(&rules::left_over(&everything()), "finish it or take it out; what comes later is absent until then");
}

#[test]
fn every_file_begins_with_its_purpose_and_ends_with_a_newline() {
    hold(
        &rules::unframed(&everything()),
        "begin with `//! ` and one sentence about what the file is for; end with a newline",
    );
}

#[test]
fn readme_and_architecture_are_there_and_short() {
    let mut findings = Vec::new();
    for name in ["README.md", "ARCHITECTURE.md"] {
        let lines = fs::read_to_string(root().join(name)).unwrap_or_default().lines().count();
        if lines == 0 {
            findings.push(Finding::new(name, 1, "is missing or empty"));
        }
        if name == "ARCHITECTURE.md" && lines > LONGEST_ARCHITECTURE {
            findings.push(Finding::new(name, lines, format!("{lines} lines, at most {LONGEST_ARCHITECTURE}")));
        }
    }
    hold(&findings, "ARCHITECTURE.md is read in one sitting: what is longer goes to docs/");
}

#[test]
fn the_code_map_knows_every_file_and_no_other() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap_or_default();
    let sources = shipped();
    let findings = match rules::code_map(&text) {
        None => vec![Finding::new("ARCHITECTURE.md", 1, "there is no section `## Code map`")],
        Some((start, map)) => {
            let mut findings = rules::unmapped(&sources, &map);
            findings.extend(rules::gone(&everything(), &map, start));
            findings
        }
    };
    hold(&findings, "keep the section `## Code map` true: a line a file (`id.rs`) or a folder (`gateway/`)");
}

#[test]
fn tests_that_a_page_names_are_there() {
    let sources = everything();
    let mut findings = Vec::new();
    for (page, start, sections) in [("README.md", "## The promises", 1), ("docs/threat-model.md", "### 1.", 8)] {
        let text = fs::read_to_string(root().join(page)).unwrap_or_default();
        let part = text.find(start).and_then(|at| text.get(at..)).unwrap_or_default();
        let part = part.split("\n## ").next().unwrap_or_default();
        let skipped = text.split(start).next().unwrap_or_default().lines().count();
        let parts: Vec<&str> = part.split("\n### ").collect();
        if parts.len() != sections || part.is_empty() {
            findings.push(Finding::new(page, 1, format!("{} parts that name tests, not {sections}", parts.len())));
        }
        let mut line = skipped;
        for text in parts {
            let (there, found) = rules::named_tests(page, &("\n".repeat(line) + text), &sources);
            if there == 0 && found.is_empty() {
                findings.push(Finding::new(page, line + 1, "no test is named here"));
            }
            findings.extend(found);
            line += text.matches('\n').count() + 1;
        }
    }
    hold(&findings, "a page names tests by file and name: say what the test is called now, or which other one it is");
}

#[test]
fn every_promise_is_also_one_whose_breach_is_a_weakness() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap_or_default();
    let (readme, security) = (read("README.md"), read("SECURITY.md"));
    let promises: Vec<&str> = readme
        .lines()
        .filter_map(|line| line.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix(". **")?.split_once("**"))
        .map(|(name, _)| name)
        .collect();
    let missing = promises.iter().filter(|name| !security.contains(&format!("**{name}**")));
    let mut findings: Vec<_> =
        missing.map(|name| Finding::new("SECURITY.md", 1, format!("the promise `{name}` is not there"))).collect();
    if promises.len() != 8 {
        findings.push(Finding::new("README.md", 1, format!("{} promises, not 8", promises.len())));
    }
    hold(&findings, "whoever reports a weakness reads SECURITY.md: it has to name every promise of the README");
}

#[test]
fn failpoints_are_not_in_a_release_build() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap_or_default();
    let (module, cargo) = (read("src/failpoint.rs"), read("Cargo.toml"));
    let mut findings = Vec::new();
    // What is armed has types of its own, so without this module nothing that names them compiles.
    if !module.contains("#[cfg(debug_assertions)]\nmod armed;\n") || module.matches("mod armed").count() != 1 {
        findings.push(Finding::new("src/failpoint.rs", 1, "`mod armed` is not for debug builds alone"));
    }
    if cargo.contains("debug-assertions") {
        findings.push(Finding::new("Cargo.toml", 1, "a profile sets debug-assertions, and with it the failpoints"));
    }
    hold(&findings, "whoever runs a release must not be able to make it fail: keep failpoints out of it");
}
