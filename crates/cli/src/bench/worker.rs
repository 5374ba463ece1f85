//! One worker: a fresh process that runs the rows in one mode and prints a record a line.
//!
//! It is started by `kpkeys bench` and not meant for people. Each row is run once unrecorded first, so that frames, tables and
//! caches are as in a kernel that has run for a while, then as often as the effort says.

use std::io::{self, Write};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kpkeys_hosted::boot::{boot, boot_counted};
use kpkeys_hosted::linux::Mapping;
use kpkeys_hosted::{Counter, Counts, HostedFormat, Setup};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::{Config, Event, Machine};
use kpkeys_stats::record::{self, CountsRecord, Exposure, Mode, Record, Sample, Unit};
use kpkeys_workloads::{Clock, Row, Span, Test};

use super::plan::{self, Effort, Paging};

/// Physical memory of the machine in the process: enough for two processes of 1 GiB and the tables of a linear map of pages.
const MEMORY_PAGES: usize = 1 << 19;
/// CPUs of the machine in the process; one thread runs, as in the series' tests.
const CPUS: usize = 2;

/// The options of a worker.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The mode to run
    #[arg(long)]
    mode: String,
    /// The block this is for
    #[arg(long)]
    block: u32,
    /// The entry format
    #[arg(long)]
    paging: String,
    /// How much to do
    #[arg(long)]
    effort: String,
    /// The row to run; may be given again
    #[arg(long = "row")]
    rows: Vec<String>,
    /// Count events instead of timing
    #[arg(long)]
    count: bool,
}

/// Arguments for a worker process.
pub fn arguments(plan: &plan::Plan, mode: Mode, block: u32, count: bool) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["bench-worker", "--mode", mode.name(), "--paging", plan.paging.name()]
            .map(str::to_owned)
            .into();
    arguments.extend([
        "--effort".into(),
        plan.effort.name().into(),
        "--block".into(),
        block.to_string(),
    ]);
    arguments.extend(plan.rows.iter().flat_map(|row| ["--row".into(), row.result_class.into()]));
    arguments.extend(count.then(|| "--count".to_owned()));
    arguments
}

/// Runs a worker; its records go to standard output.
///
/// # Errors
///
/// What a row failed with.
pub fn run(options: &Options) -> Result<()> {
    stay_on_one_cpu();
    let worker = Worker {
        mode: options.mode.parse().context("bad --mode")?,
        block: options.block,
        rows: plan::rows(&options.rows)?,
        effort: Effort::from_name(&options.effort)?,
    };
    match (worker.mode, Paging::from_name(&options.paging)?) {
        (Mode::Linux, _) => worker.time_linux(),
        (_, Paging::Aarch64) => worker.run::<Aarch64>(options.count),
        (_, Paging::X86_64) => worker.run::<X86_64>(options.count),
    }
}

struct Worker {
    mode: Mode,
    block: u32,
    rows: Vec<Row>,
    effort: Effort,
}

impl Worker {
    fn run<F: HostedFormat>(&self, count: bool) -> Result<()> {
        let name = if self.mode == Mode::Aa { "off" } else { self.mode.name() };
        let Some(mode) = kpkeys_pgtable::Mode::from_name(name) else {
            bail!("mode `{name}` is not run in a process")
        };
        let setup = Setup { pages: MEMORY_PAGES, cpus: CPUS, config: Config::of(mode) };
        for row in &self.rows {
            // A machine for each row: what one leaves behind must not be another's set-up.
            if count {
                self.count(&boot_counted::<F>(setup)?, row)?;
            } else {
                self.time(&boot::<F>(setup)?, row)?;
            }
        }
        Ok(())
    }

    fn time<M: Machine>(&self, kernel: &Kernel<M>, row: &Row) -> Result<()> {
        let clock = Stopwatch::default();
        let failed = || format!("row `{}` failed", row.result_class);
        kpkeys_workloads::run(kernel, &clock, row, self.effort.scale()).with_context(failed)?;
        for iteration in 0..self.effort.iterations() {
            let timing = kpkeys_workloads::run(kernel, &clock, row, self.effort.scale())
                .with_context(failed)?;
            self.print_sample(row, iteration, timing.ns as f64 / timing.operations as f64)?;
        }
        Ok(())
    }

    fn count<M: Machine<Probe = Counter>>(&self, kernel: &Kernel<M>, row: &Row) -> Result<()> {
        let counter = kernel.machine().probe();
        let clock = CountingClock::new(counter);
        let failed = || format!("row `{}` failed", row.result_class);
        kpkeys_workloads::run(kernel, &clock, row, self.effort.scale()).with_context(failed)?;
        let timing =
            kpkeys_workloads::run(kernel, &clock, row, self.effort.scale()).with_context(failed)?;
        print(&Record::Counts(counts_record(self.mode, row, &clock.counted(), timing.operations)))
    }

    /// The host kernel's own fork and munmap.
    fn time_linux(&self) -> Result<()> {
        for row in self.rows.iter().filter(|row| row.span == Span::Once) {
            for iteration in 0..self.effort.linux_iterations() {
                let mapping = match Mapping::populated(row.pages, row.huge) {
                    Ok(mapping) => mapping,
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        eprintln!("kpkeys: no host figure for `{}`: {error}", row.result_class);
                        break;
                    }
                    Err(error) => return Err(error).context("the host kernel refused the mapping"),
                };
                let ns = if row.test == Test::Fork {
                    mapping.time_fork()?
                } else {
                    mapping.time_munmap()?
                };
                self.print_sample(row, iteration, ns as f64)?;
            }
        }
        Ok(())
    }

    fn print_sample(&self, row: &Row, iteration: u32, value: f64) -> Result<()> {
        print(&Record::Sample(Sample {
            mode: self.mode,
            block: self.block,
            iteration,
            benchmark: row.benchmark.into(),
            result_class: row.result_class.into(),
            unit: Unit::Ns,
            value,
            entries: (row.span == Span::Once).then_some(row.pages as f64),
        }))
    }
}

/// Per-operation averages of what was counted.
fn counts_record(mode: Mode, row: &Row, counts: &Counts, operations: u64) -> CountsRecord {
    let each = |event: Event| counts.of(event) as f64 / operations as f64;
    CountsRecord {
        mode,
        benchmark: row.benchmark.into(),
        result_class: row.result_class.into(),
        counts: record::Counts {
            switches: each(Event::Switch),
            barriers: each(Event::Barrier),
            windows: each(Event::WindowOpened),
            entry_stores: each(Event::EntryStore),
            ptps: each(Event::PtpAllocated) + each(Event::PtpFreed),
            key_changes: each(Event::KeyChange),
            tlb_flushes: each(Event::TlbFlush),
            extra: [
                ("upper_stores".to_owned(), each(Event::UpperStore)),
                ("linear_stores".to_owned(), each(Event::LinearStore)),
            ]
            .into(),
        },
        exposure: Some(Exposure {
            open_share: counts.open_ns as f64 / counts.at_ns.max(1) as f64,
            longest_window_stores: counts.longest_window_stores,
        }),
    }
}

fn print(record: &Record) -> Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    Ok(io::stdout().lock().write_all(&line)?)
}

/// Keeps this process on the last CPU it may use, the one least busy with interrupts as a rule. Without the right to, it goes on.
fn stay_on_one_cpu() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    if let Ok(allowed) = sched_getaffinity(None)
        && let Some(last) = (0..CpuSet::MAX_CPU).rev().find(|&cpu| allowed.is_set(cpu))
    {
        let mut one = CpuSet::new();
        one.set(last);
        let _ = sched_setaffinity(None, &one);
    }
}

/// A clock that only tells the time.
struct Stopwatch(Instant);

impl Default for Stopwatch {
    fn default() -> Self {
        Stopwatch(Instant::now())
    }
}

impl Clock for Stopwatch {
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// A clock that also reads the counter at both ends of the timed span.
struct CountingClock<'c> {
    time: Stopwatch,
    counter: &'c Counter,
    begun: std::cell::Cell<Counts>,
    counted: std::cell::Cell<Counts>,
}

impl<'c> CountingClock<'c> {
    fn new(counter: &'c Counter) -> Self {
        let now = counter.read();
        CountingClock {
            time: Stopwatch::default(),
            counter,
            begun: now.into(),
            counted: now.into(),
        }
    }

    /// What the last timed span counted.
    fn counted(&self) -> Counts {
        self.counted.get()
    }
}

impl Clock for CountingClock<'_> {
    fn now_ns(&self) -> u64 {
        self.time.now_ns()
    }

    fn begin(&self) {
        self.counter.reset_longest();
        self.begun.set(self.counter.read());
    }

    fn end(&self) {
        self.counted.set(self.counter.read().since(&self.begun.get()));
    }
}
