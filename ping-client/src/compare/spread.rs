//! Whether two runs differ by more than each of them varies.
//!
//! Pings that follow each other are not independent, so the test does not take single ones: each run is cut into a few
//! batches of equal length, and the batches are its samples (the method of batch means). Their means are compared by
//! Welch's t-test, which wants neither equal numbers nor equal variances.

use crate::output::Point;

use super::file::Metric;

/// How many batches a run is cut into at most. More would depend on each other.
const BATCHES: usize = 20;

/// The fewest batches whose variance says anything.
const MIN_BATCHES: usize = 5;

/// What the spread says of a difference.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// The runs are too short to tell.
    TooShort,
    /// It is no larger than the spread of the runs explains.
    Within,
    /// It is larger.
    Beyond,
}

impl Verdict {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::TooShort => "too short to tell",
            Self::Within => "within it",
            Self::Beyond => "beyond it",
        }
    }
}

/// What the spread says of a figure, if it has a value in each interval.
pub(super) fn verdict(metric: Metric, before: &[Point], after: &[Point]) -> Option<Verdict> {
    metric.at(&Point::default())?;
    let (before, after) = (batches(metric, before), batches(metric, after));
    if before.len() < MIN_BATCHES || after.len() < MIN_BATCHES {
        return Some(Verdict::TooShort);
    }
    Some(if differ(&before, &after) { Verdict::Beyond } else { Verdict::Within })
}

/// The mean of the figure in each batch. The first and the last interval may be cut.
fn batches(metric: Metric, points: &[Point]) -> Vec<f64> {
    let whole = if points.len() > 2 { &points[1..points.len() - 1] } else { &[] };
    let values: Vec<_> = whole.iter().filter(|point| point.answered > 0).filter_map(|point| metric.at(point)).collect();
    let size = values.len().div_ceil(BATCHES).max(1);
    values.chunks(size).map(|batch| batch.iter().sum::<f64>() / batch.len() as f64).collect()
}

/// Welch's t-test at 95 %.
fn differ(one: &[f64], other: &[f64]) -> bool {
    let ((mean_one, error_one), (mean_other, error_other)) = (mean_and_error(one), mean_and_error(other));
    let error = error_one + error_other;
    if error == 0.0 {
        return mean_one != mean_other;
    }
    let freedom = |error: f64, samples: &[f64]| error * error / (samples.len() - 1) as f64;
    let freedom = error * error / (freedom(error_one, one) + freedom(error_other, other));
    (mean_one - mean_other).abs() / error.sqrt() > t(freedom)
}

/// The mean, and the square of its standard error.
fn mean_and_error(samples: &[f64]) -> (f64, f64) {
    let count = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / count;
    let variance = samples.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, variance / count)
}

/// The value that Student's t exceeds, in either direction, in 5 % of all cases (Abramowitz and Stegun, 26.7.5).
fn t(freedom: f64) -> f64 {
    const Z: f64 = 1.959_964;
    let terms = [
        (Z.powi(3) + Z) / 4.0,
        (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / 96.0,
        (3.0 * Z.powi(7) + 19.0 * Z.powi(5) + 17.0 * Z.powi(3) - 15.0 * Z) / 384.0,
    ];
    terms.iter().rev().fold(0.0, |sum, term| (sum + term) / freedom) + Z
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run whose medians alternate around a value.
    fn run(p50: f64, spread: f64, intervals: u32) -> Vec<Point> {
        // A fixed sequence without a pattern that batches would follow.
        let noise = |n: u32| f64::from(n.wrapping_mul(2_654_435_761) >> 16) / 32_768.0 - 1.0;
        let point = |n| Point { answered: 1, p50: p50 + spread * noise(n), ..Point::default() };
        (0..intervals).map(point).collect()
    }

    #[test]
    fn t_is_that_of_the_tables() {
        for (freedom, table) in [(4.0, 2.776), (10.0, 2.228), (30.0, 2.042), (1000.0, 1.962)] {
            assert!((t(freedom) - table).abs() < 0.01, "{freedom}: {}", t(freedom));
        }
    }

    #[test]
    fn a_small_difference_of_noisy_runs_says_nothing_and_a_large_one_does() {
        let verdict = |one: &[Point], other: &[Point]| verdict(Metric::P50, one, other);
        assert_eq!(verdict(&run(1.0, 0.5, 100), &run(1.02, 0.5, 100)), Some(Verdict::Within));
        assert_eq!(verdict(&run(1.0, 0.5, 100), &run(2.0, 0.5, 100)), Some(Verdict::Beyond));
        assert_eq!(verdict(&run(1.0, 0.0, 100), &run(1.0, 0.0, 100)), Some(Verdict::Within));
        assert_eq!(verdict(&run(1.0, 0.5, 6), &run(2.0, 0.5, 100)), Some(Verdict::TooShort));
        assert_eq!(super::verdict(Metric::Max, &[], &[]), None);
    }
}
