//! The table of a run: one line a row of the evaluation, one column a mode.
//!
//! On a terminal the benchmark's name stands on a line of its own above its rows, the legend gives the
//! extremes of the A/A twin, and with `--compare` the other table's columns take the place of the
//! projection; so the table keeps to 140 columns. A narrower one is folded: what rows of a test have in
//! common stands above them too, and columns are left out. Markdown holds every column.

use super::{
    cells::{self, NONE},
    grid::Grid,
};
use kpkeys_stats::{
    record::Mode,
    table::{Row, Table},
};

/// How the head of the column with projections begins.
pub const PROJECTED: &str = "projected";

/// The run's table for a terminal, or for a narrow one.
pub fn terminal(table: &Table, folded: bool) -> Grid {
    let mut columns = vec![class(), off(), linux(), of_linux(table)];
    columns.extend(table.protecting_modes().into_iter().map(mode));
    columns.push(compat(table));
    columns.push(comparison(table).unwrap_or_else(|| projection(table)));
    // What was asked for by name goes last.
    let spare = [projection(table), compat(table), of_linux(table), linux()];
    let spare = spare.into_iter().chain(comparison(table)).map(|column| column.head).collect();
    let mut grid = Grid { spare, folded, ..grid(&columns, table, 1) };
    let names = table.rows.iter().map(|row| (row.benchmark.as_str(), row.result_class.as_str()));
    grid.lines = under_benchmarks(names, grid.lines, folded);
    grid
}

/// The run's table for Markdown.
pub fn markdown(table: &Table) -> Grid {
    let mut columns =
        vec![benchmark(), class(), off(), per_entry(), linux(), of_linux(table), mode(Mode::Aa)];
    columns.extend(table.protecting_modes().into_iter().map(mode));
    columns.extend([compat(table), projection(table)]);
    columns.extend(comparison(table));
    grid(&columns, table, 2)
}

/// A column: its head, and what it shows of a row.
struct Column<'t> {
    head: String,
    cell: Box<dyn Fn(&Row) -> String + 't>,
}

impl<'t> Column<'t> {
    fn new(head: impl Into<String>, cell: impl Fn(&Row) -> Option<String> + 't) -> Self {
        let cell = Box::new(move |row: &Row| cell(row).unwrap_or_else(|| NONE.to_owned()));
        Column { head: head.into(), cell }
    }
}

/// Lays out the columns, without those that hold nothing in any row.
fn grid(columns: &[Column], table: &Table, text_columns: usize) -> Grid {
    let holds_something =
        |column: &&Column| table.rows.iter().any(|row| (column.cell)(row) != NONE);
    let columns: Vec<&Column> = columns.iter().filter(holds_something).collect();
    let line = |row| columns.iter().map(|column| (column.cell)(row)).collect();
    Grid {
        heads: columns.iter().map(|column| column.head.clone()).collect(),
        text_columns,
        lines: table.rows.iter().map(line).collect(),
        ..Grid::default()
    }
}

/// Puts the benchmark's name above the first of its rows, and its rows a little to the right. Folded, so does what stands before the
/// colon in the names of rows.
pub fn under_benchmarks<'n>(
    rows: impl Iterator<Item = (&'n str, &'n str)>,
    lines: Vec<Vec<String>>,
    folded: bool,
) -> Vec<Vec<String>> {
    let mut grouped = Vec::new();
    let mut above: Vec<&str> = Vec::new();
    for ((benchmark, result_class), mut line) in rows.zip(lines) {
        let (test, size) = result_class.split_once(": ").filter(|_| folded).unzip();
        let names: Vec<&str> =
            [benchmark].into_iter().chain(test.filter(|test| *test != benchmark)).collect();
        let known = names.iter().zip(&above).take_while(|(name, above)| name == above).count();
        for (depth, name) in names.iter().enumerate().skip(known) {
            grouped.push(vec![format!("{}{name}", "  ".repeat(depth))]);
        }
        line[0] = format!("{}{}", "  ".repeat(names.len()), size.unwrap_or(result_class));
        above = names;
        grouped.push(line);
    }
    grouped
}

fn benchmark<'t>() -> Column<'t> {
    Column::new("benchmark", |row| Some(row.benchmark.clone()))
}

fn class<'t>() -> Column<'t> {
    Column::new("result class", |row| Some(row.result_class.clone()))
}

fn off<'t>() -> Column<'t> {
    Column::new("off", |row| {
        let mark = if row.baseline_recorded { cells::RECORDED } else { "" };
        Some(format!("{}{mark}", cells::quantity(row.baseline?, row.unit)))
    })
}

fn per_entry<'t>() -> Column<'t> {
    Column::new("off, ns per entry", |row| Some(format!("{:.1}", row.per_entry_ns?)))
}

fn linux<'t>() -> Column<'t> {
    Column::new("linux\nhere", |row| Some(cells::quantity(row.linux_here?, row.unit)))
}

/// The added time in percent of the host kernel's, one for each protecting mode.
fn of_linux(table: &Table) -> Column<'_> {
    let modes = table.protecting_modes();
    Column::new(format!("% of it\n{}", initials(&modes)), move |row| {
        let of = |mode| row.effect(mode).and_then(|effect| effect.of_linux_pct);
        let text = |mode| of(mode).map_or_else(|| NONE.to_owned(), |share| cells::signed(share, 1));
        modes.iter().any(|mode| of(*mode).is_some()).then(|| joined(&modes, text))
    })
}

fn mode<'t>(mode: Mode) -> Column<'t> {
    let head = if mode == Mode::Aa { "A/A" } else { mode.name() };
    Column::new(head, move |row| Some(cells::effect(row.effect(mode)?)))
}

/// What the series' rule says, one letter for each protecting mode.
fn compat(table: &Table) -> Column<'_> {
    let modes = table.protecting_modes();
    Column::new(format!("pooled\n{}", initials(&modes)), move |row| {
        let letter =
            |mode| row.effect(mode).map_or(NONE, |effect| cells::letter(effect.compat_flag));
        Some(joined(&modes, letter))
    })
}

/// The projected effects, one for each protecting mode.
fn projection(table: &Table) -> Column<'_> {
    let modes = table.protecting_modes();
    Column::new(format!("{PROJECTED}\n{}", initials(&modes)), move |row| {
        let of = |mode| row.modes.get(&mode).and_then(|cell| cell.projection.as_ref());
        modes.iter().any(|mode| of(*mode).is_some()).then(|| {
            joined(&modes, |mode| of(mode).map_or_else(|| NONE.to_owned(), cells::projection))
        })
    })
}

/// The other table's effects, one for each mode it has.
fn comparison(table: &Table) -> Option<Column<'_>> {
    let compare = table.compare.as_ref()?;
    let has = |mode: &Mode| {
        compare.rows.iter().any(|row| row.modes.get(mode).is_some_and(|both| both.there.is_some()))
    };
    let modes: Vec<Mode> = Mode::PROTECTING.into_iter().filter(has).collect();
    let head = format!("{}\n{}", compare.name, joined(&modes, Mode::name));
    Some(Column::new(head, move |row| {
        let compared = compare.row(&row.benchmark, &row.result_class)?;
        let of = |mode| compared.modes.get(&mode).and_then(|both| both.there.as_ref());
        modes.iter().any(|mode| of(*mode).is_some()).then(|| {
            let effect = |mode| of(mode).map_or_else(|| NONE.to_owned(), cells::reference_effect);
            joined(&modes, effect)
        })
    }))
}

fn initials(modes: &[Mode]) -> String {
    joined(modes, |mode| &mode.name()[..1])
}

fn joined<S: Into<String>>(modes: &[Mode], text: impl Fn(Mode) -> S) -> String {
    modes.iter().map(|mode| text(*mode).into()).collect::<Vec<String>>().join("/")
}
