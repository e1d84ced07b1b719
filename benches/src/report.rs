//! Presents figures to people: as Markdown tables and a plot.

use std::fmt::{self, Write as _};
use std::time::Duration;

/// A Markdown table that is readable on a terminal too.
pub(crate) struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    pub(crate) fn new(title: &str, columns: &[&str]) -> Self {
        let columns = columns.iter().map(ToString::to_string).collect();
        Self { title: title.to_owned(), columns, rows: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n", self.title)?;
        let lines = || std::iter::once(&self.columns).chain(&self.rows);
        let width = |column: usize| {
            lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..self.columns.len()).filter_map(width).collect();
        let line = |f: &mut fmt::Formatter<'_>, cells: &[String]| {
            for (cell, width) in cells.iter().zip(&widths) {
                write!(f, "| {cell:<width$} ")?;
            }
            writeln!(f, "|")
        };
        line(f, &self.columns)?;
        for width in &widths {
            write!(f, "| {} ", "-".repeat(*width))?;
        }
        writeln!(f, "|")?;
        for row in &self.rows {
            line(f, row)?;
        }
        for note in &self.notes {
            writeln!(f, "\n{note}")?;
        }
        Ok(())
    }
}

/// Formats a time in a suitable unit.
pub(crate) fn time(seconds: f64) -> String {
    if seconds < 1e-3 { format!("{:.0} µs", seconds * 1e6) } else { millis(seconds) }
}

pub(crate) fn millis(seconds: f64) -> String {
    let digits = usize::from(seconds < 0.1);
    format!("{:.digits$} ms", seconds * 1e3)
}

pub(crate) fn ratio(ratio: f64) -> String {
    format!("{ratio:.2}×")
}

/// The median; `NaN` for an empty list.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => figures[count / 2],
        count => f64::midpoint(figures[count / 2 - 1], figures[count / 2]),
    }
}

/// A quantile of sorted durations; zero for an empty list.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let Some(last) = sorted.len().checked_sub(1) else { return Duration::ZERO };
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let place = (last as f64 * share).round() as usize;
    sorted[place]
}

/// Draws bars on a logarithmic scale: a warm call, and init plus first call.
pub(crate) fn plot(bars: &[(&str, f64, f64)]) -> String {
    const LEFT: f64 = 290.0;
    const WIDTH: f64 = 560.0;
    const LINE: f64 = 34.0;
    // From 10 µs to 10 s.
    const DECADES: f64 = 6.0;
    let x = |seconds: f64| LEFT + WIDTH * ((seconds / 1e-5).log10() / DECADES).clamp(0.0, 1.0);
    #[expect(clippy::cast_precision_loss)]
    let height = 70.0 + LINE * bars.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 920 {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"920\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" fill=\"#1f77b4\">a warm call, p50</text>\n\
         <text x=\"{:.0}\" y=\"18\" fill=\"#888\">init and first call (logarithmic scale)</text>\n",
        LEFT + 110.0,
    );
    for (seconds, label) in [
        (1e-5, "10 µs"),
        (1e-4, "100 µs"),
        (1e-3, "1 ms"),
        (1e-2, "10 ms"),
        (1e-1, "100 ms"),
        (1.0, "1 s"),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(
            svg,
            "<line x1=\"{0:.0}\" x2=\"{0:.0}\" y1=\"40\" y2=\"{1:.0}\" stroke=\"#ddd\"/>\
             <text x=\"{0:.0}\" y=\"36\" fill=\"#666\" text-anchor=\"middle\">{label}</text>",
            x(seconds),
            height - 20.0,
        );
    }
    for (number, (name, warm, start)) in bars.iter().enumerate() {
        #[expect(clippy::cast_precision_loss)]
        let y = 48.0 + LINE * number as f64;
        let is_ours = name.starts_with("response-boost");
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\" {}>{name}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"11\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{:.1}\" height=\"11\" fill=\"#ccc\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\" fill=\"#666\">{}</text>",
            LEFT - 8.0,
            y + 15.0,
            if is_ours { "font-weight=\"bold\"" } else { "" },
            x(*warm) - LEFT,
            if is_ours { "#1f77b4" } else { "#9dbfdd" },
            x(*warm) + 5.0,
            y + 10.0,
            time(*warm),
            y + 13.0,
            x(*start) - LEFT,
            x(*start) + 5.0,
            y + 23.0,
            millis(*start),
        );
    }
    svg + "</svg>\n"
}
