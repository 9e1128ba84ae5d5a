//! Durations on the command line.

use std::{ops::RangeInclusive, time::Duration};

/// A command-line value parser for durations within a range: with units, such as 1m 30s, or a plain number of seconds,
/// as `ping(8)` takes it.
pub fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync {
    move |text| {
        let duration = parse(text)?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let [from, to] = [range.start(), range.end()].map(|&bound| humantime::format_duration(bound));
        Err(format!("the time must be from {from} to {to}"))
    }
}

fn parse(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|_| "write it as 250ms, 2s or 1m".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_or_are_seconds() {
        for (text, milliseconds) in [("250ms", 250), ("2s", 2000), ("1m", 60_000), ("0", 0), ("0.2", 200), ("3", 3000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "soon", "-1", "2 parsecs", "NaN", "1e300"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
