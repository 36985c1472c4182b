//! The last moment of a connection that we close. Its other side may still be sending, and to close over unread bytes
//! would reset it, which can destroy the answer on its way (RFC 9112 §9.6): so a little of what comes is read first.

use std::future::{Future, poll_fn};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

/// How much is read at most.
const BYTES: usize = 64 * 1024;
/// How long at most.
pub(super) const MOMENT: Duration = Duration::from_secs(1);

/// A connection whose sending side is shut, until the other side has shut its own, or it was enough.
pub(super) struct Linger {
    timer: Pin<Box<Sleep>>,
    read: usize,
}

impl Linger {
    /// Begins now.
    pub(super) fn new() -> Self {
        Self { timer: Box::pin(tokio::time::sleep(MOMENT)), read: 0 }
    }

    /// Reads on; ready when the connection can be closed.
    pub(super) fn poll<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut bytes = [MaybeUninit::uninit(); 4096];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && self.read < BYTES => {
                    self.read += buffer.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.timer.as_mut().poll(cx),
            }
        }
    }

    /// From now to its end.
    pub(super) async fn over<S: AsyncRead + Unpin>(stream: &mut S) {
        let mut linger = Self::new();
        poll_fn(|cx| linger.poll(stream, cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::io::AsyncWriteExt;

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_other_side_after_so_many_bytes_or_after_a_moment() {
        let (mut ours, theirs) = tokio::io::duplex(4096);
        drop(theirs);
        assert!(Linger::over(&mut ours).now_or_never().is_some());

        // No time goes by while anything can be done.
        for (part, pause, least) in [(1024, Duration::ZERO, BYTES), (1, MOMENT / 8, 8)] {
            let (mut ours, mut theirs) = tokio::io::duplex(4096);
            let mut sent = 0;
            let sending = async {
                while theirs.write_all(&vec![0; part]).await.is_ok() {
                    sent += part;
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                }
            };
            let reading = async move { Linger::over(&mut ours).await };
            tokio::join!(sending, reading);
            assert!((least..least + 16 * part).contains(&sent), "{sent} in parts of {part}");
        }
    }
}
