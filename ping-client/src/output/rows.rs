//! The results of several servers for people: a row for each, and what they add up to.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::Row;
use crate::{figures::Figures, units::milliseconds};

/// The columns.
const HEAD: [&str; 8] = ["NODE", "SENT", "LOST", "LOSS", "P50", "P99", "MAX", "RATE"];

/// Writes the table.
pub(super) fn write(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let mut table = vec![(HEAD.map(String::from), String::new())];
    table.extend(rows.iter().map(|row| (cells(row), remark(row))));
    if rows.len() > 1 {
        let figures = || rows.iter().map(|row| &row.result.figures);
        let (sent, lost) = (figures().map(|it| it.sent).sum(), figures().map(Figures::lost).sum());
        let rate = figures().filter_map(Figures::rate).sum::<f64>();
        let [name, sent, lost, loss] = counts("total", sent, lost);
        let none = String::new;
        table.push(([name, sent, lost, loss, none(), none(), none(), format!("{rate:.1}/s")], none()));
    }
    let width = |column: usize| table.iter().map(|(row, _)| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    for (row, remark) in &table {
        let mut line = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        writeln!(out, "{}", format!("{line}  {remark}").trim_end())?;
    }
    Ok(())
}

fn counts(name: &str, sent: u64, lost: u64) -> [String; 4] {
    let percent = if sent == 0 { 0.0 } else { lost as f64 * 100.0 / sent as f64 };
    [name.into(), sent.to_string(), lost.to_string(), format!("{percent:.1} %")]
}

fn cells(row: &Row) -> [String; 8] {
    let figures = &row.result.figures;
    let [name, sent, lost, loss] = counts(&row.node, figures.sent, figures.lost());
    let summary = figures.rtt.summary();
    let time = |time: Option<Duration>| time.map_or_else(|| "-".into(), milliseconds);
    let rate = figures.rate().map_or_else(|| "-".into(), |rate| format!("{rate:.1}/s"));
    let [p50, p99, max] = [summary.map(|it| it.p50), summary.map(|it| it.p99), summary.map(|it| it.max)].map(time);
    [name, sent, lost, loss, p50, p99, max, rate]
}

/// What happened to the server, or why there is nothing of it.
fn remark(row: &Row) -> String {
    match &row.result.error {
        _ if row.is_gone => "gone".into(),
        Some(error) => error.to_string(),
        None => row.result.figures.failures.values().map(|(message, _)| &**message).next().unwrap_or_default().into(),
    }
}
