//! Figures as people read them.

use std::time::Duration;

/// A duration in milliseconds, to three significant digits or to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> String {
    format!("{} ms", digits(duration.as_secs_f64() * 1e3))
}

/// A number to three significant digits, but to no more than three decimals.
pub(crate) fn digits(number: f64) -> String {
    let decimals = match number {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{number:.decimals$}")
}

/// Milliseconds, to the nanosecond.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}

/// A share from 0 to 1 as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// How many of some pings were lost, and their share.
pub(crate) fn loss(lost: u64, of: u64) -> String {
    let share = if of == 0 { 0.0 } else { lost as f64 * 100.0 / of as f64 };
    format!("{lost} lost ({share:.1} %)")
}

/// A count with its noun, which takes an s for any number but one, or es after an s.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let ending = if noun.ends_with('s') { "es" } else { "s" };
    format!("{count} {noun}{}", if count == 1 { "" } else { ending })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_shown() {
        for (microseconds, text) in [(1, "0.001 ms"), (312, "0.312 ms"), (1234, "1.23 ms"), (202_900, "203 ms")] {
            assert_eq!(milliseconds(Duration::from_micros(microseconds)), text);
        }
    }

    #[test]
    fn one_is_singular() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "pong")), ["0 pongs", "1 pong", "2 pongs"]);
    }
}
