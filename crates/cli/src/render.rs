//! Tables for people and for scripts.
//!
//! One entry for each thing that is printed: a run's table ([`write_results`]) and the published tables
//! ([`write_published`]), each in every [`Format`]. `table` and `markdown` are for reading and carry a
//! legend; `csv` has one line for each row and mode; `json` is the typed table itself.

mod cells;
mod counts;
mod csv;
mod grid;
mod instructions;
mod legend;
mod published;
mod results;

use self::grid::Grid;
use crate::instructions::Report;
use crate::reference::Published;
use kpkeys_stats::table::Table;
use serde::Serialize;
use std::io::{self, Write};

/// How a table is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns for a terminal of 100 to 140 columns.
    #[default]
    Table,
    /// A Markdown table.
    Markdown,
    /// Comma-separated values, one line for each row and mode.
    Csv,
    /// One JSON object.
    Json,
}

/// Width to which the lines beneath a table are wrapped on a terminal.
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
) -> io::Result<()> {
    let layout = match format {
        Format::Csv => return csv::results(out, table),
        Format::Json => return json(out, table),
        Format::Table => results::terminal(table),
        Format::Markdown => results::markdown(table),
    };
    grid(out, &layout, format)?;
    let projected = layout.heads.iter().any(|head| head.starts_with(results::PROJECTED));
    lines(out, &legend::lines(table, projected), format)?;
    if counts {
        writeln!(out)?;
        grid(out, &counts::grid(table, format), format)?;
        lines(out, &legend::count_lines(), format)?;
    }
    Ok(())
}

/// Prints counts of instructions.
///
/// # Errors
///
/// What `out` fails with.
pub fn write_instructions(out: &mut impl Write, report: &Report, format: Format) -> io::Result<()> {
    match format {
        Format::Csv => return csv::instructions(out, report),
        Format::Json => return json(out, report),
        Format::Table | Format::Markdown => {}
    }
    grid(out, &instructions::grid(report), format)?;
    lines(out, &instructions::legend(), format)
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
) -> io::Result<()> {
    match format {
        Format::Csv => return csv::published(out, tables),
        Format::Json => return json(out, &published::object(tables)),
        Format::Table | Format::Markdown => {}
    }
    for (index, table) in tables.iter().enumerate() {
        let above = if index == 0 { "" } else { "\n" };
        writeln!(out, "{above}{}\n", textwrap::fill(&published::title(*table), wrapping()))?;
        grid(out, &published::grid(*table, format), format)?;
    }
    lines(out, &published::legend(), format)
}

fn json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

fn grid(out: &mut impl Write, grid: &Grid, format: Format) -> io::Result<()> {
    match format {
        Format::Markdown => writeln!(out, "{}", grid.to_markdown()),
        _ => writeln!(out, "{}", grid.to_terminal()),
    }
}

/// Writes the lines beneath a table: wrapped on a terminal, as a list in Markdown.
fn lines(out: &mut impl Write, lines: &[String], format: Format) -> io::Result<()> {
    writeln!(out)?;
    for line in lines {
        match format {
            Format::Markdown => writeln!(out, "- {line}")?,
            _ => writeln!(out, "{}", textwrap::fill(line, wrapping()))?,
        }
    }
    Ok(())
}

fn wrapping() -> textwrap::Options<'static> {
    textwrap::Options::new(LEGEND_COLUMNS)
        .subsequent_indent("  ")
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
}

#[cfg(test)]
mod tests;
