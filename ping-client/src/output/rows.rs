//! The results of several servers for people: a row for each, and what they add up to.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{Row, table_of_numbers};
use crate::{
    figures::{Figures, Summary},
    units::milliseconds,
};

/// The columns.
const HEAD: [&str; 9] = ["NODE", "SENT", "LOST", "LOSS", "P50", "P99", "MAX", "RATE", "P50/1ST"];

/// Writes the table.
pub(super) fn write(rows: &[Row], total: Option<&Figures>, out: &mut dyn Write) -> io::Result<()> {
    let mut table = vec![HEAD.map(String::from).into()];
    let median = |row: &Row| row.result.figures.rtt.summary().map(|summary| summary.p50.as_secs_f64());
    let first = rows.first().and_then(median);
    table.extend(rows.iter().map(|row| {
        let figures = &row.result.figures;
        let ratio = median(row).zip(first).map_or_else(|| "-".into(), |(its, first)| format!("{:.2}", its / first));
        let mut cells = cells(counts(&row.node, figures.sent, figures.lost()), Some(figures), figures.rate());
        cells.push(ratio);
        cells
    }));
    if rows.len() < 2 {
        table.iter_mut().for_each(|row| drop(row.pop()));
    }
    if rows.len() > 1 {
        let figures = || rows.iter().map(|row| &row.result.figures);
        let (sent, lost) = (figures().map(|it| it.sent).sum(), figures().map(Figures::lost).sum());
        let sum = || Some(figures().filter_map(Figures::rate).sum());
        let rate = total.map_or_else(sum, Figures::rate);
        table.push(cells(counts("total", sent, lost), total, rate));
    }
    let remarks = [String::new()].into_iter().chain(rows.iter().map(remark)).chain([String::new()]);
    for (line, remark) in table_of_numbers(&table).lines().zip(remarks) {
        writeln!(out, "{}", format!("{line}  {remark}").trim_end())?;
    }
    if let Some(counted) = counted(rows).filter(|_| rows.iter().any(|row| row.result.retries)) {
        writeln!(out, "the servers counted {counted} pings")?;
    }
    Ok(())
}

/// How many pings the servers say that they counted, if all say it. They may say anything.
pub(super) fn counted(rows: &[Row]) -> Option<u64> {
    rows.iter().try_fold(0_u64, |sum, row| Some(sum.saturating_add(row.result.counted?)))
}

fn counts(name: &str, sent: u64, lost: u64) -> [String; 4] {
    let percent = if sent == 0 { 0.0 } else { lost as f64 * 100.0 / sent as f64 };
    [name.into(), sent.to_string(), lost.to_string(), format!("{percent:.1} %")]
}

fn cells([name, sent, lost, loss]: [String; 4], figures: Option<&Figures>, rate: Option<f64>) -> Vec<String> {
    let summary = figures.map(|figures| figures.rtt.summary());
    let time = |time: fn(Summary) -> Duration| match summary {
        Some(Some(summary)) => milliseconds(time(summary)),
        Some(None) => "-".into(),
        None => String::new(),
    };
    let rate = rate.map_or_else(|| "-".into(), |rate| format!("{rate:.1}/s"));
    vec![name, sent, lost, loss, time(|it| it.p50), time(|it| it.p99), time(|it| it.max), rate]
}

/// What happened to the server, or why there is nothing of it.
fn remark(row: &Row) -> String {
    match &row.result.error {
        _ if row.is_gone => "gone".into(),
        Some(error) => error.to_string(),
        None => row.result.figures.failures.values().map(|(message, _)| &**message).next().unwrap_or_default().into(),
    }
}
