//! A table of strings, laid out for a terminal or as Markdown.

use comfy_table::{CellAlignment, TableComponent, presets};

/// Column heads and lines of cells. Columns of text stand at the left and are aligned left, the
/// numbers behind them are aligned right.
#[derive(Debug, Default)]
pub struct Grid {
    /// Heads; a line break is kept on a terminal.
    pub heads: Vec<String>,
    /// How many columns at the left hold text.
    pub text_columns: usize,
    /// The lines.
    pub lines: Vec<Vec<String>>,
}

impl Grid {
    /// Columns two spaces apart, a rule beneath the heads.
    pub fn to_terminal(&self) -> String {
        let mut table = comfy_table::Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_style(TableComponent::HeaderLines, '─')
            .set_style(TableComponent::MiddleHeaderIntersections, '─')
            .set_header(&self.heads);
        for line in &self.lines {
            table.add_row(line);
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            // The preset draws borders as one space; padding makes it two between columns.
            let first = if index == 0 { 0 } else { 1 };
            column.set_padding((first, 0)).set_cell_alignment(self.alignment(index));
        }
        table.trim_fmt()
    }

    /// A Markdown table; line breaks in heads become spaces.
    pub fn to_markdown(&self) -> String {
        let rule = (0..self.heads.len()).map(|index| match self.alignment(index) {
            CellAlignment::Left => ":--".to_owned(),
            _ => "--:".to_owned(),
        });
        let mut text = vec![markdown_line(&self.heads), markdown_line(&rule.collect::<Vec<_>>())];
        text.extend(self.lines.iter().map(|line| markdown_line(line)));
        text.join("\n")
    }

    fn alignment(&self, column: usize) -> CellAlignment {
        if column < self.text_columns { CellAlignment::Left } else { CellAlignment::Right }
    }
}

fn markdown_line(cells: &[String]) -> String {
    let escaped = cells.iter().map(|cell| cell.trim().replace('\n', " ").replace('|', "\\|"));
    format!("| {} |", escaped.collect::<Vec<_>>().join(" | "))
}
