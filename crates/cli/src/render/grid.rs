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
    /// The lines. One of a single cell is a heading above those that follow.
    pub lines: Vec<Vec<String>>,
    /// Columns a narrow terminal can do without, by their heads, the most dispensable first.
    pub spare: Vec<String>,
    /// Whether headings run across all columns instead of widening the first.
    pub folded: bool,
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
            match line.as_slice() {
                [_] if self.folded => table.add_row([""]),
                line => table.add_row(line),
            };
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            // The preset draws borders as one space; padding makes it two between columns.
            let first = if index == 0 { 0 } else { 1 };
            column.set_padding((first, 0)).set_cell_alignment(self.alignment(index));
        }
        let text = table.trim_fmt();
        if self.folded { self.with_headings(&text) } else { text }
    }

    /// The widest line on a terminal.
    pub fn width(&self) -> usize {
        self.to_terminal().lines().map(|line| line.chars().count()).max().unwrap_or(0)
    }

    /// Leaves spare columns out until the table is no wider than that, or has no more to spare. Returns what was left out.
    pub fn fit(&mut self, width: usize) -> Vec<String> {
        let mut left_out = Vec::new();
        for head in std::mem::take(&mut self.spare) {
            if self.width() <= width {
                break;
            }
            let Some(index) = self.heads.iter().position(|known| *known == head) else { continue };
            self.heads.remove(index);
            for line in self.lines.iter_mut().filter(|line| line.len() > index) {
                line.remove(index);
            }
            left_out.push(head);
        }
        left_out
    }

    /// Puts the headings into the lines that were laid out for them.
    fn with_headings(&self, text: &str) -> String {
        let rules = 1 + self.heads.iter().map(|head| head.lines().count()).max().unwrap_or(0);
        let lines = text.lines().enumerate().map(|(index, line)| {
            match index
                .checked_sub(rules)
                .and_then(|index| self.lines.get(index))
                .map(Vec::as_slice)
            {
                Some([heading]) => heading,
                _ => line,
            }
        });
        lines.collect::<Vec<_>>().join("\n")
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
