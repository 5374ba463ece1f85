//! Costs, measured here: small operations in modes that differ in one part, in turns.
//!
//! The operations are those of the evaluation in other sizes, since a switch costs more among loads and stores than in a loop of its own:
//! what is estimated for a row is not taken from that row. Tables have arm64's format: a switch costs the same among others. The range of a cost is that over the operations.

use anyhow::{Context, Result};
use kpkeys_hosted::boot::MockBackend;
use kpkeys_hosted::parts::{Null, WithoutKeys};
use kpkeys_hosted::{Setup, barrier_ns, boot_measured, boot_measured_counted};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::{Config, Event, Machine, Mode};
use kpkeys_stats::cost::UnitCost;
use kpkeys_stats::predict::Costs;
use kpkeys_workloads::{Row, Span, Test};

use crate::bench::worker::{CountingClock, Stopwatch, stay_on_one_cpu};

/// Pages of the machine: the operations, twice, and their tables.
const MEMORY_PAGES: usize = 1 << 16;
/// Pages that are forked or unmapped: 64 MiB, a sixteenth of a row's.
const PAGES: usize = 1 << 14;
/// Rounds, in each of which every mode does an operation once.
const ROUNDS: usize = 31;

const fn process(test: Test, huge: bool) -> Row {
    Row {
        benchmark: "fork",
        result_class: "calibration",
        test,
        pages: PAGES,
        huge,
        span: Span::Once,
    }
}

const fn vmalloc(pages: usize) -> Row {
    let span = Span::Loops { published: 2000 };
    Row {
        benchmark: "vmalloc",
        result_class: "calibration",
        test: Test::FixSize,
        pages,
        huge: false,
        span,
    }
}

const OPERATIONS: [Row; 6] = [
    process(Test::Fork, false),
    process(Test::Fork, true),
    process(Test::Munmap, false),
    process(Test::Munmap, true),
    vmalloc(2),
    vmalloc(32),
];

/// What events cost on this machine.
///
/// # Errors
///
/// No memory.
pub fn here(machine: String) -> Result<Costs> {
    stay_on_one_cpu();
    let (mut among, mut lone, mut keys, mut pooled) = (vec![], vec![], vec![], vec![]);
    for row in &OPERATIONS {
        let times = Times::of(row)?;
        let counts = |config| Counts::of(row, config);
        let (unbatched, batched) =
            (counts(Config::of(Mode::Unbatched))?, counts(Config::of(Mode::Batched))?);
        among.push(times.unbatched_switches / unbatched.switches_without_keys());
        lone.push(times.batched_switches / batched.switches_without_keys());
        if batched.key_changes >= 1.0 {
            keys.push(times.batched_keys / batched.key_changes);
            pooled.push(times.pool / batched.key_changes);
        }
    }
    // A lone switch drowns in the noise of what it is measured on, and is hardly cheaper than one among others.
    let among = range(&among);
    let lone = range(
        &lone
            .into_iter()
            .map(|ns| ns.clamp(0.7 * among.low_ns, 4.0 * among.high_ns))
            .collect::<Vec<_>>(),
    );
    Ok(Costs {
        machine,
        source: format!(
            "measured here, {ROUNDS} rounds of {} operations; no TLB flush is executed in a process",
            OPERATIONS.len()
        ),
        switch: among,
        lone_switch: lone,
        barrier: UnitCost::exactly(barrier_ns()),
        key_change: range(&keys),
        pooled_ptp: range(&pooled),
    })
}

/// The mean, with the smallest and the largest.
fn range(values: &[f64]) -> UnitCost {
    let ends = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(*value), high.max(*value))
    });
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    UnitCost { ns: mean, low_ns: ends.0, high_ns: ends.1 }
}

/// Nanoseconds that each part adds to an operation: medians over rounds, of differences within a round.
struct Times {
    unbatched_switches: f64,
    batched_switches: f64,
    batched_keys: f64,
    /// Of the pool over the frame allocator, no key set by either.
    pool: f64,
}

impl Times {
    fn of(row: &Row) -> Result<Times> {
        let [off, unbatched, batched] = [Mode::Off, Mode::Unbatched, Mode::Batched].map(Config::of);
        let pool = Config { mode: Mode::Batched, ..Config::of(Mode::FusedLean) };
        let off = boot_measured::<Aarch64, MockBackend<Aarch64>>(setup(off))?;
        let unbatched =
            boot_measured::<Aarch64, WithoutKeys<MockBackend<Aarch64>>>(setup(unbatched))?;
        let switches = boot_measured::<Aarch64, WithoutKeys<MockBackend<Aarch64>>>(setup(batched))?;
        let keys = boot_measured::<Aarch64, Null>(setup(batched))?;
        let pooled = boot_measured::<Aarch64, WithoutKeys<MockBackend<Aarch64>>>(setup(pool))?;
        let mut rounds = Vec::new();
        for _ in 0..=ROUNDS {
            let off = time(&off, row)?;
            let switches = time(&switches, row)?;
            rounds.push([
                time(&unbatched, row)? - off,
                switches - off,
                time(&keys, row)? - off,
                time(&pooled, row)? - switches,
            ]);
        }
        // The first of each has cold memory.
        let [unbatched_switches, batched_switches, batched_keys, pool] =
            std::array::from_fn(|part| {
                median(rounds[1..].iter().map(|round| round[part]).collect())
            });
        Ok(Times { unbatched_switches, batched_switches, batched_keys, pool })
    }
}

fn setup(config: Config) -> Setup {
    Setup { pages: MEMORY_PAGES, cpus: 1, config }
}

fn time<M: Machine>(kernel: &Kernel<M>, row: &Row) -> Result<f64> {
    let timing =
        kpkeys_workloads::run(kernel, &Stopwatch, row, 1).context("an operation failed")?;
    Ok(timing.ns as f64 / timing.operations as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Events of an operation.
struct Counts {
    switches: f64,
    key_changes: f64,
}

impl Counts {
    fn of(row: &Row, config: Config) -> Result<Counts> {
        let kernel = boot_measured_counted::<Aarch64, MockBackend<Aarch64>>(setup(config))?;
        let clock = CountingClock::new(kernel.machine().probe());
        kpkeys_workloads::run(&kernel, &clock, row, 1).context("an operation failed")?;
        let timing =
            kpkeys_workloads::run(&kernel, &clock, row, 1).context("an operation failed")?;
        let counts = clock.counted();
        let each = |event| counts.of(event) as f64 / timing.operations as f64;
        Ok(Counts { switches: each(Event::Switch), key_changes: each(Event::KeyChange) })
    }

    /// Each key change has a window of its own.
    fn switches_without_keys(&self) -> f64 {
        self.switches - 2.0 * self.key_changes
    }
}
