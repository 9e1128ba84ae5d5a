//! Gates: limits that the figures of a run must keep, for scripts and CI.

use std::time::Duration;

use clap::Args;
use humantime::format_duration;
use ping_core::program::duration;

use crate::{
    figures::Figures,
    units::{digits, milliseconds},
};

/// The exit code of a run that fails a gate.
pub(crate) const EXIT_CODE: u8 = 3;

/// The limits.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Gates (exit code 3 if one fails)")]
pub(crate) struct GateArgs {
    /// At most this share of the pings may be lost, such as 1% (0% to 100%)
    #[arg(long, value_name = "PERCENT", value_parser = percent, hide_short_help = true)]
    max_loss: Option<f64>,

    /// The 50th percentile may be at most this (0 to 1h)
    #[arg(long, value_name = "TIME", value_parser = time(), hide_short_help = true)]
    max_p50: Option<Duration>,

    /// The 90th percentile may be at most this (0 to 1h)
    #[arg(long, value_name = "TIME", value_parser = time(), hide_short_help = true)]
    max_p90: Option<Duration>,

    /// The 99th percentile may be at most this, such as 5ms (0 to 1h)
    #[arg(long, value_name = "TIME", value_parser = time(), hide_short_help = true)]
    max_p99: Option<Duration>,

    /// The 99.9th percentile may be at most this (0 to 1h)
    #[arg(long = "max-p99.9", value_name = "TIME", value_parser = time(), hide_short_help = true)]
    max_p99_9: Option<Duration>,

    /// The longest time may be at most this (0 to 1h)
    #[arg(long, value_name = "TIME", value_parser = time(), hide_short_help = true)]
    max_max: Option<Duration>,

    /// The mean may be at most this (0 to 1h)
    #[arg(long, value_name = "TIME", value_parser = time(), hide_short_help = true)]
    max_mean: Option<Duration>,

    /// The time from the start to the first pong may be at most this (0 to 1h)
    #[arg(long, value_name = "TIME", value_parser = time(), hide_short_help = true)]
    max_first_pong: Option<Duration>,
}

fn time() -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync {
    duration(Duration::ZERO..=Duration::from_secs(60 * 60))
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
    number.filter(|percent| (0.0..=100.0).contains(percent)).ok_or_else(|| "write it as 1% or 0.1%".into())
}

impl GateArgs {
    /// One sentence for each gate that the figures fail, and the time to the first pong. What nothing answered is above
    /// every limit.
    pub(crate) fn failures(&self, figures: &Figures, first_pong: Option<Duration>) -> Vec<String> {
        let is_answered = figures.rtt.count() > 0;
        let percentile = |percent| is_answered.then(|| figures.rtt.percentile(percent));
        let summary = figures.rtt.summary();
        let times = [
            ("p50", self.max_p50, percentile(50.0)),
            ("p90", self.max_p90, percentile(90.0)),
            ("p99", self.max_p99, percentile(99.0)),
            ("p99.9", self.max_p99_9, percentile(99.9)),
            ("max", self.max_max, summary.map(|summary| summary.max)),
            ("mean", self.max_mean, summary.map(|summary| summary.mean)),
            ("first-pong", self.max_first_pong, first_pong),
        ];
        let times = times.into_iter().filter_map(|(name, limit, time)| above(name, limit?, time));
        self.max_loss.and_then(|limit| lost_too_many(limit, figures)).into_iter().chain(times).collect()
    }
}

fn lost_too_many(limit: f64, figures: &Figures) -> Option<String> {
    let lost = figures.lost() as f64 * 100.0 / figures.sent.max(1) as f64;
    let lost = if figures.sent == 0 { 100.0 } else { lost };
    (lost > limit).then(|| {
        format!(
            "gate failed: loss is {} % ({} of {} pings), {} points above --max-loss {limit}%",
            digits(lost),
            figures.lost(),
            figures.sent,
            digits(lost - limit)
        )
    })
}

fn above(name: &str, limit: Duration, time: Option<Duration>) -> Option<String> {
    let wanted = format!("--max-{name} {}", format_duration(limit));
    match time {
        Some(time) if time <= limit => None,
        Some(time) => {
            let over = milliseconds(time - limit);
            Some(format!("gate failed: {name} is {}, {over} above {wanted}", milliseconds(time)))
        }
        None => Some(format!("gate failed: {name} is unknown, because no pong arrived, and {wanted} wants one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        figures::tests::{answered, sending},
        run::Observer,
    };
    use std::time::Instant;

    fn figures(pings: u64, answers: u64) -> Figures {
        let (mut figures, start) = (Figures::new(), Instant::now());
        (1..=pings).for_each(|n| figures.sending(sending(n, start)));
        (1..=answers).for_each(|n| figures.outcome(&answered(n, start, Duration::from_millis(n))));
        figures
    }

    #[test]
    fn a_gate_that_fails_says_by_how_much() {
        let all = Some(Duration::from_millis(90));
        let gates = GateArgs { max_loss: Some(1.0), max_p50: all, max_p99: all, max_max: all, ..GateArgs::default() };
        assert_eq!(gates.failures(&figures(80, 80), None), [""; 0]);
        let failures = gates.failures(&figures(100, 98), None).join("\n");
        for text in [
            "loss is 2.00 % (2 of 100 pings), 1.00 points above --max-loss 1%",
            "p99 is 98.0 ms, 8.00 ms above --max-p99 90ms",
            "max is 98.0 ms",
        ] {
            assert!(failures.contains(text), "{text}: {failures}");
        }
        assert!(!failures.contains("p50"), "{failures}");
    }

    #[test]
    fn what_nobody_answered_passes_no_gate() {
        let gates = GateArgs { max_mean: Some(Duration::from_secs(60)), ..GateArgs::default() };
        assert_eq!(gates.failures(&figures(3, 0), None).len(), 1);
        let gates = GateArgs { max_loss: Some(100.0), ..GateArgs::default() };
        assert_eq!(gates.failures(&figures(3, 0), None).len(), 0);
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(["1%", "0.5 %", "100"].map(percent), [Ok(1.0), Ok(0.5), Ok(100.0)]);
        assert!(percent("101%").is_err() && percent("-1").is_err() && percent("x").is_err());
    }
}
