//! Whole connections through the real server: what reaches the provider is the canonical DELETE of a request that the
//! obvious reader finds in the bytes, or nothing; and every 200 has one.

use crate::model::deletions;
use crate::running::TOKEN;
use crate::world::World;
use std::cell::OnceCell;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

/// Sends the bytes in two parts, the first one read before the second is sent, and hears everything.
async fn exchange(world: &World, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(world.callers).await.expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    let sum = bytes.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    for part in <[&[u8]; 2]>::from(bytes.split_at(sum % (bytes.len() + 1))) {
        // A refusal may close while the rest is still being sent.
        let _ = stream.write_all(part).await;
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    let _ = stream.shutdown().await;
    let mut answers = Vec::new();
    let _ = stream.read_to_end(&mut answers).await;
    answers
}

/// One answer: its status, its head, and its body.
fn answers(mut text: &str) -> Vec<(u16, &str, &str)> {
    let mut answers = Vec::new();
    while let Some((head, rest)) = text.split_once("\r\n\r\n") {
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|line| line.get(..3)).and_then(|code| code.parse().ok());
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|text| text.parse().ok());
        let (Some(status), Some(length)) = (status, length) else { panic!("no answer of ours: {head:?}") };
        // An answer to HEAD has none of its body, and is the last one.
        let body = rest.get(..length).unwrap_or_default();
        text = &rest[body.len()..];
        answers.push((status, head, body));
    }
    assert!(text.is_empty(), "half an answer: {text:?}");
    answers
}

/// Sends the bytes and holds what came of them.
pub fn hold(bytes: &[u8]) {
    WORLD.with(|world| {
        let world = world.get_or_init(World::new);
        let heard = world.runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange(world, bytes)).await });
        let heard = String::from_utf8(heard.expect("the connection ends")).expect("answers are text");
        let shown = String::from_utf8_lossy(bytes);
        let heads = world.take_heads();
        let mut may_be = deletions(bytes, TOKEN).into_iter();
        for head in &heads {
            let found = may_be.any(|path| world.canonical(&path) == *head);
            assert!(found, "{shown:?}: the provider read {head:?}");
        }
        let mut deleted = 0;
        for (status, head, body) in answers(&heard) {
            let is_new = !head.contains("\r\nidempotency-replayed: ") && !body.contains("\"dry_run\"");
            match status {
                200 => deleted += usize::from(is_new),
                400 | 401 | 403 | 404 | 405 | 408 | 409 | 413 | 414 | 417 | 422 | 429 | 431 | 503 => {
                    assert!(head.contains("\r\ncontent-type: application/problem+json"), "{shown:?}: {head}");
                }
                _ => panic!("{shown:?}: {status} {body}"),
            }
        }
        assert_eq!(heads.len(), deleted, "{shown:?}: as many answers of 200 as deletions; {heard}");
    });
}
