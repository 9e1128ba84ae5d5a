//! Times that have a date.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second that RFC 3339 has a form for: 9999-12-31 23:59:59 UTC.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// This time, or the nearest one that can be written as a date. A clock may be set to any.
pub fn datable(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + time.duration_since(UNIX_EPOCH).unwrap_or_default().min(LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_date() {
        let text = |time| humantime::format_rfc3339_millis(datable(time)).to_string();
        assert_eq!(text(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(UNIX_EPOCH + 2 * LAST), "9999-12-31T23:59:59.000Z");
    }
}
