//! Tables for a terminal: columns as wide as their widest cell, two spaces apart.

/// Numbers, right-aligned, behind a column of names.
pub(crate) fn table_of_numbers(rows: &[Vec<String>]) -> String {
    lines(rows, |column, cell, space| match column {
        0 => format!("{cell}{space}"),
        _ => format!("{space}{cell}"),
    })
}

/// Words, left-aligned.
pub(crate) fn table_of_words(rows: &[Vec<String>]) -> String {
    lines(rows, |_, cell, space| format!("{cell}{space}"))
}

fn lines(rows: &[Vec<String>], align: impl Fn(usize, &str, &str) -> String) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            // A width in a format string ends at 65,535.
            let space = " ".repeat(width.saturating_sub(cell.chars().count()));
            align(column, cell, &space)
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_aligned_however_wide_they_are() {
        let rows =
            |cells: [&str; 4]| [[cells[0], cells[1]], [cells[2], cells[3]]].map(|row| row.map(Into::into).to_vec());
        assert_eq!(table_of_words(&rows(["a", "é", "bcd", "ef"])), "a    é\nbcd  ef\n");
        assert_eq!(table_of_numbers(&rows(["a", "1", "bcd", "22"])), "a     1\nbcd  22\n");
        let wide = "x".repeat(70_000);
        assert_eq!(table_of_words(&rows([&wide, "1", "b", "2"])).lines().next().unwrap().len(), 70_003);
    }
}
