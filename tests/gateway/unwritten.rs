//! What a command has to say and cannot write.

use crate::provider::Provider;
use crate::running::{BINARY, Gateway, TARGET, TOKEN};
use crate::wire::delete;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Into a disk that is full.
fn into_a_full_disk(words: &[&str], config: Option<&Path>) -> Output {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(BINARY);
    command.args(words).stdout(full).stderr(Stdio::piped());
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command.output().unwrap()
}

#[test]
fn output_that_cannot_be_written_is_said_and_does_not_count_as_done() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    let config = gateway.config();
    let held = |words: &[&str], config: Option<&Path>| {
        let output = into_a_full_disk(words, config);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(69), "{words:?}: {said}");
        assert_eq!(said.matches("cannot be written").count(), 1, "{words:?}: {said}");
        assert!(!said.contains("Give the token"), "{words:?}: {said}");
    };
    held(&["demo", "--once"], None);
    held(&["status"], Some(&config));
    held(&["freeze", "--all", "--reason", "x"], Some(&config));
    assert!(gateway.stop().success());
    for words in [
        &["audit", "export"][..],
        &["audit", "export", "--format", "csv"],
        &["audit", "search"],
        &["audit", "search", "--json"],
        &["audit", "show", "2"],
        &["audit", "tail", "-f"],
        &["audit", "stats"],
        &["audit", "verify"],
        &["audit", "checkpoint", "--vkey"],
        &["audit", "reindex"],
        &["check-config"],
        &["policy", "show"],
        &["status"],
    ] {
        held(words, Some(&config));
    }
    for words in [&["token", "new"][..], &["--version"], &["help"]] {
        held(words, None);
    }
    let no = into_a_full_disk(&["explain", "--caller", "c", "--session", "s", "--group", "1@g.us"], Some(&config));
    assert_eq!(no.status.code(), Some(1), "a no stays one");
}

#[test]
fn a_reader_that_has_gone_away_is_no_error() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    assert!(gateway.stop().success());
    for words in [&["audit", "export"][..], &["status"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output =
            Command::new(BINARY).args(words).arg("--config").arg(gateway.config()).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(0), ""), "{words:?}");
    }
}
