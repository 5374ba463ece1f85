//! One run against another: what changed, row by row, and whether that may be concluded.
//!
//! Two things are compared of each row and mode. Its *time*: that is comparable only between builds that took turns in one session, where
//! a block of one and the same block of the other were measured next to each other; of two runs at two times a machine's mood is the
//! difference. And its *effect*, the time over the baseline of the same run, which brings its own scale along: of separate runs that is
//! what can be compared, with the samples of the two sides independent of each other.
//!
//! Nothing is concluded where a condition differs that nobody said was meant ([`crate::conditions`]), and p-values are corrected over all
//! rows and modes of a measure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    conditions::{Condition, Difference},
    estimate::{Estimate, percent},
    flag::{ALPHA, MIN_BLOCKS, holm},
    interval::{Interval, mean},
    permutation::{smallest_p, smallest_p_of_two},
    record::{Mode, Unit},
    reduce::log_ratio,
    side::{Side, SideRow},
};

/// What was asked about two runs.
#[derive(Clone, Debug)]
pub struct Question {
    /// Changes inside plus and minus this many percent count as none.
    pub equal_pct: f64,
    /// Conditions that are meant to differ.
    pub accepted: Vec<Condition>,
    /// Seed of the p-values that are drawn.
    pub seed: u64,
}

/// One run against another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Contrast {
    /// The first run.
    pub before: String,
    /// The other.
    pub after: String,
    /// Whether both took turns in the same blocks.
    pub paired: bool,
    /// In what they differ.
    pub differences: Vec<Difference>,
    /// Whether anything is concluded.
    pub conclusive: bool,
    /// Changes inside plus and minus this many percent count as none.
    pub equal_pct: f64,
    /// Comparisons that p-values were corrected for, in the larger family.
    pub comparisons: usize,
    /// Whether so many blocks can prove a change at all. If not, that none is found means nothing.
    pub can_decide: bool,
    /// Rows of both runs.
    pub rows: Vec<ContrastRow>,
    /// The rows of each benchmark together, by their geometric mean.
    pub groups: Vec<ContrastGroup>,
}

/// One row of both runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ContrastRow {
    /// The benchmark it belongs to.
    pub benchmark: String,
    /// Its name.
    pub result_class: String,
    /// What times are in.
    pub unit: Option<Unit>,
    /// What changed.
    pub changes: Vec<Change>,
}

/// The rows of a benchmark together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ContrastGroup {
    /// The benchmark.
    pub benchmark: String,
    /// How many rows are in it.
    pub rows: usize,
    /// What changed.
    pub changes: Vec<Change>,
}

/// What is compared of a mode.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Time of one operation.
    Time,
    /// That time over the run's own baseline.
    Effect,
}

/// The change of one measure of one mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// The mode.
    pub mode: Mode,
    /// What of it.
    pub measure: Measure,
    /// In the first run: a time in the row's unit, or an effect in percent. None for a group.
    pub before: Option<f64>,
    /// In the other.
    pub after: Option<f64>,
    /// By how many percent time, or time over the baseline, changed; positive is slower.
    pub change_pct: f64,
    /// 95 % interval; none without samples.
    pub ci_low_pct: Option<f64>,
    /// Its upper end.
    pub ci_high_pct: Option<f64>,
    /// p-value of no change; none without samples.
    pub p: Option<f64>,
    /// Corrected for all comparisons of that measure.
    pub p_holm: Option<f64>,
    /// Blocks of the side that has fewer.
    pub blocks: usize,
    /// What may be said; none where nothing may be concluded.
    pub verdict: Option<Verdict>,
}

/// What may be said of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Slower, beyond chance.
    Slower,
    /// Faster, beyond chance.
    Faster,
    /// The same, within the margin.
    Same,
    /// Neither is shown.
    Undecided,
}

impl Verdict {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Slower => "slower",
            Verdict::Faster => "faster",
            Verdict::Same => "same",
            Verdict::Undecided => "undecided",
        }
    }
}

impl Contrast {
    /// Sets one run against another.
    #[must_use]
    pub fn of(before: &Side, after: &Side, question: &Question) -> Self {
        let pairing = Pairing { paired: before.shares_blocks_with(after) };
        let differences = differences(before, after, pairing, question);
        let conclusive = differences.iter().all(|difference| difference.accepted);
        let both: Vec<(&SideRow, &SideRow)> = before
            .rows
            .iter()
            .filter_map(|row| {
                Some((row, after.row(&row.measured.benchmark, &row.measured.result_class)?))
            })
            .collect();
        let mut rows: Vec<Tested<ContrastRow>> =
            both.iter().map(|(was, is)| tested_row(was, is, pairing, question)).collect();
        let mut groups = tested_groups(&both, pairing, question);
        correct(rows.iter_mut().flat_map(|row| &mut row.tests));
        correct(groups.iter_mut().flat_map(|group| &mut group.tests));
        let judge = Judge { conclusive, pairing, equal_pct: question.equal_pct };
        let tests = || rows.iter().flat_map(|row| &row.tests);
        let of = |measure| tests().filter(move |test| test.change.measure == measure);
        let comparisons = of(Measure::Time).count().max(of(Measure::Effect).count());
        let blocks = tests().map(|test| test.sizes).max().unwrap_or_default();
        Contrast {
            before: before.name.clone(),
            after: after.name.clone(),
            paired: pairing.paired,
            differences,
            conclusive,
            equal_pct: question.equal_pct,
            comparisons,
            can_decide: pairing.can_decide(blocks, comparisons),
            rows: rows.into_iter().map(|row| row.judged(judge)).collect(),
            groups: groups.into_iter().map(|group| group.judged(judge)).collect(),
        }
    }

    /// The changes of all rows, each with the row's benchmark and name.
    pub fn changes(&self) -> impl Iterator<Item = (&ContrastRow, &Change)> {
        self.rows.iter().flat_map(|row| row.changes.iter().map(move |change| (row, change)))
    }
}

/// Everything in which two runs differ. Builds that took turns are meant to differ, and their machine is one.
fn differences(
    before: &Side,
    after: &Side,
    pairing: Pairing,
    question: &Question,
) -> Vec<Difference> {
    let mut found = before.conditions.differences(&after.conditions);
    let of = |condition: Condition, before: String, after: String| Difference {
        field: condition.name().to_owned(),
        condition,
        before,
        after,
        accepted: false,
    };
    let names = |side: &Side, other: &Side| -> Vec<String> {
        let missing = |row: &&SideRow| {
            other.row(&row.measured.benchmark, &row.measured.result_class).is_none()
        };
        let only = side.rows.iter().filter(missing);
        only.map(|row| row.measured.result_class.clone()).collect()
    };
    let (gone, new) = (names(before, after), names(after, before));
    if !gone.is_empty() || !new.is_empty() {
        let shown = |names: Vec<String>| match names.len() {
            0 => "no others".to_owned(),
            _ => format!("also {}", names.join("; ")),
        };
        found.push(of(Condition::Rows, shown(gone), shown(new)));
    }
    if before.void.is_some() || after.void.is_some() {
        let shown = |side: &Side| side.void.clone().unwrap_or_else(|| "held".to_owned());
        found.push(of(Condition::Gates, shown(before), shown(after)));
    }
    for difference in &mut found {
        let turns = pairing.paired
            && matches!(difference.condition, Condition::Build | Condition::SwitchCost);
        difference.accepted = turns || question.accepted.contains(&difference.condition);
    }
    found
}

/// Whether blocks of the two runs belong together.
#[derive(Clone, Copy)]
struct Pairing {
    paired: bool,
}

/// One number a block and side, or one a block.
enum Values {
    Paired(BTreeMap<u32, f64>),
    Apart(BTreeMap<u32, f64>, BTreeMap<u32, f64>),
}

impl Pairing {
    /// What the blocks say of one measure.
    fn values(self, was: &SideRow, is: &SideRow, mode: Mode, measure: Measure) -> Values {
        let of = |row: &SideRow| match measure {
            Measure::Time => medians(row, mode),
            Measure::Effect => effects(row, mode),
        };
        match (self.paired, measure) {
            (false, _) => Values::Apart(of(was), of(is)),
            (true, Measure::Time) => Values::Paired(turn_by_turn(was, is, mode)),
            (true, Measure::Effect) => {
                let (was, is) = (of(was), of(is));
                let both =
                    was.iter().filter_map(|(block, was)| Some((*block, is.get(block)? - was)));
                Values::Paired(both.collect())
            }
        }
    }

    fn can_decide(self, (before, after): (usize, usize), comparisons: usize) -> bool {
        let smallest =
            if self.paired { smallest_p(before) } else { smallest_p_of_two(before, after) };
        before.min(after) >= MIN_BLOCKS && smallest * comparisons as f64 <= ALPHA
    }
}

impl Values {
    fn estimate(&self, seed: u64) -> Option<Estimate> {
        let all = |values: &BTreeMap<u32, f64>| values.values().copied().collect::<Vec<f64>>();
        match self {
            Values::Paired(values) => Estimate::of(&all(values), seed),
            Values::Apart(before, after) => Estimate::between(&all(before), &all(after), seed),
        }
    }

    fn sizes(&self) -> (usize, usize) {
        match self {
            Values::Paired(values) => (values.len(), values.len()),
            Values::Apart(before, after) => (before.len(), after.len()),
        }
    }

    /// Means over rows, block by block; a block that some row lacks is left out.
    fn mean(rows: &[Values]) -> Option<Values> {
        let of = |side: fn(&Values) -> &BTreeMap<u32, f64>| {
            let rows: Vec<_> = rows.iter().map(side).collect();
            let first = rows.first()?;
            let all = |block: &u32| -> Option<(u32, f64)> {
                let values: Option<Vec<f64>> =
                    rows.iter().map(|row| row.get(block).copied()).collect();
                Some((*block, mean(&values?)))
            };
            Some(first.keys().filter_map(all).collect::<BTreeMap<u32, f64>>())
        };
        Some(match rows.first()? {
            Values::Paired(_) => Values::Paired(of(first_side)?),
            Values::Apart(..) => Values::Apart(of(first_side)?, of(second_side)?),
        })
    }
}

fn first_side(values: &Values) -> &BTreeMap<u32, f64> {
    match values {
        Values::Paired(values) | Values::Apart(values, _) => values,
    }
}

fn second_side(values: &Values) -> &BTreeMap<u32, f64> {
    match values {
        Values::Paired(values) | Values::Apart(_, values) => values,
    }
}

/// For each block of one session, by how much the other build was slower: the median over the turns that both had.
fn turn_by_turn(was: &SideRow, is: &SideRow, mode: Mode) -> BTreeMap<u32, f64> {
    let blocks = |row: &'_ SideRow| {
        row.measured.modes.get(&mode).map(|mode| mode.blocks.clone()).unwrap_or_default()
    };
    let (was, is) = (blocks(was), blocks(is));
    let ratio =
        |(block, was): (&u32, &BTreeMap<u32, f64>)| Some((*block, log_ratio(was, is.get(block)?)?));
    was.iter().filter_map(ratio).collect()
}

/// Logarithms of the median of each block.
fn medians(row: &SideRow, mode: Mode) -> BTreeMap<u32, f64> {
    row.measured.block_medians(mode).map(|(block, time)| (block, time.ln())).collect()
}

/// The effect in each block.
fn effects(row: &SideRow, mode: Mode) -> BTreeMap<u32, f64> {
    row.measured.block_log_ratios(mode).collect()
}

/// A row or group whose changes are not yet judged.
struct Tested<T> {
    of: T,
    tests: Vec<Test>,
}

struct Test {
    change: Change,
    estimate: Option<Estimate>,
    sizes: (usize, usize),
}

/// Which changes are looked for: times of every mode, effects of those that protect.
fn measures(mode: Mode) -> &'static [Measure] {
    match mode {
        Mode::Aa | Mode::Linux => &[],
        Mode::Off => &[Measure::Time],
        _ => &[Measure::Time, Measure::Effect],
    }
}

fn tested_row(
    was: &SideRow,
    is: &SideRow,
    pairing: Pairing,
    question: &Question,
) -> Tested<ContrastRow> {
    let modes = was.modes().filter(|mode| is.modes().any(|other| other == *mode));
    let each = modes.flat_map(|mode| measures(mode).iter().map(move |measure| (mode, *measure)));
    let tests = each.filter_map(|(mode, measure)| {
        let values = pairing.values(was, is, mode, measure);
        let (before, after) = match measure {
            Measure::Time => (was.time(mode), is.time(mode)),
            Measure::Effect => (was.effect_pct(mode), is.effect_pct(mode)),
        };
        let shown = before.zip(after).map(|(before, after)| match measure {
            Measure::Time => (after / before).ln(),
            Measure::Effect => ((100.0 + after) / (100.0 + before)).ln(),
        });
        let estimate = values.estimate(question.seed);
        let change = change(mode, measure, estimate.as_ref(), shown)?;
        Some(Test { change: Change { before, after, ..change }, estimate, sizes: values.sizes() })
    });
    let tests = tests.collect();
    let measured = &was.measured;
    let row = ContrastRow {
        benchmark: measured.benchmark.clone(),
        result_class: measured.result_class.clone(),
        unit: measured.unit.or(is.measured.unit),
        changes: Vec::new(),
    };
    Tested { of: row, tests }
}

fn tested_groups(
    rows: &[(&SideRow, &SideRow)],
    pairing: Pairing,
    question: &Question,
) -> Vec<Tested<ContrastGroup>> {
    let mut benchmarks: Vec<&str> = Vec::new();
    for (row, _) in rows {
        if !benchmarks.contains(&row.measured.benchmark.as_str()) {
            benchmarks.push(&row.measured.benchmark);
        }
    }
    let group = |benchmark: &str| {
        let members: Vec<_> =
            rows.iter().filter(|(row, _)| row.measured.benchmark == benchmark).collect();
        let each = Mode::ALL.into_iter();
        let each = each.flat_map(|mode| measures(mode).iter().map(move |measure| (mode, *measure)));
        let tests = each.filter_map(|(mode, measure)| {
            let values = members.iter().map(|(was, is)| pairing.values(was, is, mode, measure));
            let values = Values::mean(&values.collect::<Vec<_>>())?;
            let estimate = values.estimate(question.seed);
            let change = change(mode, measure, estimate.as_ref(), None)?;
            Some(Test { change, estimate, sizes: values.sizes() })
        });
        let tests = tests.collect();
        let of = ContrastGroup {
            benchmark: benchmark.to_owned(),
            rows: members.len(),
            changes: Vec::new(),
        };
        Tested { of, tests }
    };
    benchmarks.into_iter().map(group).filter(|group| group.of.rows > 1).collect()
}

/// A change before it is judged: by its samples, or as far as tables show it.
fn change(
    mode: Mode,
    measure: Measure,
    estimate: Option<&Estimate>,
    shown: Option<f64>,
) -> Option<Change> {
    let t95 = estimate.and_then(|estimate| estimate.t95);
    Some(Change {
        mode,
        measure,
        before: None,
        after: None,
        change_pct: percent(estimate.map(|estimate| estimate.mean).or(shown)?),
        ci_low_pct: t95.map(|interval| percent(interval.low)),
        ci_high_pct: t95.map(|interval| percent(interval.high)),
        p: estimate.map(|estimate| estimate.p),
        p_holm: None,
        blocks: estimate.map_or(0, |estimate| estimate.pairs),
        verdict: None,
    })
}

/// Holm's correction, over each measure by itself: one of them is a function of the other where runs are paired.
fn correct<'t>(tests: impl Iterator<Item = &'t mut Test>) {
    let mut tests: Vec<&mut Test> = tests.collect();
    for measure in [Measure::Time, Measure::Effect] {
        let tested =
            |test: &&mut &mut Test| test.change.measure == measure && test.estimate.is_some();
        let p: Vec<f64> =
            tests.iter_mut().filter(tested).filter_map(|test| test.change.p).collect();
        for (test, p) in tests.iter_mut().filter(tested).zip(holm(&p)) {
            test.change.p_holm = Some(p);
        }
    }
}

#[derive(Clone, Copy)]
struct Judge {
    conclusive: bool,
    pairing: Pairing,
    equal_pct: f64,
}

impl Judge {
    fn change(self, test: Test) -> Change {
        let comparable = self.pairing.paired || test.change.measure == Measure::Effect;
        let verdict = test
            .estimate
            .filter(|_| self.conclusive && comparable)
            .map(|estimate| verdict(&estimate, test.change.p_holm.unwrap_or(1.0), self.equal_pct));
        Change { verdict, ..test.change }
    }
}

/// What is shown to lie inside the margin is the same, however sure it is that it is not exactly zero.
fn verdict(estimate: &Estimate, p_holm: f64, equal_pct: f64) -> Verdict {
    let margin = equal_pct / 100.0;
    let inside = |t90: Interval| t90.low > (-margin).ln_1p() && t90.high < margin.ln_1p();
    let proven = estimate.pairs >= MIN_BLOCKS && p_holm < ALPHA;
    match estimate.t90 {
        Some(t90) if inside(t90) => Verdict::Same,
        _ if proven && estimate.t95.is_some_and(Interval::excludes_zero) => {
            if estimate.mean > 0.0 {
                Verdict::Slower
            } else {
                Verdict::Faster
            }
        }
        _ => Verdict::Undecided,
    }
}

impl Tested<ContrastRow> {
    fn judged(self, judge: Judge) -> ContrastRow {
        let changes = self.tests.into_iter().map(|test| judge.change(test)).collect();
        ContrastRow { changes, ..self.of }
    }
}

impl Tested<ContrastGroup> {
    fn judged(self, judge: Judge) -> ContrastGroup {
        let changes = self.tests.into_iter().map(|test| judge.change(test)).collect();
        ContrastGroup { changes, ..self.of }
    }
}

#[cfg(test)]
mod tests;
