//! `kpkeys bench --list`: the rows, each with what it does.

use std::io::{self, Write};

use kpkeys_workloads::{Row, Test};

use super::plan::PlannedRow;
use super::traced::TracedRow;
use crate::render::SIZES;

/// Prints the rows below the benchmark they belong to, in 80 columns.
///
/// # Errors
///
/// What `out` fails with.
pub fn write(out: &mut impl Write, rows: &[PlannedRow]) -> io::Result<()> {
    let mut benchmark = "";
    for row in rows {
        if row.benchmark() != benchmark {
            benchmark = row.benchmark();
            writeln!(out, "{benchmark}")?;
        }
        writeln!(out, "  {:<36}{}", row.result_class(), description(row))?;
    }
    let beneath =
        format!("{SIZES} --rows takes these names or those of the benchmarks, with * and ?.");
    writeln!(out, "\n{}", textwrap::fill(&beneath, 80))
}

/// What a row times, in a few words.
fn description(row: &PlannedRow) -> String {
    match row {
        PlannedRow::Traced { row, .. } => of_trace(*row).to_owned(),
        PlannedRow::Workload(row) => of_workload(row),
    }
}

fn of_trace(row: TracedRow) -> &'static str {
    match row {
        TracedRow::Real => "elapsed time of a recorded build",
        TracedRow::System => "its time in the kernel",
        TracedRow::User => "its time in user mode",
        TracedRow::Memory => "its memory management alone",
    }
}

fn of_workload(row: &Row) -> String {
    let pages = match row.pages {
        1 => "1 page".to_owned(),
        pages => format!("{pages} pages"),
    };
    let allocator = if row.huge { "vmalloc_huge" } else { "vmalloc" };
    match row.test {
        Test::Fork => "fork with 1 GiB mapped and touched".to_owned(),
        Test::Munmap => "munmap of 1 GiB, touched".to_owned(),
        Test::FixSize => format!("{allocator} of {pages}, touch, vfree"),
        Test::RandomSize => format!("{allocator} of 1 to 100 pages, vfree"),
        Test::VmMapRam => format!("map {pages}, touch, unmap"),
        Test::FullFit => "holes of one area, filled and emptied".to_owned(),
        Test::LongBusyList => "vmalloc behind 15,000 live areas".to_owned(),
        Test::FixAlign => "five pages at a large alignment".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan;

    #[test]
    fn every_row_has_a_line_of_its_own_that_fits_80_columns() {
        let mut out = Vec::new();
        write(&mut out, &plan::published()).unwrap();
        let text = String::from_utf8(out).unwrap();
        for row in plan::published() {
            let name = format!("  {} ", row.result_class());
            assert_eq!(text.lines().filter(|line| line.starts_with(&name)).count(), 1, "{name}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
