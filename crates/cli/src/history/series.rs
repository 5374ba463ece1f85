//! One value over commits.
//!
//! An effect is followed on the scale of logarithms, on which errors of small and of large effects are alike. Several builds of one commit
//! are one point; how far they lie apart is what a layout moves, and where no commit has several builds, it is assumed.

use std::collections::BTreeMap;

use kpkeys_stats::changepoint::{Point, Stretch, stretches};
use kpkeys_stats::record::Mode;
use kpkeys_stats::table::{Effect, Table};
use schemars::JsonSchema;
use serde::Serialize;

use super::Counted;

/// What a layout is taken to move an effect by, in percent, where nothing here says.
pub const ASSUMED_LAYOUT_PCT: f64 = 1.0;
/// What a count of instructions is taken to vary by without a reason, in percent.
const COUNT_PCT: f64 = 0.1;

/// Everything that was followed.
#[derive(Serialize, JsonSchema)]
pub struct History {
    /// In order of machine and row.
    pub series: Vec<Series>,
}

/// One value over commits.
#[derive(Serialize, JsonSchema)]
pub struct Series {
    /// The machine, or the compiler that made what was counted.
    pub machine: String,
    /// The row, or the operation.
    pub name: String,
    /// The mode; none for counts.
    pub mode: Option<Mode>,
    /// What the values are in.
    pub unit: &'static str,
    /// Standard deviation between builds of one commit, in percent; none where it is assumed.
    pub layout_pct: Option<f64>,
    /// In order of time.
    pub points: Vec<Dated>,
    /// Where it changed.
    pub changes: Vec<Turn>,
}

/// One point.
#[derive(Clone, Serialize, JsonSchema)]
pub struct Dated {
    /// The commit.
    pub commit: String,
    /// When the first of its runs was begun, or when it was made.
    pub date: String,
    /// An effect in percent, or instructions.
    pub value: f64,
    /// Its standard error, in percent.
    pub error_pct: f64,
    /// Runs in it.
    pub runs: usize,
}

/// One change.
#[derive(Serialize, JsonSchema)]
pub struct Turn {
    /// The first commit at the new level.
    pub commit: String,
    /// The level before, in the series' unit.
    pub before: f64,
    /// The level from there on.
    pub after: f64,
}

impl History {
    /// From the tables of runs and the counts of commits.
    pub fn of(runs: &[Table], counted: &[Counted]) -> History {
        let effects = effects(runs)
            .into_iter()
            .map(|((machine, name, mode), runs)| of_effects(machine, name, mode, &runs));
        let counts = counts(counted).into_iter().map(|((machine, name), points)| {
            let scaled: Vec<Point> = points
                .iter()
                .map(|point| Point {
                    value: point.value,
                    error: point.value.max(1.0) * COUNT_PCT / 100.0,
                })
                .collect();
            let changes = turns(&points, &scaled, |level| level);
            Series {
                machine,
                name,
                mode: None,
                unit: "instructions",
                layout_pct: None,
                points,
                changes,
            }
        });
        History { series: effects.chain(counts).collect() }
    }
}

/// One run's effect, on the scale of logarithms, in percent.
struct Run {
    commit: String,
    date: String,
    value: f64,
    error: f64,
}

type Key = (String, String, Mode);

fn effects(runs: &[Table]) -> BTreeMap<Key, Vec<Run>> {
    let mut series: BTreeMap<Key, Vec<Run>> = BTreeMap::new();
    for table in runs.iter().filter(|table| table.gates_hold()) {
        let Some(origin) = &table.origin else { continue };
        let Some(commit) = &origin.commit else { continue };
        for row in &table.rows {
            for (mode, cell) in &row.modes {
                let Some(effect) = cell.effect.as_ref().filter(|_| *mode != Mode::Aa) else {
                    continue;
                };
                let run = Run {
                    commit: commit.clone(),
                    date: origin.started.clone(),
                    value: logarithm(effect.effect_pct),
                    error: error(effect),
                };
                let key = (machine(table), row.result_class.clone(), *mode);
                series.entry(key).or_default().push(run);
            }
        }
    }
    series
}

/// What tells machines apart: runs of two are never one series.
fn machine(table: &Table) -> String {
    let extra = |name: &str| table.machine.extra.get(name).and_then(|value| value.as_str());
    let details = ["cpu_family", "cpu_model", "cpu_stepping"].into_iter().filter_map(extra);
    let details: String = details.map(|detail| format!(" {detail}")).collect();
    format!("{}{details}, {}, {}, {}", table.machine.cpu, table.on, table.backend, table.paging)
}

fn logarithm(effect_pct: f64) -> f64 {
    (effect_pct / 100.0).ln_1p() * 100.0
}

fn percent(logarithm: f64) -> f64 {
    (logarithm / 100.0).exp_m1() * 100.0
}

/// The standard error of a mean of blocks, from its interval; half of the interval is about two of them.
fn error(effect: &Effect) -> f64 {
    let ends = effect.ci_low_pct.zip(effect.ci_high_pct);
    ends.map_or(ASSUMED_LAYOUT_PCT, |(low, high)| (logarithm(high) - logarithm(low)) / 4.0)
}

fn of_effects(machine: String, name: String, mode: Mode, runs: &[Run]) -> Series {
    let mut commits: Vec<(&str, Vec<&Run>)> = Vec::new();
    let mut ordered: Vec<&Run> = runs.iter().collect();
    ordered.sort_by(|a, b| a.date.cmp(&b.date));
    for run in ordered {
        match commits.iter_mut().find(|(commit, _)| *commit == run.commit) {
            Some((_, runs)) => runs.push(run),
            None => commits.push((&run.commit, vec![run])),
        }
    }
    let layout = between_builds(&commits);
    let spread = layout.unwrap_or(ASSUMED_LAYOUT_PCT);
    let point = |(commit, runs): &(&str, Vec<&Run>)| {
        let count = runs.len() as f64;
        let value = runs.iter().map(|run| run.value).sum::<f64>() / count;
        let noise = runs.iter().map(|run| run.error.powi(2)).sum::<f64>() / count;
        let error = ((noise + spread.powi(2)) / count).sqrt().max(1e-6);
        let dated = Dated {
            commit: (*commit).to_owned(),
            date: runs[0].date.clone(),
            value: percent(value),
            error_pct: error,
            runs: runs.len(),
        };
        (dated, Point { value, error })
    };
    let (points, scaled): (Vec<Dated>, Vec<Point>) = commits.iter().map(point).unzip();
    let changes = turns(&points, &scaled, percent);
    Series { machine, name, mode: Some(mode), unit: "%", layout_pct: layout, points, changes }
}

/// Standard deviation between runs of one commit, over all commits that have several.
fn between_builds(commits: &[(&str, Vec<&Run>)]) -> Option<f64> {
    let several = || commits.iter().map(|(_, runs)| runs).filter(|runs| runs.len() > 1);
    let freedom: usize = several().map(|runs| runs.len() - 1).sum();
    let squares = several().map(|runs| {
        let mean = runs.iter().map(|run| run.value).sum::<f64>() / runs.len() as f64;
        runs.iter().map(|run| (run.value - mean).powi(2)).sum::<f64>()
    });
    (freedom > 0).then(|| (squares.sum::<f64>() / freedom as f64).sqrt())
}

fn counts(counted: &[Counted]) -> BTreeMap<(String, String), Vec<Dated>> {
    let mut series: BTreeMap<(String, String), Vec<Dated>> = BTreeMap::new();
    let mut ordered: Vec<&Counted> = counted.iter().collect();
    ordered.sort_by(|a, b| a.date.cmp(&b.date));
    for line in ordered {
        for (name, value) in &line.counts {
            series.entry((line.compiler.clone(), name.clone())).or_default().push(Dated {
                commit: line.commit.clone(),
                date: line.date.clone(),
                value: *value,
                error_pct: COUNT_PCT,
                runs: 1,
            });
        }
    }
    series
}

fn turns(points: &[Dated], scaled: &[Point], shown: impl Fn(f64) -> f64) -> Vec<Turn> {
    let found: Vec<Stretch> = stretches(scaled);
    let turn = |pair: &[Stretch]| Turn {
        commit: points[pair[1].first].commit.clone(),
        before: shown(pair[0].level),
        after: shown(pair[1].level),
    };
    found.windows(2).map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(commit: &str, day: u32, value: f64) -> Run {
        Run {
            commit: commit.into(),
            date: format!("2026-01-{day:02}T00:00:00Z"),
            value,
            error: 0.1,
        }
    }

    fn series(runs: &[Run]) -> Series {
        of_effects("m".into(), "fork: h:0".into(), Mode::Batched, runs)
    }

    #[test]
    fn a_commit_that_changed_an_effect_is_named() {
        let commits = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let runs = (1..).zip(commits).map(|(day, commit)| {
            run(commit, day, if day < 5 { 3.0 } else { 9.0 } + 0.1 * f64::from(day % 2))
        });
        let series = series(&runs.collect::<Vec<_>>());
        let [turn] = series.changes.as_slice() else { panic!("{}", series.changes.len()) };
        assert_eq!(turn.commit, "e");
        assert!(
            (turn.before - percent(3.05)).abs() < 0.01 && (turn.after - percent(9.05)).abs() < 0.01
        );
        assert_eq!(series.layout_pct, None, "no commit has several builds");
    }

    #[test]
    fn builds_of_one_commit_are_one_point_and_say_what_a_layout_moves() {
        // Two builds of each commit, two points apart: a step of one point between commits proves nothing.
        let runs = (1..=8).flat_map(|day| {
            let level = if day < 5 { 3.0 } else { 4.0 };
            let commit = format!("c{day}");
            [run(&commit, day, level - 1.0), run(&commit, day, level + 1.0)]
        });
        let series = series(&runs.collect::<Vec<_>>());
        assert_eq!(series.points.len(), 8);
        assert!(series.points.iter().all(|point| point.runs == 2));
        assert!(
            (series.layout_pct.unwrap() - 2_f64.sqrt()).abs() < 1e-9,
            "{:?}",
            series.layout_pct
        );
        assert!(series.changes.is_empty());
    }

    #[test]
    fn counts_of_two_compilers_are_two_histories() {
        let line = |commit: &str, day: u32, compiler: &str, count: f64| Counted {
            commit: commit.into(),
            date: format!("2026-01-{day:02}"),
            compiler: compiler.into(),
            counts: BTreeMap::from([("fork, off".to_owned(), count)]),
        };
        // Out of order, as lines of several branches may be.
        let lines = [
            line("c", 3, "1", 110.0),
            line("a", 1, "1", 100.0),
            line("b", 2, "1", 100.0),
            line("d", 4, "2", 500.0),
        ];
        let history = History::of(&[], &lines);
        let [first, second] = history.series.as_slice() else { panic!("two") };
        assert_eq!(
            first.points.iter().map(|point| point.value).collect::<Vec<_>>(),
            [100.0, 100.0, 110.0]
        );
        assert_eq!(first.changes.len(), 1);
        assert_eq!((first.changes[0].commit.as_str(), first.changes[0].after), ("c", 110.0));
        assert!(second.changes.is_empty());
    }
}
