//! The test of the test: each rule finds a breach that is planted for it, and is not fooled by what looks like one.

use crate::rules::{
    code_map, empty_names, exactly_once, gone, left_over, long_files, long_functions, named_tests, outside,
    sql_outside, unframed, unmapped, upward_imports,
};
use crate::source::{Kind, Source, find, functions, imports, item_length, lex};

fn plant(path: &str, text: &str) -> Vec<Source> {
    vec![Source::new(path, text)]
}

fn shown(findings: &[impl ToString]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

fn words(source: &str) -> Vec<String> {
    lex(source).into_iter().filter(|token| token.kind != Kind::Text).map(|token| token.text).collect()
}

#[test]
fn comments_strings_and_characters_are_no_code() {
    assert_eq!(words("a // b\n/* c /* d */ e */ f"), ["a", "f"]);
    assert_eq!(words(r##"a "b \" c" d r#"e " f"# g b"h" 'i' '\'' '"' j"##), ["a", "d", "g", "j"]);
    assert_eq!(words("fn f<'a>(x: &'a str) { '{' }"), words("fn f<' a>(x: &' a str) { }"));
    assert_eq!(words("r#type b'x' 1..=2"), ["r", "#", "type", "b", "1", ".", ".", "=", "2"]);
    assert_eq!(words("/* never closed"), [""; 0]);
}

#[test]
fn tokens_know_their_line_also_after_a_string_of_several() {
    let tokens = lex("a\n\"b\n\nc\" d\n/* \n */ e");
    let lines: Vec<_> = tokens.iter().map(|token| (token.text.as_str(), token.line)).collect();
    assert_eq!(lines, [("a", 1), ("\"b\n\nc\"", 2), ("d", 4), ("e", 6)]);
}

#[test]
fn a_pattern_matches_whole_names_across_line_breaks() {
    assert_eq!(find(&lex("self\n  .upstream\n  .delete(intent)"), "upstream.delete("), [2]);
    assert_eq!(find(&lex("upstream.delete_all(); my_upstream.delete()"), "upstream.delete("), [0; 0]);
    assert_eq!(find(&lex("env!(\"X\"); env::var(1)"), "env::"), [1]);
}

#[test]
fn an_item_ends_at_its_semicolon_or_with_its_body() {
    assert_eq!(item_length(&lex("mod tests; rest")), 3);
    assert_eq!(item_length(&lex("fn f(a: [u8; 3]) -> [u8; 2] { { } } rest")), 22);
}

#[test]
fn imports_are_found_in_paths_lists_and_supers() {
    let text = "use crate::{id::Id, policy::{Rule, cli}, rate};\nfn f() { crate::ledger::open(); super::super::cli::run(); super::own(); }";
    let source = Source::new("src/gateway/forward.rs", text);
    let names: Vec<_> = imports(&source).into_iter().map(|(name, line)| format!("{name} {line}")).collect();
    assert_eq!(names, ["id 1", "policy 1", "rate 1", "ledger 2", "cli 2"]);
}

#[test]
fn a_planted_upward_import_is_found() {
    for (path, text, what) in [
        ("src/gateway/forward.rs", "\nuse crate::cli::serve;", "src/gateway/forward.rs:2: gateway may not import cli"),
        ("src/id.rs", "use super::error::Refused;", "src/id.rs:1: id may not import error"),
        ("src/policy/rules.rs", "use crate::rate::Rate;", "src/policy/rules.rs:1: policy may not import rate"),
        ("src/id.rs", "use crate::clock;", "src/id.rs:1: id may not import clock"),
        ("src/error.rs", "use crate::problem::Problem;", "src/error.rs:1: error may not import problem"),
        ("src/tasks.rs", "use crate::telemetry;", "src/tasks.rs:1: tasks may not import telemetry"),
        ("src/sandbox.rs", "use crate::clock::moment;", "src/sandbox.rs:1: sandbox may not import clock"),
        ("src/server.rs", "use crate::sandbox::Sandbox;", "src/server.rs:1: server may not import sandbox"),
        ("src/main.rs", "use wasend_gateway::sandbox;", "src/main.rs:1: only cli may import sandbox"),
        ("src/novel.rs", "use crate::id::Id;", "src/novel.rs:1: the module novel has no layer"),
        ("src/cli.rs", "use crate::Everything;", "src/cli.rs:1: crate::Everything is not a module with a layer"),
    ] {
        assert_eq!(shown(&upward_imports(&plant(path, text))), [what], "{path}: {text}");
    }
}

#[test]
fn downward_imports_comments_and_tests_are_no_breach() {
    for (path, text) in [
        ("src/problem.rs", "use crate::error::Refused; use crate::head::HeadFault;"),
        ("src/cli/demo.rs", "use crate::sandbox::Sandbox; use crate::{gateway, server};"),
        ("src/sandbox.rs", "use crate::id::GroupId; use crate::secret::Secret;"),
        ("src/main.rs", "fn main() { wasend_gateway::cli::run() }"),
        ("src/gateway/answer.rs", "use super::forward::Reply; use crate::gateway::Path;"),
        ("src/id.rs", "//! See crate::cli.\n/* use crate::cli; */ const A: &str = \"crate::cli\";"),
        ("src/id.rs", "#[cfg(test)]\n#[allow(unused)]\nmod tests { use crate::cli; }\nstruct Kept;"),
        ("src/id/tests.rs", "use crate::cli;"),
    ] {
        assert_eq!(shown(&upward_imports(&plant(path, text))), [""; 0], "{path}: {text}");
    }
}

#[test]
fn only_exactly_cfg_test_hides_an_item_and_only_that_item() {
    let hidden = "#[cfg(test)]\nuse reqwest::Client;\n#[cfg(any(test, unix))]\nuse reqwest::Url;";
    assert_eq!(
        shown(&outside(&plant("src/rate.rs", hidden), &["reqwest"], &[])),
        ["src/rate.rs:4: `reqwest` stands here"]
    );
}

#[test]
fn a_planted_thing_outside_of_its_one_place_is_found() {
    for (text, pattern) in [
        ("use reqwest::Client;", "reqwest"),
        ("let now = std::time::Instant::now();", "Instant::now"),
        ("use std::{env, fs}; let home = env::var(\"HOME\");", "env::"),
        ("std::process::exit(1)", "process::exit"),
    ] {
        let what = format!("src/rate.rs:1: `{pattern}` stands here");
        assert_eq!(shown(&outside(&plant("src/rate.rs", text), &[pattern], &["upstream", "main"])), [what]);
    }
}

#[test]
fn a_home_is_a_file_or_its_folder_and_nothing_that_begins_alike() {
    for (path, breaches) in [
        ("src/upstream.rs", 0),
        ("src/upstream/tls.rs", 0),
        ("src/upstream_too.rs", 1),
        ("src/config/upstream.rs", 1),
        ("src/main.rs", 0),
    ] {
        assert_eq!(outside(&plant(path, "reqwest"), &["reqwest"], &["upstream", "main"]).len(), breaches, "{path}");
    }
}

#[test]
fn planted_sql_is_found_and_prose_is_not() {
    let text = "//! SELECT nothing\nlet a = \"\n  SELECT\n  bytes FROM entry\"; let b = \"update the entry\"; let c = \"DELETE /s1/groups\";";
    let home = ["ledger/sqlite"];
    assert_eq!(
        shown(&sql_outside(&plant("src/ledger/search.rs", text), &home)),
        ["src/ledger/search.rs:2: a string holds SQL (`SELECT`)"]
    );
    assert_eq!(sql_outside(&plant("src/ledger/sqlite/read.rs", text), &home), []);
}

#[test]
fn the_forwarding_call_is_missed_doubled_and_misplaced() {
    let (forward, call) = ("src/gateway/forward.rs", "self.upstream.delete(&intent)");
    let check = |sources: &[Source]| shown(&exactly_once(sources, "upstream.delete(", &["upstream"], forward));
    assert_eq!(check(&plant(forward, call)), [""; 0]);
    assert_eq!(check(&plant(forward, "")), ["src/gateway/forward.rs:1: `upstream.delete(` stands nowhere"]);
    assert_eq!(check(&plant(forward, &format!("{call};\n{call}"))).len(), 2);
    assert_eq!(check(&plant("src/cli/audit.rs", call)), ["src/cli/audit.rs:1: `upstream.delete(` stands here"]);
}

#[test]
fn length_counts_lines_and_is_not_fooled_by_braces_in_text() {
    let function =
        format!("fn long() {{\n let a = \"}}\"; let b = '}}'; // }}\n{} }}\nfn short() {{}}", "\n".repeat(5));
    let source = plant("src/rate.rs", &function);
    let lengths: Vec<_> = functions(&lex(&function)).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
    assert_eq!(lengths, [("long".to_owned(), 1, 8), ("short".to_owned(), 9, 1)]);
    assert_eq!(shown(&long_functions(&source, 7)), ["src/rate.rs:1: fn long has 8 lines, at most 7"]);
    assert_eq!(shown(&long_files(&source, 8)), ["src/rate.rs:9: 9 lines, at most 8"]);
    assert_eq!((long_functions(&source, 8).len(), long_files(&source, 9).len()), (0, 0));
}

#[test]
fn a_function_without_a_body_or_a_name_has_no_length() {
    assert_eq!(functions(&lex("trait T { fn a(&self) -> [u8; 2]; }\ntype F = fn(u8) -> u8;")), []);
}

#[test]
fn a_planted_empty_name_is_found() {
    for (path, text) in [("src/utils.rs", ""), ("tests/common/mod.rs", ""), ("src/id.rs", "mod helpers { }")] {
        assert_eq!(empty_names(&plant(path, text)).len(), 1, "{path}: {text}");
    }
    assert_eq!(empty_names(&plant("src/content_types.rs", "// mod types {")), []);
}

#[test]
fn a_planted_leftover_is_found_in_code_and_comments() {
    for text in [concat!("// TO", "DO: later"), concat!("//! FIX", "ME"), "fn f() { dbg!(1) }", "fn f() { todo!() }"] {
        assert_eq!(left_over(&plant("src/id.rs", text)).len(), 1, "{text}");
    }
    assert_eq!(left_over(&plant("src/id.rs", "// no dbg!(1) here\nlet undo_todos = 1;")), []);
}

#[test]
fn a_file_without_purpose_or_last_newline_is_found() {
    let findings = unframed(&plant("src/id.rs", "use a;\nuse b;"));
    assert_eq!(shown(&findings), ["src/id.rs:1: the first line is not `//! …`", "src/id.rs:2: no newline at the end"]);
    assert_eq!(unframed(&plant("src/id.rs", "//! Ids.\n")), []);
}

#[test]
fn the_code_map_is_one_section_and_names_files_or_folders() {
    let text = "# A\n## Code map\n- `id.rs`, `src/gateway/*`\n- `old.rs`.\n## Next\nrate.rs";
    let (start, map) = code_map(text).expect("the section is there");
    let sources: Vec<_> =
        ["src/id.rs", "src/rate.rs", "src/gateway/forward.rs", "src/gateway.rs"].map(|p| Source::new(p, "")).into();
    assert_eq!(
        shown(&unmapped(&sources, &map)),
        [
            "src/rate.rs:1: the code map does not know this file",
            "src/gateway.rs:1: the code map does not know this file"
        ]
    );
    assert_eq!(shown(&gone(&sources, &map, start)), ["ARCHITECTURE.md:4: names old.rs, which does not exist"]);
    assert_eq!(code_map("# A\nno map"), None);
}

#[test]
fn a_test_that_a_page_names_and_nobody_wrote_is_found() {
    let sources = plant("tests/gateway/record.rs", "fn it_is_so() { }");
    let named = |text: &str| {
        let (there, findings) = named_tests("page.md", text, &sources);
        (there, shown(&findings))
    };
    assert_eq!(named("- how: `record.rs`:\n  `it_is_so`, `api_key`"), (1, vec![]));
    assert_eq!(named("- `it_is_not`\n- `proxy_protocol = true` `record.rs`, once"), (0, vec![]));
    let missing = "page.md:2: tests/gateway/record.rs has no test it_is_not".to_owned();
    assert_eq!(named("- `record.rs`: `it_is_so`,\n  `it_is_not`\n- `it_is_not`"), (1, vec![missing]));
    assert_eq!(named("- `src/a.rs`: `it_is_so`"), (0, vec!["page.md:1: there is no src/a.rs".to_owned()]));
}
