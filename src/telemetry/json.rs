//! Log lines for machines: one JSON object a line, written in one pass. A request's line has twenty members and
//! is on the path of every deletion; a general serialiser costs several times as much.

use crate::clock::Timestamp;
use std::fmt::{self, Debug, Write};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// `{"timestamp":…,"level":…,` and the event's own members, `message` among them.
pub(super) struct Lines;

/// About as long as a request's line is.
const USUAL: usize = 768;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // Put together here and handed over once: what is handed over goes through two indirections each time.
        let mut members = Members { line: String::with_capacity(USUAL), result: Ok(()) };
        let (line, level) = (&mut members.line, event.metadata().level().as_str());
        write!(line, "{{\"timestamp\":\"{}\",\"level\":\"{level}\"", Timestamp::now())?;
        event.record(&mut members);
        members.result?;
        members.line.push_str("}\n");
        to.write_str(&members.line)
    }
}

struct Members {
    line: String,
    result: fmt::Result,
}

impl Members {
    /// Begins a member.
    fn name(&mut self, field: &Field) -> &mut String {
        for part in [",\"", field.name(), "\":"] {
            self.line.push_str(part);
        }
        &mut self.line
    }

    fn text(&mut self, field: &Field, write: impl FnOnce(&mut Escaped<'_>) -> fmt::Result) {
        let line = self.name(field);
        line.push('"');
        let result = write(&mut Escaped(line));
        line.push('"');
        self.result = self.result.and(result);
    }
}

impl Visit for Members {
    fn record_i64(&mut self, field: &Field, value: i64) {
        let line = self.name(field);
        line.push_str(itoa::Buffer::new().format(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let line = self.name(field);
        line.push_str(itoa::Buffer::new().format(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field).push_str(if value { "true" } else { "false" });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, |to| to.write_str(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, |to| write!(to, "{value:?}"));
    }
}

/// Escapes what goes through it as the inside of a JSON string (RFC 8259 §7).
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Nearly everything is plain, and goes through whole.
        if text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'"' && b != b'\\') {
            self.0.push_str(text);
            return Ok(());
        }
        let mut rest = text;
        while let Some(at) = rest.find(|c| c < ' ' || matches!(c, '"' | '\\' | '\u{7f}'..='\u{9f}')) {
            let (plain, from) = rest.split_at(at);
            self.0.push_str(plain);
            let mut characters = from.chars();
            match characters.next() {
                Some(c @ ('"' | '\\')) => self.0.extend(['\\', c]),
                Some('\n') => self.0.push_str("\\n"),
                Some(c) => write!(self.0, "\\u{:04x}", u32::from(c))?,
                None => {}
            }
            rest = characters.as_str();
        }
        self.0.push_str(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_json_object_whatever_the_values_hold() {
        let kept = Kept::default();
        let to = kept.clone();
        let subscriber = tracing_subscriber::fmt().event_format(Lines).with_writer(move || to.clone()).finish();
        let nasty = "a\"b\\c\nd\u{1b}[31m\u{85}é\u{7f}";
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(nasty, shown = %nasty, none = None::<u64>, n = -1_i64, m = u64::MAX, b = true, "hello");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with("}\n") && text.matches(char::is_control).count() == 1, "{text:?}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((line["nasty"].as_str(), line["shown"].as_str()), (Some(nasty), Some(nasty)));
        assert_eq!(
            (line["n"].as_i64(), line["m"].as_u64(), line["b"].as_bool()),
            (Some(-1), Some(u64::MAX), Some(true))
        );
        assert_eq!((line["message"].as_str(), line["level"].as_str()), (Some("hello"), Some("INFO")));
        assert!(line.get("none").is_none() && Timestamp::parse(line["timestamp"].as_str().unwrap()).is_some());
    }
}
