//! One worker: a fresh process that runs rows in one mode and prints a record a line.
//!
//! It is started by `kpkeys bench` and not meant for people. Each row is run once unrecorded first, so that frames, tables and
//! caches are as in a kernel that has run for a while, then once for each [turn](super::turns) it is given.

use std::ffi::OsString;
use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use kpkeys_hosted::boot::{MockBackend, SeparateMock, boot_measured, boot_measured_counted};
use kpkeys_hosted::linux::Mapping;
use kpkeys_hosted::parts::{Measured, Null, WithoutDeferral, WithoutKeys};
use kpkeys_hosted::{Counter, Counts, HostedFormat, Setup, clock};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::{Config, Event, Keys, Machine};
use kpkeys_replay::History;
use kpkeys_stats::record::{self, CountsRecord, Exposure, Mode, Record, Sample, Unit};
use kpkeys_workloads::{Clock, Row, Span, Test, Timing};

use super::backend::HostBackend;
use super::cpu;
use super::plan::{self, Effort, Paging, PlannedRow};
use super::traced::{self, Times, TracedRow};
use crate::affinity;

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
    /// What opens windows
    #[arg(long, default_value = "mock")]
    backend: String,
    /// Which keys page tables carry
    #[arg(long, value_parser = crate::emulated::keys)]
    keys: Option<Keys>,
    /// How much to do
    #[arg(long)]
    effort: String,
    /// The row to run; may be given again
    #[arg(long = "row")]
    rows: Vec<String>,
    /// The trace to replay
    #[arg(long)]
    trace: Option<std::path::PathBuf>,
    /// The CPU to keep to [default: the last that may be used]
    #[arg(long)]
    cpu: Option<usize>,
    /// Count events instead of timing
    #[arg(long)]
    count: bool,
}

/// Arguments for a worker process.
pub fn arguments(
    plan: &plan::Plan,
    rows: &[PlannedRow],
    mode: Mode,
    block: u32,
    count: bool,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        ["bench-worker", "--mode", mode.name(), "--paging", plan.paging.name()]
            .map(OsString::from)
            .into();
    let backend = plan.place.host().unwrap_or_default();
    // A build that is compared may be older than the other backends.
    if backend != HostBackend::default() {
        arguments.extend(["--backend".into(), backend.name().into()]);
    }
    // It may be older than these, too.
    if mode == Mode::Fused && plan.keys != Keys::default() {
        arguments.extend(["--keys".into(), plan.keys.name().into()]);
    }
    arguments.extend([
        "--effort".into(),
        plan.effort.name().into(),
        "--block".into(),
        block.to_string().into(),
    ]);
    arguments.extend(rows.iter().flat_map(|row| ["--row".into(), row.result_class().into()]));
    arguments.extend(plan.trace.iter().flat_map(|file| ["--trace".into(), file.into()]));
    arguments.extend(plan.cpu.iter().flat_map(|cpu| ["--cpu".into(), cpu.to_string().into()]));
    arguments.extend(count.then(|| "--count".into()));
    arguments
}

/// Runs a worker; its records go to standard output.
///
/// # Errors
///
/// What a row failed with.
pub fn run(options: &Options) -> Result<()> {
    if let Some(cpu) = cpu::measured(options.cpu) {
        affinity::keep_to(cpu);
    }
    let (valid, history) = valid_rows(options)?;
    let worker = Worker {
        mode: options.mode.parse().context("bad --mode")?,
        block: options.block,
        rows: plan::choose(&valid, &options.rows)?,
        history,
        effort: Effort::from_name(&options.effort)?,
    };
    let (paging, backend) =
        (Paging::from_name(&options.paging)?, HostBackend::from_name(&options.backend)?);
    let separate = options.keys == Some(Keys::Separate);
    match (worker.mode, backend, paging) {
        (Mode::Linux, ..) => worker.time_linux(),
        (_, backend, Paging::Aarch64) if separate => {
            worker.run_separate::<Aarch64>(backend, options.count)
        }
        (_, HostBackend::Mock, Paging::Aarch64) => worker.run_in_parts(options.count),
        (mode, ..) if mode.whole().is_some() => bail!("{}", plan::PARTS_ON_ARM),
        (_, backend, Paging::X86_64) if separate => {
            worker.run_separate::<X86_64>(backend, options.count)
        }
        (_, HostBackend::Mock, Paging::X86_64) => {
            worker.run::<X86_64, MockBackend<X86_64>>(options.count)
        }
        (_, HostBackend::Pku, Paging::Aarch64) => worker.run_by_keys::<Aarch64>(options.count),
        (_, HostBackend::Pku, Paging::X86_64) => worker.run_by_keys::<X86_64>(options.count),
    }
}

/// The rows to choose from, and the trace some of them replay, if one of those is wanted.
fn valid_rows(options: &Options) -> Result<(Vec<PlannedRow>, Option<History>)> {
    if let Some(file) = &options.trace {
        let history = traced::read(Some(file))?;
        return Ok((plan::of_trace(traced::TRACE, traced::rows_of(&history)), Some(history)));
    }
    let valid = plan::published();
    let chosen = plan::choose(&valid, &options.rows)?;
    let replays = chosen.iter().any(|row| row.traced().is_some());
    let history = replays.then(|| traced::read(None)).transpose()?;
    Ok((valid, history))
}

/// How page tables are set up in a mode, or in the one it is a part of.
fn config(mode: Mode) -> Result<Config> {
    use kpkeys_pgtable::Mode as Protection;
    let whole = match mode.whole().unwrap_or(mode) {
        Mode::Aa => Mode::Off,
        whole => whole,
    };
    let Some(protection) = Protection::from_name(whole.name()) else {
        bail!("mode `{mode}` is not run in a process")
    };
    let config = Config::of(protection);
    let (pool, no_pool) = (Config::of(Protection::FusedLean), Config::of(Protection::Batched));
    Ok(match mode {
        Mode::BatchedPool => Config { mode: protection, ..pool },
        Mode::LeanNoPool => Config { mode: protection, ..no_pool },
        _ => config,
    })
}

struct Worker {
    mode: Mode,
    block: u32,
    rows: Vec<PlannedRow>,
    history: Option<History>,
    effort: Effort,
}

impl Worker {
    /// Runs where page tables have keys of the host's.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn run_by_keys<F: HostedFormat>(&self, count: bool) -> Result<()> {
        self.run::<F, kpkeys_hosted::pku::Pku>(count)
    }

    /// Runs where the tables of address spaces have a key of their own.
    fn run_separate<F: HostedFormat>(&self, backend: HostBackend, count: bool) -> Result<()> {
        match backend {
            HostBackend::Mock => self.run::<F, SeparateMock<F>>(count),
            HostBackend::Pku => self.run_by_separate_keys::<F>(count),
        }
    }

    /// The same with keys of the host's.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn run_by_separate_keys<F: HostedFormat>(&self, count: bool) -> Result<()> {
        self.run::<F, kpkeys_hosted::pku::SeparatePku>(count)
    }

    /// There are none.
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    #[expect(clippy::extra_unused_type_parameters, reason = "they are called alike")]
    fn run_by_separate_keys<F: HostedFormat>(&self, _count: bool) -> Result<()> {
        Ok(HostBackend::Pku.check()?)
    }

    /// There are none.
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    #[expect(clippy::extra_unused_type_parameters, reason = "they are called alike")]
    fn run_by_keys<F: HostedFormat>(&self, _count: bool) -> Result<()> {
        Ok(HostBackend::Pku.check()?)
    }

    /// Runs by the mock, on the machine that has what the mode, or the part of one, consists of.
    fn run_in_parts(&self, count: bool) -> Result<()> {
        type Whole = MockBackend<Aarch64>;
        match self.mode {
            Mode::UnbatchedSwitches | Mode::BatchedSwitches => {
                self.run::<Aarch64, WithoutKeys<Whole>>(count)
            }
            Mode::BatchedKeys => self.run::<Aarch64, Null>(count),
            Mode::LeanNoDeferral => self.run::<Aarch64, WithoutDeferral<Whole>>(count),
            _ => self.run::<Aarch64, Whole>(count),
        }
    }

    fn run<F: HostedFormat, B: Measured>(&self, count: bool) -> Result<()> {
        let config = config(self.mode)?;
        if let Some(history) = &self.history {
            let setup = traced::setup(history, CPUS, config);
            if count {
                self.count_trace(&boot_measured_counted::<F, B>(setup)?, history)?;
            } else {
                self.time_trace(&boot_measured::<F, B>(setup)?, history)?;
            }
        }
        let setup = Setup { pages: MEMORY_PAGES, cpus: CPUS, config };
        for row in self.workloads() {
            // A machine for each row: what one leaves behind must not be another's set-up.
            if count {
                self.count(&boot_measured_counted::<F, B>(setup)?, row)?;
            } else {
                self.time(&boot_measured::<F, B>(setup)?, row)?;
            }
        }
        if count { say_waiting() } else { Ok(()) }
    }

    fn workloads(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter_map(PlannedRow::workload)
    }

    /// The rows of the trace, each with what it says of it.
    fn traced(&self) -> impl Iterator<Item = (&PlannedRow, TracedRow)> {
        self.rows.iter().filter_map(|row| Some((row, row.traced()?)))
    }

    fn time_trace<M: Machine>(&self, kernel: &Kernel<M>, history: &History) -> Result<()> {
        let clock = Stopwatch;
        traced::wear_in(kernel)?;
        traced::replay(kernel, &clock, history)?;
        for iteration in turns() {
            let (times, tally) = traced::replay(kernel, &clock, history)?;
            for (row, traced) in self.traced() {
                let events = (traced == TracedRow::Memory).then_some(tally.done as f64);
                self.print_sample(row, iteration, times.of(traced), events)?;
            }
        }
        Ok(())
    }

    fn count_trace<M: Machine<Probe = Counter>>(
        &self,
        kernel: &Kernel<M>,
        history: &History,
    ) -> Result<()> {
        let clock = CountingClock::new(kernel.machine().probe());
        traced::wear_in(kernel)?;
        traced::replay(kernel, &clock, history)?;
        let (_, tally) = traced::replay(kernel, &clock, history)?;
        for (row, _) in self.traced().filter(|(_, traced)| traced.has_events()) {
            let counts = clock.counted();
            let each = |event| counts.of(event) as f64;
            let mut record = counts_record(self.mode, row, each, Some(exposure(&counts)));
            let steps = [("steps", tally.done), ("refused_steps", tally.refused)];
            record.counts.extra.extend(steps.map(|(name, steps)| (name.to_owned(), steps as f64)));
            print(&Record::Counts(record))?;
        }
        Ok(())
    }

    fn time<M: Machine>(&self, kernel: &Kernel<M>, row: &Row) -> Result<()> {
        #[cfg(not(feature = "planted"))]
        let clock = Stopwatch;
        #[cfg(feature = "planted")]
        let clock = super::planted::Slowed::of(Stopwatch, row.result_class);
        self.iterate(kernel, &clock, row)?;
        for iteration in turns() {
            let timing = self.iterate(kernel, &clock, row)?;
            let each = timing.ns as f64 / timing.operations as f64;
            self.print_sample(&PlannedRow::Workload(*row), iteration, each, entries(row))?;
        }
        Ok(())
    }

    fn count<M: Machine<Probe = Counter>>(&self, kernel: &Kernel<M>, row: &Row) -> Result<()> {
        let clock = CountingClock::new(kernel.machine().probe());
        self.iterate(kernel, &clock, row)?;
        let timing = self.iterate(kernel, &clock, row)?;
        let counts = clock.counted();
        let each = |event| counts.of(event) as f64 / timing.operations as f64;
        let row = PlannedRow::Workload(*row);
        print(&Record::Counts(counts_record(self.mode, &row, each, Some(exposure(&counts)))))
    }

    fn iterate<M: Machine, C: Clock>(
        &self,
        kernel: &Kernel<M>,
        clock: &C,
        row: &Row,
    ) -> Result<Timing> {
        kpkeys_workloads::run(kernel, clock, row, self.effort.scale())
            .with_context(|| format!("row `{}` failed", row.result_class))
    }

    /// The host kernel's own fork and munmap, and what Linux took for the trace when it was recorded.
    fn time_linux(&self) -> Result<()> {
        if let Some(history) = &self.history {
            let times = Times::recorded(history);
            let known = |traced| traced != TracedRow::Memory || times.of(traced) > 0.0;
            for (row, traced) in self.traced().filter(|(_, traced)| known(*traced)) {
                self.print_sample(row, 0, times.of(traced), None)?;
            }
        }
        for iteration in turns() {
            for row in self.workloads().filter(|row| row.span == Span::Once) {
                if let Some(ns) = time_on_linux(row)? {
                    let planned = PlannedRow::Workload(*row);
                    self.print_sample(&planned, iteration, ns as f64, entries(row))?;
                }
            }
        }
        Ok(())
    }

    fn print_sample(
        &self,
        row: &PlannedRow,
        iteration: u32,
        value: f64,
        entries: Option<f64>,
    ) -> Result<()> {
        print(&Record::Sample(Sample {
            mode: self.mode,
            block: self.block,
            iteration,
            benchmark: row.benchmark().into(),
            result_class: row.result_class().into(),
            unit: Unit::Ns,
            value,
            entries,
        }))
    }
}

/// How long the host kernel takes for the operation of a row, if it can make such a mapping.
fn time_on_linux(row: &Row) -> Result<Option<u64>> {
    let mapping = match Mapping::populated(row.pages, row.huge) {
        Ok(mapping) => mapping,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            eprintln!("kpkeys: no host figure for `{}`: {error}", row.result_class);
            return Ok(None);
        }
        Err(error) => return Err(error).context("the host kernel refused the mapping"),
    };
    let ns = if row.test == Test::Fork { mapping.time_fork() } else { mapping.time_munmap() };
    Ok(Some(ns?))
}

/// The numbers of this worker's turns, each as it comes. While it waits for one, everything printed can be read.
fn turns() -> impl Iterator<Item = u32> {
    let wait = |_: &u32| say_waiting().is_ok() && io::stdin().lines().next().is_some();
    (0..).take_while(wait)
}

/// Says that the records of a turn, or all counts, are complete.
fn say_waiting() -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(b"\n")?;
    Ok(stdout.flush()?)
}

/// Table entries one operation of a row handles, where it is always the same.
pub fn entries(row: &Row) -> Option<f64> {
    (row.span == Span::Once).then_some(row.pages as f64)
}

/// A record of counts. `each` is how many events of a kind there were per operation, on average.
pub fn counts_record(
    mode: Mode,
    row: &PlannedRow,
    each: impl Fn(Event) -> f64,
    exposure: Option<Exposure>,
) -> CountsRecord {
    CountsRecord {
        mode,
        benchmark: row.benchmark().into(),
        result_class: row.result_class().into(),
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
            .into_iter()
            .chain(of_separate_keys(&each))
            .collect(),
        },
        exposure,
    }
}

/// The windows in which the tables of address spaces alone are open, where these have a key of their own.
fn of_separate_keys(each: impl Fn(Event) -> f64) -> Option<(String, f64)> {
    let windows = each(Event::UserWindowOpened);
    (windows > 0.0).then(|| ("user_windows".to_owned(), windows))
}

/// How exposed tables were while events were counted.
fn exposure(counts: &Counts) -> Exposure {
    Exposure {
        open_share: counts.open_ns as f64 / counts.at_ns.max(1) as f64,
        longest_window_stores: counts.longest_window_stores,
    }
}

fn print(record: &Record) -> Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    Ok(io::stdout().lock().write_all(&line)?)
}

/// Keeps this process on the CPU that is measured on.
pub fn stay_on_one_cpu() {
    if let Some(cpu) = cpu::measured(None) {
        affinity::keep_to(cpu);
    }
}

/// A clock that only tells the time.
pub struct Stopwatch;

impl Clock for Stopwatch {
    fn now_ns(&self) -> u64 {
        clock::thread_ns()
    }
}

/// A clock that also reads the counter at both ends of the timed span.
pub struct CountingClock<'c> {
    counter: &'c Counter,
    begun: std::cell::Cell<Counts>,
    counted: std::cell::Cell<Counts>,
}

impl<'c> CountingClock<'c> {
    /// A clock that reads this counter.
    pub fn new(counter: &'c Counter) -> Self {
        let now = counter.read();
        CountingClock { counter, begun: now.into(), counted: now.into() }
    }

    /// What the last timed span counted.
    pub fn counted(&self) -> Counts {
        self.counted.get()
    }
}

impl Clock for CountingClock<'_> {
    fn now_ns(&self) -> u64 {
        Stopwatch.now_ns()
    }

    fn begin(&self) {
        self.counter.reset_longest();
        self.begun.set(self.counter.read());
    }

    fn end(&self) {
        self.counted.set(self.counter.read().since(&self.begun.get()));
    }
}
