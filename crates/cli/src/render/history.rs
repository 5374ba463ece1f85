//! What changed over commits, as a table and as values.

use std::io::{self, Write};

use super::grid::Grid;
use crate::history::{History, Series, value};

/// One line for each change, and one for each series without any.
pub fn grid(history: &History) -> Grid {
    let line = |series: &Series, commit: String, change: String| {
        let mode = series.mode.map_or("", |mode| mode.name());
        let last = series.points.last().map_or(String::new(), |point| value(series, point.value));
        let commits = series.points.len().to_string();
        vec![series.name.clone(), mode.to_owned(), commits, last, commit, change]
    };
    let mut lines = Vec::new();
    let mut machine = "";
    for series in &history.series {
        if machine != series.machine {
            machine = &series.machine;
            lines.push(vec![machine.to_owned()]);
        }
        if series.changes.is_empty() {
            lines.push(line(series, "-".to_owned(), "-".to_owned()));
        }
        for turn in &series.changes {
            let change = format!("{} → {}", value(series, turn.before), value(series, turn.after));
            lines.push(line(series, format!("{:.12}", turn.commit), change));
        }
    }
    let heads = ["row or operation", "mode", "commits", "last", "changed at", "from → to"];
    let spare = ["commits", "last"].map(str::to_owned).to_vec();
    Grid { heads: heads.map(str::to_owned).to_vec(), text_columns: 2, lines, spare, folded: true }
}

/// What is said beneath.
pub fn legend(history: &History) -> Vec<String> {
    let measured = history.series.iter().filter(|series| series.layout_pct.is_some()).count();
    vec![
        "changed at: the first commit at another level; a level ends where a change is more than noise and layouts explain.".to_owned(),
        format!(
            "layouts: their spread is measured in {measured} of {} series, which have several builds of a commit; elsewhere {} % are assumed for effects.",
            history.series.len(),
            crate::history::ASSUMED_LAYOUT_PCT
        ),
    ]
}

/// Every point.
pub fn csv(out: &mut impl Write, history: &History) -> io::Result<()> {
    let mut writer = ::csv::Writer::from_writer(out);
    writer.write_record([
        "machine",
        "name",
        "mode",
        "unit",
        "commit",
        "date",
        "value",
        "error_pct",
        "runs",
        "changed",
    ])?;
    for series in &history.series {
        for point in &series.points {
            let changed = series.changes.iter().any(|turn| turn.commit == point.commit);
            let [value, error] = [point.value, point.error_pct].map(|number| number.to_string());
            let mode = series.mode.map_or("", |mode| mode.name());
            let names = [&series.machine, &series.name, mode, series.unit];
            let runs = point.runs.to_string();
            let numbers = [value.as_str(), &error, &runs, if changed { "yes" } else { "" }];
            let dated = [point.commit.as_str(), &point.date];
            writer.write_record(names.into_iter().chain(dated).chain(numbers))?;
        }
    }
    writer.flush()
}
