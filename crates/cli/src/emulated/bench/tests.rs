//! The kernel's counts are the hosted ones, but for few differences, which are asserted.

use super::*;
use kpkeys_emulator::Target;
use kpkeys_hosted::{Setup, boot_counted, boot_counted_pan, boot_counted_ttbr0};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::{Config, Event, Keys, Machine};
use kpkeys_stats::record::Counts;
use kpkeys_workloads::Clock;
use std::cell::Cell;

const SCALE: u64 = 500;

/// A kernel in an emulator, and the hosted machine whose counts it must have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pair {
    /// Keys that hardware checks, and the hosted mock.
    Pks,
    /// The alias of x86-64, and the hosted model of it.
    Smap,
    /// The series' mock, both times.
    Arm64Mock,
    /// The alias, and the hosted model of it.
    Pan,
    /// The alias in windows alone, and the hosted model of it.
    Ttbr0,
}

impl Pair {
    const ALL: [Pair; 5] = [Pair::Pks, Pair::Smap, Pair::Arm64Mock, Pair::Pan, Pair::Ttbr0];

    fn target(self) -> Target {
        match self {
            Pair::Pks | Pair::Smap => Target::X86_64,
            Pair::Arm64Mock | Pair::Pan | Pair::Ttbr0 => Target::Aarch64,
        }
    }

    fn backend(self) -> &'static str {
        match self {
            Pair::Pks => "pks",
            Pair::Smap => "smap",
            Pair::Arm64Mock => "mock",
            Pair::Pan => "pan",
            Pair::Ttbr0 => "ttbr0",
        }
    }

    fn hosted(self, mode: kpkeys_pgtable::Mode, row: &Row) -> Counts {
        let setup = Setup { pages: 1 << 19, cpus: CPUS as usize, config: Config::of(mode) };
        match self {
            Pair::Pks => counted(&boot_counted::<X86_64>(setup).unwrap(), row),
            Pair::Smap => counted(&boot_counted_pan::<X86_64>(setup).unwrap(), row),
            Pair::Arm64Mock => counted(&boot_counted::<Aarch64>(setup).unwrap(), row),
            Pair::Pan => counted(&boot_counted_pan::<Aarch64>(setup).unwrap(), row),
            Pair::Ttbr0 => counted(&boot_counted_ttbr0::<Aarch64>(setup).unwrap(), row),
        }
    }
}

/// The hosted machine's counts of a row, by the same road: once unrecorded, once recorded.
fn counted<M>(kernel: &Kernel<M>, row: &Row) -> Counts
where
    M: Machine<Probe = kpkeys_hosted::Counter>,
{
    let counter = kernel.machine().probe();
    let clock = Both { counter, begun: counter.read().into(), counted: counter.read().into() };
    kpkeys_workloads::run(kernel, &clock, row, SCALE).unwrap();
    let operations = kpkeys_workloads::run(kernel, &clock, row, SCALE).unwrap().operations;
    let counts = clock.counted.get();
    let each = |event: Event| counts.of(event) as f64 / operations as f64;
    counts_record(Mode::Off, &PlannedRow::Workload(*row), each, None).counts
}

struct Both<'c> {
    counter: &'c kpkeys_hosted::Counter,
    begun: Cell<kpkeys_hosted::Counts>,
    counted: Cell<kpkeys_hosted::Counts>,
}

impl Clock for Both<'_> {
    fn now_ns(&self) -> u64 {
        0
    }

    fn begin(&self) {
        self.begun.set(self.counter.read());
    }

    fn end(&self) {
        self.counted.set(self.counter.read().since(&self.begun.get()));
    }
}

fn emulated(pair: Pair, mode: Mode, row: Row) -> Counts {
    let emulated = Emulated::for_bench(pair.target(), Some(pair.backend()), Keys::One).unwrap();
    let request =
        Request { mode, block: 0, rows: vec![row], scale: SCALE, iterations: 1, count: true };
    match emulated.bench(&request).unwrap().pop() {
        Some(Record::Counts(record)) => record.counts,
        other => panic!("no counts: {other:?}"),
    }
}

/// What the hosted counts come to in the kernel. On arm64 they are the same: its registers want the barrier that the hosted mock has, PAN
/// wants none either way, and a process's root holds nothing of the kernel's half, which has a root of its own. On x86-64:
///
/// - the register needs no barrier, where the hosted mock's has one;
/// - a new process's root gets three entries of the kernel's half (with an alias too, since it lacks that), one of them for the image, which a process has not. It is one more
///   store above the last level, and a window of its own where stores outside lazy-MMU sections have one.
fn expected(pair: Pair, mode: kpkeys_pgtable::Mode, row: &Row, hosted: Counts) -> Counts {
    use kpkeys_pgtable::Mode::{Batched, Fused, Unbatched};
    if pair.target() == Target::Aarch64 {
        return hosted;
    }
    let mut counts = Counts { barriers: 0.0, ..hosted };
    if row.benchmark == "fork" {
        *counts.extra.get_mut("upper_stores").unwrap() += 1.0;
        let windows = if matches!(mode, Batched | Unbatched | Fused) { 1.0 } else { 0.0 };
        counts.windows += windows;
        counts.switches += 2.0 * windows;
    }
    counts
}

/// A thousand loops of that row need 250 tables, so that the pool takes a block of 512 pages in every second such run. In which
/// depends on what it had left when the kernel had started; a block's few events in a thousand loops are rounded away.
fn leave_out_a_block(counts: &mut Counts) {
    let Counts { switches, barriers, windows, entry_stores, ptps, key_changes, tlb_flushes, extra } =
        counts;
    let fixed = [switches, barriers, windows, entry_stores, ptps, key_changes, tlb_flushes];
    for count in fixed.into_iter().chain(extra.values_mut()) {
        *count = (*count * 100.0).round() / 100.0;
    }
}

/// What differs, if something does.
fn difference(pair: Pair, mode: Mode, row: &Row) -> Option<String> {
    let of_tables = kpkeys_pgtable::Mode::from_name(mode.name()).unwrap();
    let mut expected = expected(pair, of_tables, row, pair.hosted(of_tables, row));
    let mut counts = emulated(pair, mode, *row);
    if matches!(mode, Mode::FusedLean | Mode::Fused)
        && row.result_class.starts_with("fix_align_alloc_test")
    {
        [&mut expected, &mut counts].into_iter().for_each(leave_out_a_block);
    }
    let what = format!("{pair:?}: {} in mode {mode}", row.result_class);
    (counts != expected).then(|| format!("{what}: {counts:?}, expected {expected:?}"))
}

fn counts_agree(pair: Pair, mode: Mode, row: &Row) {
    assert_eq!(difference(pair, mode, row), None);
}

#[test]
fn a_row_of_each_kind_counts_the_same_as_hosted() {
    for name in ["fork: h:1", "fix_size_alloc_test: p:16, h:0", "vm_map_ram_test: p:1, h:0"] {
        let row = ALL_ROWS.iter().find(|row| row.result_class == name).unwrap();
        for pair in Pair::ALL {
            counts_agree(pair, Mode::Batched, row);
            counts_agree(pair, Mode::FusedLean, row);
            counts_agree(pair, Mode::Fused, row);
        }
    }
}

/// The clock counts instructions, so the same row takes the same number of them, to the last one.
#[test]
fn instructions_are_counted_exactly() {
    let row = *ALL_ROWS.iter().find(|row| row.result_class == "vm_map_ram_test: p:1, h:0").unwrap();
    let emulated = Emulated::for_bench(Target::X86_64, Some("none"), Keys::One).unwrap();
    let request = Request {
        mode: Mode::Off,
        block: 0,
        rows: vec![row],
        scale: SCALE,
        iterations: 2,
        count: false,
    };
    let runs = [(); 2].map(|()| emulated.bench(&request).unwrap());
    assert_eq!(runs[0], runs[1]);
    for record in &runs[0] {
        let Record::Sample(sample) = record else { panic!("not a sample: {record:?}") };
        assert_eq!(sample.unit, Unit::Instructions);
        assert!((100.0..10_000.0).contains(&sample.value), "{}", sample.value);
    }
}

/// Every row in every mode: minutes, since each register write costs the emulator its whole TLB.
#[test]
#[ignore = "425 boots; run with --ignored"]
fn every_row_counts_the_same_as_hosted() {
    let mut differences = Vec::new();
    for pair in Pair::ALL {
        for mode in [Mode::Off, Mode::Unbatched, Mode::Batched, Mode::FusedLean, Mode::Fused] {
            differences.extend(ALL_ROWS.iter().filter_map(|row| difference(pair, mode, row)));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
