//! A provider that costs next to nothing: it answers every head with success. For `benches/whole.sh`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "not part of the product"
)]

use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n{\"success\": true}";

#[tokio::main]
async fn main() {
    let listen = std::env::args().nth(1).unwrap();
    let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            let mut matched = 0;
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                for byte in &buffer[..count] {
                    matched = if *byte == b"\r\n\r\n"[matched] { matched + 1 } else { usize::from(*byte == b'\r') };
                    if matched == 4 {
                        matched = 0;
                        if stream.write_all(ANSWER).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
    }
}
