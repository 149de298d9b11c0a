//! Lines of cells as a table for people, or as CSV.

/// One line for each of `rows` below `header`, columns aligned to the right; with `csv`, cells between commas.
pub(crate) fn table(header: &[String], rows: &[Vec<String>], csv: bool) -> String {
    let lines = std::iter::once(header).chain(rows.iter().map(Vec::as_slice));
    if csv {
        return lines.map(|line| line.join(",")).collect::<Vec<_>>().join("\n");
    }
    let width = |i: usize| lines.clone().filter_map(|line| line.get(i)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..header.len()).map(|i| width(i).unwrap_or(0)).collect();
    let pad = |line: &[String]| {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, w)| format!("{cell:>w$}")).collect();
        cells.join("  ")
    };
    lines.map(pad).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_commas_separate() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (header, rows) = (words("kv ±"), [words("q8 0.125"), words("f16 1")]);
        assert_eq!(table(&header, &rows, false), " kv      ±\n q8  0.125\nf16      1");
        assert_eq!(table(&header, &rows, true), "kv,±\nq8,0.125\nf16,1");
    }
}
