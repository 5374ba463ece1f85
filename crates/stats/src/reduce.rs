//! From single samples to one number for each row, mode and block.
//!
//! Only workers that finished count. The workers of a block take turns, so an iteration of a mode
//! and the iteration of the baseline with the same number were measured next to each other: their
//! ratio does not know how fast the machine was at that moment. A block reduces to the median of
//! these ratios, which a single disturbed one does not move; from here on iterations are gone,
//! except for the series' own rule ([`crate::pooled`]), which pools them. A worker that was killed
//! and run again has left some iterations twice: when an iteration number comes back, what the
//! earlier attempt measured for that row is dropped.

use crate::{
    notice::{Disturbance, Notice},
    record::{
        Counts, CountsRecord, Done, Exposure, Mode, NoiseRecord, Record, Recording, Sample, Unit,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Samples that cannot be reduced together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReduceError {
    /// One row was measured in two units.
    #[error("{result_class}: samples in {} and in {}; expected one unit for a row", first.name(), other.name())]
    Units {
        /// The row.
        result_class: String,
        /// The unit of its first sample.
        first: Unit,
        /// The unit of a later one.
        other: Unit,
    },
    /// No worker finished, so there is nothing to show.
    #[error("no mode finished in any block; expected at least one `done` record: continue the run")]
    NothingComplete,
}

/// All rows of a run, reduced.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurements {
    /// In the order in which the file first names them, benchmarks kept together.
    pub rows: Vec<RowMeasurements>,
    /// Blocks with a finished baseline.
    pub blocks: usize,
    /// What was tolerated.
    pub notices: Vec<Notice>,
}

/// One row, reduced.
#[derive(Clone, Debug, PartialEq)]
pub struct RowMeasurements {
    /// The benchmark the row belongs to.
    pub benchmark: String,
    /// The row's name.
    pub result_class: String,
    /// What the numbers are in; none for a row that was only counted.
    pub unit: Option<Unit>,
    /// Entries an operation of the baseline handles, averaged over its samples.
    pub entries: Option<f64>,
    /// What each mode gave.
    pub modes: BTreeMap<Mode, ModeMeasurements>,
}

/// One mode of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModeMeasurements {
    /// The iterations of each block by their number, at least one in each.
    pub blocks: BTreeMap<u32, BTreeMap<u32, f64>>,
    /// Events per operation.
    pub counts: Option<Counts>,
    /// How long windows were open.
    pub exposure: Option<Exposure>,
}

/// Reduces a recording.
///
/// # Errors
///
/// [`ReduceError::Units`] when a row mixes units, [`ReduceError::NothingComplete`] when no worker
/// finished.
pub fn reduce(recording: &Recording) -> Result<Measurements, ReduceError> {
    if recording.done().is_empty() {
        return Err(ReduceError::NothingComplete);
    }
    let mut gathered = Gathered::default();
    for record in recording.records() {
        match record {
            Record::Sample(sample) => gathered.sample(sample, recording.done())?,
            Record::Counts(counts) => gathered.counts(counts),
            Record::Run(_) | Record::Done(_) | Record::Noise(_) => {}
        }
    }
    let blocks = recording.done().iter().filter(|done| done.mode == Mode::Off).count();
    let planned = recording.run().blocks;
    let mut notices = recording.notices().to_vec();
    notices.extend(disturbed(recording));
    if blocks < planned as usize {
        notices.push(Notice::FewerBlocks { planned, complete: blocks });
    }
    notices.extend(unfinished(recording));
    let rows = gathered.into_rows();
    notices.extend(rows.iter().flat_map(|row| dropped_pairs(row, recording.done())));
    Ok(Measurements { rows, blocks, notices })
}

/// More than this share of all CPUs' time given to other guests, or used by other processes, disturbs.
const STEAL_PCT: f64 = 1.0;
const OTHERS_PCT: f64 = 5.0;

/// What else happened on the machine, where it was enough to disturb.
fn disturbed(recording: &Recording) -> Vec<Notice> {
    let noise = || {
        recording.records().iter().filter_map(|record| match record {
            Record::Noise(noise) => Some(noise),
            _ => None,
        })
    };
    let blocks = noise().count();
    let worst = |of: &dyn Fn(&NoiseRecord) -> Option<f64>, least: f64| {
        let over: Vec<f64> = noise().filter_map(of).filter(|value| *value > least).collect();
        let worst = over.iter().copied().reduce(f64::max)?;
        Some((worst, over.len()))
    };
    let notice = |what, (worst, disturbed)| Notice::Disturbed { what, worst, disturbed, blocks };
    [
        (Disturbance::Steal, worst(&|noise| noise.steal_pct, STEAL_PCT)),
        (Disturbance::Others, worst(&|noise| noise.others_pct, OTHERS_PCT)),
        (Disturbance::Heat, worst(&|noise| noise.throttled.map(|times| times as f64), 0.0)),
    ]
    .into_iter()
    .filter_map(|(what, worst)| Some(notice(what, worst?)))
    .collect()
}

/// Workers that are missing from the blocks and modes that the file knows.
fn unfinished(recording: &Recording) -> Vec<Notice> {
    let sampled = recording.records().iter().filter_map(|record| match record {
        Record::Sample(sample) => Some(Done { mode: sample.mode, block: sample.block }),
        _ => None,
    });
    let known: BTreeSet<Done> = recording.done().iter().copied().chain(sampled).collect();
    let modes: BTreeSet<Mode> = known.iter().map(|worker| worker.mode).collect();
    let blocks: BTreeSet<u32> = known.iter().map(|worker| worker.block).collect();
    let workers = blocks
        .into_iter()
        .flat_map(|block| modes.iter().map(move |mode| Done { mode: *mode, block }));
    workers
        .filter(|worker| !recording.done().contains(worker))
        .map(|worker| Notice::Unfinished { mode: worker.mode, block: worker.block })
        .collect()
}

/// The samples of one row, before reduction.
struct RowSamples {
    benchmark: String,
    result_class: String,
    unit: Option<Unit>,
    entries: Vec<f64>,
    /// Iterations by number, for each mode and block.
    times: BTreeMap<Mode, BTreeMap<u32, BTreeMap<u32, f64>>>,
    counts: BTreeMap<Mode, CountsRecord>,
}

#[derive(Default)]
struct Gathered {
    rows: Vec<RowSamples>,
}

impl Gathered {
    fn sample(&mut self, sample: &Sample, done: &BTreeSet<Done>) -> Result<(), ReduceError> {
        let worker = Done { mode: sample.mode, block: sample.block };
        if done.contains(&worker) {
            self.row(&sample.benchmark, &sample.result_class).sample(sample)?;
        }
        Ok(())
    }

    fn counts(&mut self, record: &CountsRecord) {
        let row = self.row(&record.benchmark, &record.result_class);
        row.counts.insert(record.mode, record.clone());
    }

    fn row(&mut self, benchmark: &str, result_class: &str) -> &mut RowSamples {
        let known = self
            .rows
            .iter()
            .position(|row| row.result_class == result_class && row.benchmark == benchmark);
        let index = known.unwrap_or(self.rows.len());
        if known.is_none() {
            self.rows.push(RowSamples::new(benchmark, result_class));
        }
        &mut self.rows[index]
    }

    /// Reduces every row and brings the rows of a benchmark together, benchmarks and rows keeping
    /// the order of their first mention.
    fn into_rows(self) -> Vec<RowMeasurements> {
        let mut benchmarks: Vec<String> = Vec::new();
        for row in &self.rows {
            if !benchmarks.contains(&row.benchmark) {
                benchmarks.push(row.benchmark.clone());
            }
        }
        let mut rows: Vec<_> = self.rows.into_iter().map(RowSamples::reduce).collect();
        rows.sort_by_key(|row| benchmarks.iter().position(|name| *name == row.benchmark));
        rows
    }
}

impl RowSamples {
    fn new(benchmark: &str, result_class: &str) -> Self {
        RowSamples {
            benchmark: benchmark.to_owned(),
            result_class: result_class.to_owned(),
            unit: None,
            entries: Vec::new(),
            times: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    fn sample(&mut self, sample: &Sample) -> Result<(), ReduceError> {
        let first = *self.unit.get_or_insert(sample.unit);
        if first != sample.unit {
            let (result_class, other) = (self.result_class.clone(), sample.unit);
            return Err(ReduceError::Units { result_class, first, other });
        }
        if sample.mode == Mode::Off {
            self.entries.extend(sample.entries);
        }
        let block = self.times.entry(sample.mode).or_default().entry(sample.block).or_default();
        if block.contains_key(&sample.iteration) {
            block.clear();
        }
        block.insert(sample.iteration, sample.value);
        Ok(())
    }

    fn reduce(self) -> RowMeasurements {
        let mut modes: BTreeMap<Mode, ModeMeasurements> = BTreeMap::new();
        for (mode, blocks) in self.times {
            modes.entry(mode).or_default().blocks = blocks;
        }
        for (mode, record) in self.counts {
            let counted = modes.entry(mode).or_default();
            counted.counts = Some(record.counts);
            counted.exposure = record.exposure;
        }
        let entries = (!self.entries.is_empty()).then(|| crate::interval::mean(&self.entries));
        RowMeasurements {
            benchmark: self.benchmark,
            result_class: self.result_class,
            unit: self.unit,
            entries,
            modes,
        }
    }
}

impl ModeMeasurements {
    /// All samples, for the pooled rule.
    #[must_use]
    pub fn pooled(&self) -> Vec<f64> {
        self.blocks.values().flat_map(|iterations| iterations.values().copied()).collect()
    }

    /// The median of each block.
    fn medians(&self) -> impl Iterator<Item = (u32, f64)> {
        let median = |iterations: &BTreeMap<u32, f64>| median(iterations.values().copied());
        self.blocks.iter().filter_map(move |(block, times)| Some((*block, median(times)?)))
    }
}

impl RowMeasurements {
    /// For each block that has both, the log ratio of `mode` to the baseline: the median over the
    /// iterations that both have.
    #[must_use]
    pub fn log_ratios(&self, mode: Mode) -> Vec<f64> {
        self.block_log_ratios(mode).map(|(_, ratio)| ratio).collect()
    }

    /// The same, each with its block.
    pub fn block_log_ratios(&self, mode: Mode) -> impl Iterator<Item = (u32, f64)> {
        self.pairs(mode)
            .filter_map(|(block, off, compared)| Some((block, log_ratio(off, compared)?)))
    }

    /// The median of each block of `mode`.
    pub fn block_medians(&self, mode: Mode) -> impl Iterator<Item = (u32, f64)> {
        self.modes.get(&mode).into_iter().flat_map(ModeMeasurements::medians)
    }

    /// For each block that has the baseline and both modes, how many percent of the baseline `to` takes more than `from`; `None` stands for the
    /// baseline itself.
    #[must_use]
    pub fn points(&self, from: Option<Mode>, to: Mode) -> Vec<f64> {
        let percent = |mode: Mode, block: &u32| {
            let of = |mode| self.modes.get(&mode)?.blocks.get(block);
            Some(log_ratio(of(Mode::Off)?, of(mode)?)?.exp_m1() * 100.0)
        };
        let blocks = self.modes.get(&Mode::Off).into_iter().flat_map(|off| off.blocks.keys());
        let points = blocks.filter_map(|block| {
            let from = from.map_or(Some(0.0), |from| percent(from, block))?;
            Some(percent(to, block)? - from)
        });
        points.collect()
    }

    /// Geometric mean of the medians of `mode` over its blocks; none without any.
    #[must_use]
    pub fn geometric_mean(&self, mode: Mode) -> Option<f64> {
        geometric_mean(self.block_medians(mode).map(|(_, time)| time))
    }

    /// Geometric mean of the baseline over the blocks in which `mode` is paired with it.
    pub(crate) fn paired_baseline(&self, mode: Mode) -> Option<f64> {
        geometric_mean(self.pairs(mode).filter_map(|(_, off, _)| median(off.values().copied())))
    }

    /// The iterations of baseline and mode in each block that has both.
    fn pairs(
        &self,
        mode: Mode,
    ) -> impl Iterator<Item = (u32, &BTreeMap<u32, f64>, &BTreeMap<u32, f64>)> {
        let baseline = self.modes.get(&Mode::Off).map(|off| &off.blocks);
        let compared = self.modes.get(&mode).map(|mode| &mode.blocks);
        baseline.zip(compared).into_iter().flat_map(|(baseline, compared)| {
            baseline.iter().filter_map(|(block, off)| Some((*block, off, compared.get(block)?)))
        })
    }
}

/// The log ratio of one block: the median over the turns that both workers had. None if they had none in common.
#[must_use]
pub fn log_ratio(baseline: &BTreeMap<u32, f64>, compared: &BTreeMap<u32, f64>) -> Option<f64> {
    median(baseline.iter().filter_map(|(turn, off)| Some((compared.get(turn)? / off).ln())))
}

/// Blocks in which both workers finished and yet only one of them timed this row.
fn dropped_pairs(row: &RowMeasurements, done: &BTreeSet<Done>) -> Vec<Notice> {
    let timed = |mode: Mode, block: u32| {
        row.modes.get(&mode).is_some_and(|mode| mode.blocks.contains_key(&block))
    };
    let compared = |mode: &&Mode| !matches!(mode, Mode::Off | Mode::Linux);
    let mut notices = Vec::new();
    for mode in row.modes.keys().filter(compared).copied() {
        let in_both = |worker: &&Done| {
            worker.mode == mode && done.contains(&Done { mode: Mode::Off, block: worker.block })
        };
        for block in done.iter().filter(in_both).map(|worker| worker.block) {
            let missing = match (timed(Mode::Off, block), timed(mode, block)) {
                (true, false) => mode,
                (false, true) => Mode::Off,
                _ => continue,
            };
            let result_class = row.result_class.clone();
            notices.push(Notice::PairDropped { result_class, mode, block, missing });
        }
    }
    notices
}

/// The middle value, or the mean of the two middle ones; none without any.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) =
        values.fold((0.0, 0_u32), |(sum, count), value| (sum + value.ln(), count + 1));
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

#[cfg(test)]
mod tests;
