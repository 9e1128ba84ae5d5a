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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_shown() {
        for (microseconds, text) in [(1, "0.001 ms"), (312, "0.312 ms"), (1234, "1.23 ms"), (202_900, "203 ms")] {
            assert_eq!(milliseconds(Duration::from_micros(microseconds)), text);
        }
    }
}
