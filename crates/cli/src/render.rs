//! Tables for people and for scripts.
//!
//! One entry for each thing that is printed: a run's table ([`write_results`]) and the published tables
//! ([`write_published`]), each in every [`Format`]. `table` and `markdown` are for reading and carry a
//! legend; `csv` has one line for each row and mode; `json` is the typed table itself.

pub mod cells;
mod contrast;
mod counts;
mod csv;
mod estimate;
mod grid;
mod history;
mod instructions;
mod layouts;
mod legend;
mod machines;
mod parts;
mod published;
mod results;
mod screen;

pub use legend::{SIZES, machine, run};
pub use parts::points;
pub use screen::Screen;

use self::grid::Grid;
use crate::compare;
use crate::estimate::{Report as Estimate, costs::Known};
use crate::history::History;
use crate::instructions::Report;
use crate::reference::Published;
use crate::{parts as apart, spread};
use kpkeys_stats::table::Table;
use serde::Serialize;
use std::io::{self, Write};

/// How a table is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, as many as the terminal has room for; in a pipe all.
    #[default]
    Table,
    /// A Markdown table.
    Markdown,
    /// Comma-separated values, one line for each row and mode.
    Csv,
    /// One JSON object.
    Json,
}

/// Width to which the lines beneath a table are wrapped where there is room.
const LEGEND_COLUMNS: usize = 110;

/// Prints the table of a run; with `counts` also the event counts, which `csv` and `json` always
/// hold.
///
/// # Errors
///
/// What `out` fails with.
pub fn write_results(
    out: &mut impl Write,
    table: &Table,
    format: Format,
    counts: bool,
    screen: Screen,
) -> io::Result<()> {
    let page = Page { format, screen };
    let mut said = Vec::new();
    let layout = match format {
        Format::Csv => return csv::results(out, table),
        Format::Json => return json(out, table),
        Format::Table => page.fitted(&mut said, |folded| results::terminal(table, folded)),
        Format::Markdown => results::markdown(table),
    };
    page.grid(out, &layout)?;
    said.extend(legend::lines(table, &layout.heads));
    page.lines(out, &said)?;
    if counts {
        let mut said = Vec::new();
        let layout = page.fitted(&mut said, |folded| counts::grid(table, format, folded));
        said.extend(legend::count_lines());
        writeln!(out)?;
        page.grid(out, &layout)?;
        page.lines(out, &said)?;
    }
    Ok(())
}

/// Prints counts of instructions.
///
/// # Errors
///
/// What `out` fails with.
pub fn write_instructions(
    out: &mut impl Write,
    report: &Report,
    format: Format,
    screen: Screen,
) -> io::Result<()> {
    match format {
        Format::Csv => return csv::instructions(out, report),
        Format::Json => return json(out, report),
        Format::Table | Format::Markdown => {}
    }
    let page = Page { format, screen };
    page.grid(out, &instructions::grid(report))?;
    page.lines(out, &instructions::legend())
}

/// Prints what several layouts of the code gave, machine by machine.
///
/// # Errors
///
/// What `out` fails with.
pub fn write_spread(
    out: &mut impl Write,
    report: &spread::Report,
    format: Format,
    screen: Screen,
) -> io::Result<()> {
    let page = Page { format, screen };
    match format {
        Format::Csv => return csv::spread(out, report),
        Format::Json => return json(out, report),
        Format::Table | Format::Markdown => {}
    }
    for spread in &report.machines {
        let machine = machine(&spread.machine);
        match format {
            Format::Markdown => writeln!(out, "## {machine}\n")?,
            _ => writeln!(out, "{}\n", page.wrapped(&machine))?,
        }
        let mut said = Vec::new();
        for grid in [layouts::costs, layouts::intervals, layouts::exposure] {
            page.grid(out, &page.fitted(&mut said, |folded| grid(spread, folded)))?;
            writeln!(out)?;
        }
        said.extend(layouts::legend(spread));
        page.lines(out, &said)?;
        writeln!(out)?;
    }
    Ok(())
}

/// Prints runs against each other.
///
/// # Errors
///
/// What `out` fails with.
pub fn write_comparison(
    out: &mut impl Write,
    report: &compare::Report,
    format: compare::Format,
    screen: Screen,
) -> io::Result<()> {
    let format = match format {
        compare::Format::Csv => return contrast::csv(out, report),
        compare::Format::Json => return json(out, report),
        compare::Format::Bmf => return json(out, &contrast::bmf(report)),
        compare::Format::Table => Format::Table,
        compare::Format::Markdown => Format::Markdown,
    };
    let (page, markdown) = (Page { format, screen }, format == Format::Markdown);
    for comparison in &report.comparisons {
        let title = contrast::title(comparison);
        writeln!(out, "{}{title}\n", if markdown { "### " } else { "" })?;
        let mut said = Vec::new();
        page.grid(out, &page.narrowed(&mut said, contrast::rows(comparison, markdown)))?;
        if !comparison.groups.is_empty() {
            writeln!(out)?;
            page.grid(out, &page.narrowed(&mut said, contrast::groups(comparison, markdown)))?;
        }
        page.lines(out, &contrast::legend(comparison))?;
        writeln!(out)?;
    }
    for failure in &report.failures {
        writeln!(out, "{}{failure}", if markdown { "- **over the limit** " } else { "FAILS: " })?;
    }
    Ok(())
}

/// Prints what changed over commits.
///
/// # Errors
///
/// What `out` fails with.
pub fn write_history(
    out: &mut impl Write,
    report: &History,
    format: Format,
    screen: Screen,
) -> io::Result<()> {
    match format {
        Format::Csv => return history::csv(out, report),
        Format::Json => return json(out, report),
        Format::Table | Format::Markdown => {}
    }
    let (page, mut said) = (Page { format, screen }, Vec::new());
    page.grid(out, &page.narrowed(&mut said, history::grid(report)))?;
    said.extend(history::legend(report));
    page.lines(out, &said)
}

/// Prints modes taken apart.
///
/// # Errors
///
/// What `out` fails with.
pub fn write_parts(
    out: &mut impl Write,
    report: &apart::Report,
    format: Format,
    screen: Screen,
) -> io::Result<()> {
    let page = Page { format, screen };
    let mut said = Vec::new();
    let layout = match format {
        Format::Csv => return csv::parts(out, report),
        Format::Json => return json(out, report),
        Format::Table | Format::Markdown => page.fitted(&mut said, |_| parts::grid(report)),
    };
    page.grid(out, &layout)?;
    said.extend(parts::legend(report));
    page.lines(out, &said)
}

/// Prints the effects of several layouts of the code alone, machine by machine.
///
/// # Errors
///
/// What `out` fails with.
pub fn write_headline(
    out: &mut impl Write,
    report: &spread::Report,
    format: Format,
    screen: Screen,
) -> io::Result<()> {
    match format {
        Format::Csv => return csv::spread(out, report),
        Format::Json => return json(out, report),
        Format::Table | Format::Markdown => {}
    }
    let page = Page { format, screen };
    report.machines.iter().try_for_each(|spread| {
        page.grid(out, &page.fitted(&mut Vec::new(), |folded| layouts::costs(spread, folded)))
    })
}

/// Prints one evaluation on several kinds of machines, by their names.
///
/// # Errors
///
/// What `out` fails with.
pub fn write_machines(
    out: &mut impl Write,
    kinds: &[(&str, &Table)],
    format: Format,
    screen: Screen,
) -> io::Result<()> {
    let page = Page { format, screen };
    page.grid(out, &machines::grid(kinds))?;
    page.lines(out, &machines::legend(kinds))
}

/// Prints what protection is expected to cost.
///
/// # Errors
///
/// What `out` fails with.
pub fn write_estimate(
    out: &mut impl Write,
    report: &Estimate,
    format: Format,
    screen: Screen,
) -> io::Result<()> {
    let page = Page { format, screen };
    match format {
        Format::Csv => return csv::estimate(out, report),
        Format::Json => return json(out, report),
        Format::Table | Format::Markdown => {}
    }
    page.grid(out, &estimate::grid(report))?;
    page.lines(out, &estimate::legend(report))
}

/// Prints the CPUs whose costs are known.
///
/// # Errors
///
/// What `out` fails with.
pub fn write_known_costs(
    out: &mut impl Write,
    list: &[Known],
    format: Format,
    screen: Screen,
) -> io::Result<()> {
    if format == Format::Json {
        return json(out, &list);
    }
    Page { format, screen }.grid(out, &estimate::known(list))
}

/// Prints published tables.
///
/// # Errors
///
/// What `out` fails with.
pub fn write_published(
    out: &mut impl Write,
    tables: &[Published],
    format: Format,
    screen: Screen,
) -> io::Result<()> {
    let page = Page { format, screen };
    match format {
        Format::Csv => return csv::published(out, tables),
        Format::Json => return json(out, &published::object(tables)),
        Format::Table | Format::Markdown => {}
    }
    let mut said = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let above = if index == 0 { "" } else { "\n" };
        writeln!(out, "{above}{}\n", page.wrapped(&published::title(*table)))?;
        page.grid(out, &page.fitted(&mut said, |folded| published::grid(*table, format, folded)))?;
    }
    said.extend(published::legend());
    page.lines(out, &said)
}

fn json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// How tables and the lines beneath them are written.
#[derive(Clone, Copy)]
struct Page {
    format: Format,
    screen: Screen,
}

impl Page {
    /// A table as it is where it fits, or folded and with columns left out, which `said` then tells.
    fn fitted(self, said: &mut Vec<String>, grid: impl Fn(bool) -> Grid) -> Grid {
        let full = grid(false);
        match self.screen.columns {
            Some(columns) if self.format == Format::Table && full.width() > columns => {
                let mut folded = grid(true);
                said.extend(legend::left_out(&folded.fit(columns), columns));
                folded
            }
            _ => full,
        }
    }

    /// A table without the columns that a narrow terminal has no room for, which `said` then tells.
    fn narrowed(self, said: &mut Vec<String>, mut grid: Grid) -> Grid {
        if let (Some(columns), Format::Table) = (self.screen.columns, self.format) {
            said.extend(legend::left_out(&grid.fit(columns), columns));
        }
        grid
    }

    fn grid(self, out: &mut impl Write, grid: &Grid) -> io::Result<()> {
        match self.format {
            Format::Markdown => writeln!(out, "{}", grid.to_markdown()),
            _ => writeln!(out, "{}", self.screen.paint(&grid.to_terminal())),
        }
    }

    /// Writes the lines beneath a table: wrapped on a terminal, as a list in Markdown.
    fn lines(self, out: &mut impl Write, lines: &[String]) -> io::Result<()> {
        writeln!(out)?;
        for line in lines {
            match self.format {
                Format::Markdown => writeln!(out, "- {line}")?,
                _ => writeln!(out, "{}", self.wrapped(line))?,
            }
        }
        Ok(())
    }

    fn wrapped(self, line: &str) -> String {
        let width =
            self.screen.columns.map_or(LEGEND_COLUMNS, |columns| columns.min(LEGEND_COLUMNS));
        let wrapping = textwrap::Options::new(width)
            .subsequent_indent("  ")
            .word_splitter(textwrap::WordSplitter::NoHyphenation);
        textwrap::fill(line, wrapping)
    }
}

#[cfg(test)]
mod tests;
