//! Heads and targets: what the gateway takes is what the obvious reader takes, however the bytes were cut on their way.

use crate::model::{Read, deletion};
use wasend_gateway::gateway::accept::accept;
use wasend_gateway::gateway::trace::Trace;
use wasend_gateway::head::{Head, HeadFault, Progress};

fn read(bytes: &[u8], cuts: impl Iterator<Item = usize>) -> Result<Head, HeadFault> {
    let mut progress = Progress::default();
    for cut in cuts.chain([bytes.len()]) {
        match progress.advance(&bytes[..cut]) {
            Ok(None) => {}
            Ok(Some(length)) => return Head::parse(&bytes[..length]).map_err(without_words),
            Err(fault) => return Err(without_words(fault)),
        }
    }
    Err(HeadFault::TooSlow)
}

/// Of two faults in one line, the words may name the one or the other; the status is the same.
fn without_words(fault: HeadFault) -> HeadFault {
    match fault {
        HeadFault::Malformed(_) => HeadFault::Malformed("in some way"),
        other => other,
    }
}

fn one_target(target: &[u8]) {
    let text = [b"DELETE ", target, b" HTTP/1.1\r\nHost: gw\r\n\r\n"].concat();
    let mut trace = Trace::new([127, 0, 0, 1].into());
    let is = read(&text, std::iter::empty()).ok().and_then(|head| {
        accept(head, &[], &mut trace).ok()?;
        trace.target.map(|target| target.path())
    });
    let means = if target.len() <= 256 { deletion(target).map(|(path, _)| path) } else { None };
    assert_eq!(is, means, "{:?}", String::from_utf8_lossy(target));
}

/// Holds the bytes as a target, and as a head.
pub fn hold(bytes: &[u8]) {
    if !bytes.is_empty() && !bytes.iter().any(|byte| b" \r\n".contains(byte)) {
        one_target(bytes);
    }
    let whole = read(bytes, std::iter::empty());
    assert_eq!(whole, read(bytes, 0..bytes.len()), "byte by byte: {:?}", String::from_utf8_lossy(bytes));
    let middle = bytes.len() / 2;
    assert_eq!(whole, read(bytes, [middle].into_iter()), "in two parts: {:?}", String::from_utf8_lossy(bytes));
    let model = Read::first(bytes);
    let taken = |head: &Head| (head.method().as_bytes().to_vec(), head.target().as_bytes().to_vec());
    assert_eq!(
        whole.as_ref().ok().map(taken),
        model.map(|read| (read.method.to_vec(), read.target.to_vec())),
        "{whole:?}: {:?}",
        String::from_utf8_lossy(bytes)
    );
}
