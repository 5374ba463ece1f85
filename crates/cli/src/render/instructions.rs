//! Instructions an operation: a column for each backend's baseline, and one for each of its modes.

use super::cells::{self, NONE};
use super::grid::Grid;
use crate::instructions::{Counted, Report};
use kpkeys_stats::record::Mode;

/// One line a row.
pub fn grid(report: &Report) -> Grid {
    let columns: Vec<(&str, Mode)> = report
        .backends
        .iter()
        .flat_map(|backend| report.modes.iter().map(move |mode| (backend.as_str(), *mode)))
        .collect();
    let heads = columns.iter().map(|(backend, mode)| format!("{backend}\n{}", mode.name()));
    let line = |row: &Counted| {
        let cells = columns.iter().map(|(backend, mode)| cell(row, backend, *mode));
        [row.result_class.to_owned()].into_iter().chain(cells).collect()
    };
    Grid {
        heads: ["result class".to_owned()].into_iter().chain(heads).collect(),
        text_columns: 1,
        lines: report.rows.iter().map(line).collect(),
        ..Grid::default()
    }
}

/// What is said beneath.
pub fn legend() -> Vec<String> {
    vec![
        "instructions of one operation (one loop in the vmalloc rows); in the protecting modes what they add to `off` with the \
         same backend. Timer interrupts that fell into the row are among them."
            .to_owned(),
        "An instruction is no time: a barrier and an addition both count as one.".to_owned(),
    ]
}

fn cell(row: &Counted, backend: &str, mode: Mode) -> String {
    let of = |mode| row.instructions.get(backend).and_then(|modes| modes.get(&mode)).copied();
    match (mode, of(Mode::Off), of(mode)) {
        (Mode::Off, Some(off), _) => cells::count(off.round()),
        (_, Some(off), Some(value)) => {
            let percent = cells::signed((value / off - 1.0) * 100.0, 2);
            format!(
                "{}{} ({percent} %)",
                if value < off { "" } else { "+" },
                cells::count((value - off).round())
            )
        }
        _ => NONE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn backends_stand_side_by_side_with_what_each_adds() {
        let modes =
            |off, unbatched| BTreeMap::from([(Mode::Off, off), (Mode::Unbatched, unbatched)]);
        let report = Report {
            on: "qemu-aarch64".into(),
            unit: "instructions",
            keys: "one",
            backends: vec!["pan".into(), "mock".into()],
            modes: vec![Mode::Off, Mode::Unbatched],
            rows: vec![Counted {
                benchmark: "fork",
                result_class: "fork: h:0",
                instructions: BTreeMap::from([
                    ("pan".to_owned(), modes(1000.0, 1500.4)),
                    ("mock".to_owned(), modes(1000.0, 990.0)),
                ]),
            }],
        };
        let Grid { heads, lines, .. } = grid(&report);
        assert_eq!(
            heads,
            ["result class", "pan\noff", "pan\nunbatched", "mock\noff", "mock\nunbatched"]
        );
        let expected = ["fork: h:0", "1,000", "+500 (+50.04 %)", "1,000", "-10 (-1.00 %)"];
        assert_eq!(lines, [expected]);
    }
}
