//! The one place that reads time.
//!
//! Three clocks, never mixed: [`Timestamp`] is the wall clock, for entries and people; [`Moment`] is
//! monotonic, for deadlines, rates and timings; [`Uptime`] goes on while the machine is suspended, for leases.

use jiff::tz::TimeZone;
use nix::time::ClockId;
use std::fmt;
use std::time::Duration;

#[cfg(test)]
#[path = "simulation/tests/clock.rs"]
pub(crate) mod simulated;

/// A point on the monotonic clock.
pub type Moment = std::time::Instant;

/// Now, on the monotonic clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn moment() -> Moment {
    #[cfg(test)]
    if let Some(now) = simulated::moment() {
        return now;
    }
    Moment::now()
}

/// The time from an earlier moment until now.
#[must_use]
pub fn since(earlier: Moment) -> Duration {
    moment().saturating_duration_since(earlier)
}

/// A point on the clock that counts from the machine's start and does not stop while it is suspended
/// (`CLOCK_BOOTTIME`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(Duration);

impl Uptime {
    /// Now. A system without this clock, of which none is known that runs us, is always at its start.
    #[must_use]
    pub fn now() -> Self {
        Self(ClockId::CLOCK_BOOTTIME.now().map(Duration::from).unwrap_or_default())
    }

    /// This much later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// How much of it is left until this point; none once it has passed.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }

    /// From the machine's start until this point, as the kernel counts it.
    #[must_use]
    pub fn since_start(self) -> Duration {
        self.0
    }
}

/// Wall-clock time in microseconds since 1970-01-01T00:00:00Z; prints as RFC 3339 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Now, on the wall clock. It may step backwards: order by sequence number, not by this.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now() -> Self {
        #[cfg(test)]
        if let Some(now) = simulated::wall() {
            return now;
        }
        Self(jiff::Timestamp::now().as_microsecond())
    }

    /// From microseconds since 1970.
    #[must_use]
    pub fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339 (`2026-11-24T08:00:00Z`), or a date alone, which means its first moment in UTC.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(date) = text.parse::<jiff::civil::Date>()
            && text.len() == 10
        {
            let start = TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?;
            return Some(Self(start.as_microsecond()));
        }
        text.parse::<jiff::Timestamp>().ok().map(|t| Self(t.as_microsecond()))
    }

    /// The first moment of its day in UTC.
    #[must_use]
    pub fn day(self) -> Self {
        Self(self.0 - self.0.rem_euclid(86_400_000_000))
    }

    /// This much earlier; stops at the first time that can be written down, in the year -9999.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        let micros = self.0.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX));
        Self(micros.max(jiff::Timestamp::MIN.as_second() * 1_000_000))
    }

    /// This much later; stops at the last time that can be written down, in the year 9999.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let micros = self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX));
        Self(micros.min(jiff::Timestamp::MAX.as_second() * 1_000_000))
    }

    /// Reads an HTTP-date in any of its three forms (RFC 9110 §5.6.7). In the two that are obsolete, any word is the
    /// name of the day.
    #[must_use]
    pub fn parse_http_date(text: &str, now: Self) -> Option<Self> {
        let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphabetic());
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        match *words.as_slice() {
            [name, month, day, time, year] if is_word(name) && year != "GMT" => {
                imf_fixdate(&format!("{day} {month} {year} {time} GMT"))
            }
            [name, date, time, "GMT"] if name.strip_suffix(',').is_some_and(is_word) => rfc850_date(date, time, now),
            _ => imf_fixdate(text),
        }
    }

    /// Seconds from `earlier` to this, 0 when this is not later.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0) / 1_000_000).unwrap_or(0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time:.6}"),
            Err(_) => write!(f, "{} us", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    /// Reads whatever [`fmt::Display`] writes: what was recorded must be readable, whatever it is.
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(from)?;
        let micros = || text.strip_suffix(" us").and_then(|micros| micros.parse().ok()).map(Self);
        Self::parse(&text).or_else(micros).ok_or_else(|| serde::de::Error::custom("is not a time"))
    }
}

fn imf_fixdate(text: &str) -> Option<Timestamp> {
    let zoned = jiff::fmt::rfc2822::parse(text).ok()?;
    text.ends_with("GMT").then(|| Timestamp(zoned.timestamp().as_microsecond()))
}

/// A year of two digits is the last one that is not more than 50 years ahead.
fn rfc850_date(date: &str, time: &str, now: Timestamp) -> Option<Timestamp> {
    let (day, date) = date.split_once('-')?;
    let (month, year) = date.split_once('-')?;
    if year.len() != 2 {
        return None;
    }
    let now = TimeZone::UTC.to_datetime(jiff::Timestamp::from_microsecond(now.0).ok()?);
    let latest = now.checked_add(jiff::Span::new().years(50)).ok()?;
    let century = latest.year() / 100;
    let read = |century| imf_fixdate(&format!("{day} {month} {century}{year} {time} GMT"));
    let latest = TimeZone::UTC.to_timestamp(latest).ok()?.as_microsecond();
    [century, century - 1].into_iter().filter_map(read).find(|time| time.0 <= latest)
}

/// Reads a span such as `90s`, `15m`, `2h` or `7d`.
#[must_use]
pub fn parse_span(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let count = text.strip_suffix(unit)?;
    // A sign is none: `u64` would take one.
    let count: u64 = count.bytes().all(|byte| byte.is_ascii_digit()).then(|| count.parse().ok())??;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    count.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_print_microseconds_in_utc_and_read_back() {
        let time = Timestamp::from_micros(1_794_000_000_000_007);
        assert_eq!(time.to_string(), "2026-11-06T21:20:00.000007Z");
        assert_eq!(Timestamp::parse(&time.to_string()), Some(time));
        assert_eq!(Timestamp::from_micros(1_794_000_000_000_000).to_string(), "2026-11-06T21:20:00.000000Z");
    }

    #[test]
    fn a_time_that_is_reckoned_stays_within_what_can_be_written_and_whatever_was_written_is_read() {
        let now = Timestamp::from_micros(1_794_000_000_000_007);
        for days in [9_999_999, 3_000_000, 100_000_000_000_000] {
            let far = Duration::from_secs(86_400 * days);
            for time in [now.after(far), now.before(far)] {
                assert_eq!(Timestamp::parse(&time.to_string()), Some(time));
            }
        }
        for micros in [i64::MAX, i64::MIN, 260_995_611_699_461_329, 7] {
            let time = Timestamp::from_micros(micros);
            let text = serde_json::to_string(&time).unwrap();
            assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), time, "{text}");
        }
    }

    #[test]
    fn a_date_means_its_first_moment_in_utc() {
        assert_eq!(Timestamp::parse("2026-11-24").map(|t| t.to_string()), Some("2026-11-24T00:00:00.000000Z".into()));
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn http_dates_are_read_and_other_text_is_not() {
        let read = |text: &str, now: &str| Timestamp::parse_http_date(text, Timestamp::parse(now).unwrap());
        for (text, time) in [
            ("Tue, 24 Nov 2026 08:00:00 GMT", "2026-11-24T08:00:00Z"),
            ("Tuesday, 24-Nov-26 08:00:00 GMT", "2026-11-24T08:00:00Z"),
            ("Tue Nov 24 08:00:00 2026", "2026-11-24T08:00:00Z"),
            ("Sun Nov  6 08:49:37 1994", "1994-11-06T08:49:37Z"),
            ("Sunday, 06-Nov-94 08:49:37 GMT", "1994-11-06T08:49:37Z"),
        ] {
            assert_eq!(read(text, "2026-11-06"), Timestamp::parse(time), "{text}");
        }
        for bad in [
            "7",
            "soon",
            "Tue, 24 Nov 2026 08:00:00 +0100",
            "Tuesday, 24-Nov-26 08:00:00 +0100",
            "Tuesday, 24-Nov-2026 08:00:00 GMT",
            "Tuesday, 24-Nov-+6 08:00:00 GMT",
            "Tuesday, 24-Nov-6 08:00:00 GMT",
            "Tuesday, 31-Feb-26 08:00:00 GMT",
            "Tuesday 24-Nov-26 08:00:00 GMT",
            "Dienst\u{e4}g, 24-Nov-26 08:00:00 GMT",
            "Tue Nov 24 2026 08:00:00",
            "2 Nov 24 08:00:00 2026",
            "Tue Nov 31 08:00:00 2026",
            "",
        ] {
            assert_eq!(read(bad, "2026-11-06"), None, "{bad}");
        }
    }

    #[test]
    fn a_year_of_two_digits_is_at_most_fifty_years_ahead() {
        for (text, now, time) in [
            ("Friday, 06-Nov-76 08:49:37 GMT", "2026-11-06T08:49:37Z", "2076-11-06T08:49:37Z"),
            ("Saturday, 06-Nov-76 08:49:37 GMT", "2026-11-06T08:49:36Z", "1976-11-06T08:49:37Z"),
            ("Monday, 01-Jan-77 00:00:00 GMT", "2026-11-06T00:00:00Z", "1977-01-01T00:00:00Z"),
            ("Saturday, 01-Jan-00 00:00:00 GMT", "2026-11-06T00:00:00Z", "2000-01-01T00:00:00Z"),
            ("Friday, 01-Jan-10 00:00:00 GMT", "2090-01-01T00:00:00Z", "2110-01-01T00:00:00Z"),
            ("Thursday, 01-Jan-99 00:00:00 GMT", "2051-01-01T00:00:00Z", "2099-01-01T00:00:00Z"),
        ] {
            let read = Timestamp::parse_http_date(text, Timestamp::parse(now).unwrap());
            assert_eq!(read, Timestamp::parse(time), "{text} at {now}");
        }
    }

    #[test]
    fn uptime_runs_and_what_is_left_of_a_span_gets_less() {
        let end = Uptime::now().after(Duration::from_secs(60));
        assert!(Uptime::now() > Uptime(Duration::ZERO), "the clock is there");
        assert!(end.left() <= Duration::from_secs(60) && end.left() > Duration::from_secs(50));
        assert_eq!(Uptime(Duration::ZERO).left(), Duration::ZERO);
    }

    #[test]
    fn spans_name_their_unit() {
        assert_eq!(parse_span("2h"), Some(Duration::from_secs(7200)));
        for bad in ["2", "h", "-1h", "+1h", "2w", "99999999999999999999d", "", "2é"] {
            assert_eq!(parse_span(bad), None, "{bad}");
        }
    }
}
