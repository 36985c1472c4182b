//! Where log lines go: into a buffer that a thread of its own writes to stderr. A line wakes nobody: the thread looks
//! every tenth of a second, and at once where something is wrong or the buffer is half full. Waking it for each line
//! costs as much as a tenth of a deletion. A reader that stalls costs lines, never requests.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

const LOOK: Duration = Duration::from_millis(100);
/// More than this is not kept: what comes then is counted and dropped.
const BUFFER_AT_MOST: usize = 1024 * 1024;

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    dropped: u64,
    urgent: bool,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits, until the end.
    fn run(&self, mut to: impl Write) {
        loop {
            let waiting = self.lock();
            let idle = |waiting: &mut Waiting| !waiting.urgent && !waiting.ended;
            let waited = self.wake.wait_timeout_while(waiting, LOOK, idle);
            let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
            waiting.urgent = false;
            let (bytes, dropped, ended) =
                (std::mem::take(&mut waiting.bytes), std::mem::take(&mut waiting.dropped), waiting.ended);
            drop(waiting);
            // A stderr that is gone cannot be told about.
            let _ = to.write_all(&bytes);
            if dropped > 0 {
                let _ =
                    writeln!(to, "{{\"level\":\"WARN\",\"message\":\"log lines were dropped\",\"lines\":{dropped}}}");
            }
            let _ = to.flush();
            if ended {
                return;
            }
            if bytes.capacity() <= BUFFER_AT_MOST / 8 {
                let mut bytes = bytes;
                bytes.clear();
                let mut waiting = self.lock();
                if waiting.bytes.is_empty() {
                    waiting.bytes = bytes;
                }
            }
        }
    }
}

/// Takes lines for the thread. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

/// Ends the thread when it is dropped, after what waits has been written.
pub struct LogEnd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for LogEnd {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.wake.notify_one();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Starts the thread.
pub(super) fn start(to: impl Write + Send + 'static) -> io::Result<(Lines, LogEnd)> {
    let shared = Arc::new(Shared::default());
    let thread = std::thread::Builder::new().name("log".into()).spawn({
        let shared = Arc::clone(&shared);
        move || shared.run(to)
    })?;
    Ok((Lines(Arc::clone(&shared)), LogEnd { shared, thread: Some(thread) }))
}

/// Takes one event's line.
pub(super) struct Line<'a> {
    shared: &'a Shared,
    urgent: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.shared.lock();
        if waiting.bytes.len() + line.len() > BUFFER_AT_MOST {
            waiting.dropped += 1;
            return Ok(line.len());
        }
        waiting.bytes.extend_from_slice(line);
        if (self.urgent || waiting.bytes.len() > BUFFER_AT_MOST / 2) && !waiting.urgent {
            waiting.urgent = true;
            drop(waiting);
            self.shared.wake.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { shared: &self.0, urgent: true }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Self::Writer {
        Line { shared: &self.0, urgent: *about.level() <= Level::WARN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Hands on what is written; its reader may be as slow as it likes.
    struct Pipe(mpsc::SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_written_in_order_by_the_end() {
        let (send, read) = mpsc::sync_channel(1_000);
        let (lines, end) = start(Pipe(send)).unwrap();
        let expected: String = (0..1_000).map(|n| format!("{n}\n")).collect();
        for line in expected.split_inclusive('\n') {
            Line { shared: &lines.0, urgent: false }.write_all(line.as_bytes()).unwrap();
        }
        drop(end);
        assert_eq!(String::from_utf8(read.try_iter().flatten().collect()).unwrap(), expected);
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_which_are_counted_and_nobody_waits() {
        let (send, read) = mpsc::sync_channel(0);
        let (lines, end) = start(Pipe(send)).unwrap();
        let line = [b'x'; 1024];
        let count = 4 * BUFFER_AT_MOST / line.len();
        for _ in 0..count {
            Line { shared: &lines.0, urgent: true }.write_all(&line).unwrap();
        }
        let reader = std::thread::spawn(move || read.iter().flatten().collect::<Vec<u8>>());
        drop(end);
        let text = String::from_utf8(reader.join().unwrap()).unwrap();
        let dropped: usize = text
            .split("\"lines\":")
            .skip(1)
            .map(|rest| rest.split('}').next().unwrap().parse::<usize>().unwrap())
            .sum();
        let written = text.matches('x').count() / line.len();
        assert!(dropped > 0 && written > 0, "{dropped} {written}");
        assert_eq!(written + dropped, count);
    }
}
