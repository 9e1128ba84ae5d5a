//! Tables for a terminal: columns as wide as their widest cell, two spaces apart.

/// Numbers, right-aligned, behind a column of names.
pub(crate) fn table_of_numbers(rows: &[Vec<String>]) -> String {
    lines(rows, |column, cell, width| match column {
        0 => format!("{cell:<width$}"),
        _ => format!("{cell:>width$}"),
    })
}

/// Words, left-aligned.
pub(crate) fn table_of_words(rows: &[Vec<String>]) -> String {
    lines(rows, |_, cell, width| format!("{cell:<width$}"))
}

fn lines(rows: &[Vec<String>], align: impl Fn(usize, &str, usize) -> String) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| align(column, cell, width));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
