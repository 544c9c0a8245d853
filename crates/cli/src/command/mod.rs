//! One file a command.

pub mod bench;
mod bench_compare;
mod calibrate;
pub mod convert;
pub mod doctor;
pub mod imatrix;
pub mod list;
pub mod logits;
pub mod perplexity;
pub mod quant;
mod quant_options;
pub mod run;
pub mod serve;
pub mod show;
pub mod template;
pub mod tokenize;

/// Bytes for people: `1.2 GB`.
pub fn size_text(bytes: u64) -> String {
    let steps = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut step) = (bytes as f64, 0);
    while value >= 999.5 && step + 1 < steps.len() {
        value /= 1000.0;
        step += 1;
    }
    let digits = if step > 0 && value < 9.95 { 1 } else { 0 };
    format!("{value:.digits$} {}", steps[step])
}

/// Prints rows in columns as wide as their widest cell; numbers are not aligned to the right.
pub fn print_table(rows: &[Vec<String>]) -> std::io::Result<()> {
    use std::io::Write;
    let n_column = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..n_column).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = std::io::stdout().lock();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_short() {
        let rows =
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_940, "9.9 kB"), (9_960, "10 kB"), (999_600, "1.0 MB")];
        for (bytes, want) in rows {
            assert_eq!(super::size_text(bytes), want);
        }
        assert_eq!(super::size_text(4_700_000_000), "4.7 GB");
    }
}
