//! Tables, in Markdown: read on a terminal and in the book alike.

use std::fmt;

/// The middle of some values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// What is in a table.
pub struct Cell(String);

impl Cell {
    /// A time, or a dash.
    pub fn ns(time: Option<f64>) -> Cell {
        Cell(time.map_or("-".to_owned(), number))
    }

    /// A number of things.
    pub fn count(count: usize) -> Cell {
        Cell(count.to_string())
    }

    /// How many times another time something takes.
    pub fn ratio(ratio: Option<f64>) -> Cell {
        Cell(ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x")))
    }

    /// Two ratios, the second in brackets.
    pub fn ratios(first: Option<f64>, second: Option<f64>) -> Cell {
        match (first, second) {
            (None, None) => Cell("-".to_owned()),
            (first, second) => {
                Cell(format!("{} ({})", Cell::ratio(first).0, Cell::ratio(second).0))
            }
        }
    }
}

/// Three digits that say something.
fn number(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// A table with a title.
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// One without rows.
    pub fn new(title: &str, header: Vec<String>) -> Table {
        Table { title: title.to_owned(), rows: vec![header] }
    }

    /// Adds a row.
    pub fn row(&mut self, name: String, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(std::iter::once(name).chain(cells.into_iter().map(|cell| cell.0)).collect());
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows[0].len();
        (0..columns)
            .map(|column| self.rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        let widths = self.widths();
        for (i, row) in self.rows.iter().enumerate() {
            write!(f, "| {:width$} |", row[0], width = widths[0])?;
            for (cell, &width) in row.iter().zip(&widths).skip(1) {
                write!(f, " {cell:>width$} |")?;
            }
            writeln!(f)?;
            if i == 0 {
                write!(f, "|{}|", "-".repeat(widths[0] + 2))?;
                for width in &widths[1..] {
                    write!(f, "{}:|", "-".repeat(width + 1))?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
