//! Stands between the socket and hyper. Each head is judged here; hyper reads a stand-in of our own in its
//! place and asks for the judgement. So refusals keep their place in the row of answers, and no byte that a
//! caller chose is ever parsed twice, perhaps in two ways.

use super::hurried::Hurried;
use super::linger::Linger;
use crate::clock::moment;
use crate::head::{Head, HeadFault, Progress};
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What hyper reads in the place of a head. It has to know two things: whether the answer has a body, which to HEAD it
/// never has, and whether the connection goes on.
fn stand_in(to_head: bool, goes_on: bool) -> &'static [u8] {
    match (to_head, goes_on) {
        (true, _) => b"HEAD / HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n",
        (false, true) => b"DELETE / HTTP/1.1\r\nhost: gateway\r\n\r\n",
        (false, false) => b"DELETE / HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n",
    }
}

/// Whether a head that is no good one asks as HEAD does: its caller reads no body either.
fn is_of_head(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HEAD ")
}

/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) head: Duration,
    pub(super) idle: Duration,
}

#[derive(Default)]
struct Turn {
    head: Option<Result<Head, HeadFault>>,
    busy: bool,
    last: bool,
    reader: Option<Waker>,
}

/// Where the guard leaves a judged head for the service. One request at a time: the next head is not even
/// read before [`Desk::done`].
#[derive(Clone, Default)]
pub(super) struct Desk(Arc<Mutex<Turn>>);

impl Desk {
    fn turn<T>(&self, act: impl FnOnce(&mut Turn) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn leave(&self, head: Result<Head, HeadFault>) {
        self.turn(|turn| {
            turn.head = Some(head);
            turn.busy = true;
        });
    }

    /// Takes no more heads, apart from one of which bytes are there: a request that has begun gets its answer, and
    /// the connection ends after it. Returns whether a request is being answered right now.
    pub(super) fn stop(&self) -> bool {
        self.turn(|turn| {
            turn.last = true;
            turn.busy
        })
    }

    fn is_stopped(&self) -> bool {
        self.turn(|turn| turn.last)
    }

    /// The judgement of the head that hyper has just read.
    pub(super) fn take(&self) -> Option<Result<Head, HeadFault>> {
        self.turn(|turn| turn.head.take())
    }

    /// The request is answered: the next may be read.
    pub(super) fn done(&self) {
        let reader = self.turn(|turn| {
            turn.busy = false;
            turn.reader.take()
        });
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// A connection that is read strictly.
pub(super) struct Guard<S> {
    inner: Hurried<S>,
    desk: Desk,
    patience: Patience,
    arrived: Vec<u8>,
    progress: Progress,
    skipped_line: bool,
    judged: &'static [u8],
    handed: usize,
    ended: bool,
    /// Whether there was a head, and so an answer that may still be on its way.
    begun: bool,
    /// Whether nothing more comes: the caller has closed its side, or was silent for long.
    silent: bool,
    linger: Option<Linger>,
    timer: Pin<Box<Sleep>>,
    timing: Timing,
}

/// What the reading timer is running for.
#[derive(PartialEq, Eq)]
enum Timing {
    Nothing,
    Idle,
    Head,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    pub(super) fn new(inner: S, desk: Desk, patience: Patience) -> Self {
        Self {
            inner: Hurried::new(inner),
            desk,
            patience,
            arrived: Vec::new(),
            progress: Progress::default(),
            skipped_line: false,
            judged: b"",
            handed: 0,
            ended: false,
            begun: false,
            silent: false,
            linger: None,
            timer: Box::pin(tokio::time::sleep(patience.idle)),
            timing: Timing::Nothing,
        }
    }

    fn time(&mut self, timing: Timing, span: Duration) {
        if self.timing != timing {
            self.timing = timing;
            self.timer.as_mut().reset(Instant::from_std(moment() + span));
        }
    }

    fn refuse(&mut self, fault: HeadFault, to_head: bool) {
        self.desk.leave(Err(fault));
        self.judged = stand_in(to_head, false);
        self.handed = 0;
        self.ended = true;
        self.begun = true;
        self.timing = Timing::Nothing;
    }

    /// Looks at what has arrived; `true` once there is something to hand to hyper.
    fn judge(&mut self) -> bool {
        // One empty line before a request line is skipped (RFC 9112 §2.2).
        if !self.skipped_line && self.arrived.starts_with(b"\r\n") {
            self.arrived.drain(..2);
            self.progress = Progress::default();
            self.skipped_line = true;
        }
        match self.progress.advance(&self.arrived) {
            Ok(None) => return false,
            Err(fault) => self.refuse(fault, is_of_head(&self.arrived)),
            Ok(Some(length)) => {
                let rest = self.arrived.split_off(length);
                let bytes = std::mem::replace(&mut self.arrived, rest);
                match Head::parse(&bytes) {
                    Err(fault) => self.refuse(fault, is_of_head(&bytes)),
                    Ok(head) => {
                        let last = self.desk.is_stopped();
                        self.ended = last || head.wants_close();
                        self.judged = stand_in(head.method() == "HEAD", !self.ended);
                        self.desk.leave(Ok(head));
                        self.handed = 0;
                        self.begun = true;
                        self.progress = Progress::default();
                        self.skipped_line = false;
                        self.timing = Timing::Nothing;
                    }
                }
            }
        }
        true
    }

    /// Reads until a head is judged (`true`), or the connection is at its end (`false`).
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if self.judge() {
                return Poll::Ready(Ok(true));
            }
            if self.arrived.is_empty() {
                self.time(Timing::Idle, self.patience.idle);
            } else {
                self.time(Timing::Head, self.patience.head);
            }
            let mut bytes = [MaybeUninit::uninit(); 4096];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buffer) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.arrived.extend_from_slice(buffer.filled()),
                Poll::Ready(Ok(())) => {
                    self.silent = true;
                    if self.arrived.is_empty() {
                        return Poll::Ready(Ok(false));
                    }
                    self.refuse(HeadFault::Malformed("the request head ends early"), is_of_head(&self.arrived));
                    return Poll::Ready(Ok(true));
                }
                Poll::Pending if self.arrived.is_empty() && self.desk.is_stopped() => return Poll::Ready(Ok(false)),
                Poll::Pending => {
                    ready!(self.timer.as_mut().poll(cx));
                    if self.arrived.is_empty() {
                        self.silent = true;
                        return Poll::Ready(Ok(false));
                    }
                    self.refuse(HeadFault::TooSlow, is_of_head(&self.arrived));
                    return Poll::Ready(Ok(true));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let rest = this.judged.get(this.handed..).unwrap_or_default();
            if !rest.is_empty() {
                let some = rest.get(..rest.len().min(to.remaining())).unwrap_or_default();
                to.put_slice(some);
                this.handed += some.len();
                return Poll::Ready(Ok(()));
            }
            let busy = this.desk.turn(|turn| {
                if turn.busy {
                    turn.reader = Some(cx.waker().clone());
                }
                turn.busy
            });
            if busy {
                return Poll::Pending;
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            this.ended = !ready!(this.poll_head(cx))? || this.ended;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    /// Closes our side; where an answer may be on its way and more may come, lingers.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            if this.silent || !this.begun {
                return Poll::Ready(Ok(()));
            }
        }
        this.linger.get_or_insert_with(Linger::new).poll(&mut this.inner, cx).map(Ok)
    }
}
