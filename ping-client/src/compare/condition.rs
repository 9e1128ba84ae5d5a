//! `--fail-if`: how much worse a result may be than another.

use std::str::FromStr;

use super::file::{Metric, ResultFile};
use crate::units::digits;

/// Such as `p99>+10%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Condition {
    metric: Metric,
    is_above: bool,
    /// Per cent; of the loss, points.
    change: f64,
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, is_above) = match (text.find('>'), text.find('<')) {
            (Some(place), None) => (place, true),
            (None, Some(place)) => (place, false),
            _ => return Err("write it as p99>+10% or rate<-5%".into()),
        };
        let (name, change) = (text[..place].trim(), text[place + 1..].trim());
        let metric = Metric::ALL.into_iter().find(|metric| metric.name() == name);
        let metric = metric.ok_or_else(|| {
            let names: Vec<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
            format!("'{name}' is no figure; there are {}", names.join(", "))
        })?;
        let change = change.strip_suffix('%').and_then(|number| number.trim().parse().ok());
        let change = change.filter(|change: &f64| change.is_finite());
        Ok(Self { metric, is_above, change: change.ok_or("a change is a percentage, as in p99>+10%")? })
    }
}

impl Condition {
    /// One sentence, if the condition is met. What a result does not tell cannot be better.
    pub(super) fn failure(&self, before: &ResultFile, after: &ResultFile) -> Option<String> {
        let Self { metric, is_above, change: limit } = *self;
        let name = metric.name();
        let (Some(one), Some(other)) = (metric.of(before), metric.of(after)) else {
            return Some(format!("gate failed: {name} is not in both results"));
        };
        let (change, unit) = match metric {
            Metric::Loss => (other - one, "points"),
            _ if one == other => (0.0, "%"),
            _ => ((other / one - 1.0) * 100.0, "%"),
        };
        let is_met = if is_above { change > limit } else { change < limit };
        let sign = if change < 0.0 { '-' } else { '+' };
        is_met.then(|| {
            let (one, other) = (metric.text(one), metric.text(other));
            let relation = if is_above { "more than" } else { "less than" };
            format!(
                "gate failed: {name} changed from {one} to {other}, {sign}{} {unit}, {relation} {limit:+} {unit}",
                digits(change.abs())
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::file::tests::result, *};

    #[test]
    fn a_condition_says_by_how_much_it_is_met() {
        let (before, after) = (result(1.0, 5.0, 0, 1000.0), result(1.05, 6.0, 2, 940.0));
        let failure = |text: &str| text.parse::<Condition>().unwrap().failure(&before, &after);
        assert_eq!(failure("p50>+10%"), None);
        for (condition, words) in [
            ("p99>+10%", "p99 changed from 5.00 ms to 6.00 ms, +20.0 %, more than +10 %"),
            ("rate<-5%", "rate changed from 1000/s to 940/s, -6.00 %, less than -5 %"),
            ("loss > 1%", "loss changed from 0.00 % to 2.00 %, +2.00 points, more than +1 points"),
            ("p99.9>+1%", "p99.9 is not in both results"),
        ] {
            let failure = failure(condition).unwrap_or_default();
            assert!(failure.contains(words), "{condition}: {failure}");
        }
    }

    #[test]
    fn what_is_no_condition_is_explained() {
        for (text, words) in [("p99", "p99>+10%"), ("p98>+1%", "there are loss, p50"), ("p99>10", "percentage")] {
            let error = text.parse::<Condition>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
