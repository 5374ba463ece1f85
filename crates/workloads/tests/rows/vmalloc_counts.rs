//! The exact events of the vmalloc rows, in every mode and both formats.
//!
//! Where an area straddles 2 MiB, it is mapped and unmapped in one lazy-MMU section more; where it lies for the first time in some
//! 2 MiB, a table is linked. Both depend on addresses. So each row's loops are also made on a second machine, booted alike, which
//! returns the same addresses; from those, and the description of the row, its events are computed here and compared exactly.

use std::collections::BTreeSet;

use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::boot::Counted;
use kpkeys_mm::Kernel;
use kpkeys_pgtable::{Format, Level, Mode, PageRange, PhysAddr, VirtAddr};
use kpkeys_workloads::{ALL_ROWS, Row, Span, Test};

use crate::support::{Events, counted, for_both_formats, kernel_of, run};

/// Frames for the largest of these rows, 16,384 pages mapped at once, of which so many may wait that the addresses decide on purges.
const PAGES: usize = 1 << 17;

/// Divides the published number of loops. What is left still purges several times.
const SCALE: u64 = 100;
/// Pages unmapped and not flushed after which a machine of one CPU purges.
const MAX_LAZY_PAGES: usize = 8192;
/// Pages of a `vm_map_ram` block.
const BLOCK_PAGES: usize = 1024;
/// Pages of unmaps that wait for a window in mode `fused`; the one that exceeds it clears all.
const MAX_DEFERRED_PAGES: usize = 1024;

/// A change of kernel mappings.
#[derive(Clone, Copy)]
enum Change<F: Format> {
    /// Some pages were mapped, in runs of this many bytes each a lazy-MMU section, cut where tables end.
    Map(PageRange<F>, u64),
    /// They are unmapped, and this many pages of addresses wait for a purge: the area's, with guard page.
    Free(PageRange<F>, usize),
    /// A slot of a block is unmapped.
    FreeSlot(PageRange<F>),
    /// Everything that waits is flushed.
    Purge,
}

/// How many tables of `level` translate a range.
fn tables<F: Format>(range: PageRange<F>, level: Level) -> impl Iterator<Item = u64> {
    range.by_table(level).map(move |piece| piece.start().0 / level.table_bytes::<F>())
}

fn lazy_sections<F: Format>(range: PageRange<F>, run_bytes: u64) -> u64 {
    let run_pages = (run_bytes / F::PAGE_SIZE) as usize;
    (0..range.pages())
        .step_by(run_pages)
        .map(|done| {
            let run = PageRange::<F>::new(
                range.start().offset_pages::<F>(done),
                run_pages.min(range.pages() - done),
            );
            tables(run.expect("part of a good range"), Level::Pte).count() as u64
        })
        .sum()
}

/// What is known of a machine between changes: which tables there are, and what waits.
struct Model<F: Format> {
    mode: Mode,
    tables: BTreeSet<(Level, u64)>,
    lazy_pages: usize,
    block_slots: usize,
    deferred: Vec<Change<F>>,
    events: Events,
    /// Operations so far that made kernel entries valid.
    maps: u64,
    /// Lazy-MMU sections so far, in which kernel entries became valid, or not.
    map_sections: u64,
    unmap_sections: u64,
}

impl<F: Format> Model<F> {
    fn new(mode: Mode) -> Self {
        Model {
            mode,
            tables: BTreeSet::new(),
            lazy_pages: 0,
            block_slots: 0,
            deferred: Vec::new(),
            events: Events::default(),
            maps: 0,
            map_sections: 0,
            unmap_sections: 0,
        }
    }

    fn apply(&mut self, change: Change<F>) {
        match change {
            Change::Map(range, run_bytes) => self.map(range, run_bytes),
            Change::Purge => {
                self.clear_deferred_in_own_window();
                self.purge();
            }
            free if self.mode.fuses() => self.defer(free),
            free => {
                self.clear(free);
                self.set_free(free);
            }
        }
    }

    fn map(&mut self, range: PageRange<F>, run_bytes: u64) {
        self.maps += 1;
        // The window of a fused map also takes the unmaps that wait; what they free is free once it is closed.
        self.events.windows += u64::from(self.mode.fuses());
        let cleared = std::mem::take(&mut self.deferred);
        cleared.iter().for_each(|&free| self.clear(free));
        for level in [Level::Pte, Level::Pmd] {
            for table in tables(range, level) {
                if self.tables.insert((level, table)) {
                    self.events.upper_stores += 1;
                    self.events.ptps_allocated += 1;
                }
            }
        }
        self.events.entry_stores += range.pages() as u64;
        self.map_sections += lazy_sections(range, run_bytes);
        cleared.into_iter().for_each(|free| self.set_free(free));
    }

    fn defer(&mut self, free: Change<F>) {
        self.deferred.push(free);
        let pages: usize = self.deferred.iter().map(|free| unmapped(free).pages()).sum();
        if pages > MAX_DEFERRED_PAGES {
            self.clear_deferred_in_own_window();
        }
    }

    fn clear_deferred_in_own_window(&mut self) {
        let deferred = std::mem::take(&mut self.deferred);
        self.events.windows += u64::from(!deferred.is_empty());
        deferred.iter().for_each(|&free| self.clear(free));
        deferred.into_iter().for_each(|free| self.set_free(free));
    }

    fn clear(&mut self, free: Change<F>) {
        let range = unmapped(&free);
        self.events.entry_stores += range.pages() as u64;
        self.unmap_sections += tables(range, Level::Pte).count() as u64;
    }

    fn set_free(&mut self, free: Change<F>) {
        match free {
            Change::Free(_, addresses) => self.lazy_pages += addresses,
            _ => {
                self.block_slots += 1;
                if self.block_slots == BLOCK_PAGES {
                    (self.block_slots, self.lazy_pages) = (0, self.lazy_pages + BLOCK_PAGES);
                }
            }
        }
        if self.lazy_pages > MAX_LAZY_PAGES {
            self.clear_deferred_in_own_window();
            self.purge();
        }
    }

    fn purge(&mut self) {
        self.events.tlb_flushes += u64::from(self.lazy_pages > 0);
        self.lazy_pages = 0;
    }

    /// What must have been counted.
    fn expected(&self) -> Events {
        let Events { entry_stores, upper_stores, .. } = self.events;
        // The pool's first block, keyed at boot, is more than these rows need.
        let key_changes = match self.mode {
            Mode::Off | Mode::FusedLean | Mode::Fused => 0,
            Mode::Unbatched | Mode::Batched => self.events.ptps_allocated,
        };
        let windows = match self.mode {
            Mode::Off => 0,
            // Each new table has a window for its key, and then one for its zeroes.
            Mode::Unbatched => entry_stores + upper_stores + 2 * key_changes,
            Mode::Batched => {
                self.map_sections + self.unmap_sections + upper_stores + 2 * key_changes
            }
            Mode::FusedLean => self.events.windows,
            // A gate for each run of entries, and for each new table one that empties it and one that links it.
            Mode::Fused => {
                self.map_sections + self.unmap_sections + upper_stores + self.events.ptps_allocated
            }
        };
        // What arm64 wants for valid kernel entries: a barrier when a lazy-MMU section ends, and one for each linked table.
        let (map_barriers, link_barriers) = if F::VALID_KERNEL_STORE_NEEDS_BARRIER {
            (self.map_sections, upper_stores)
        } else {
            (0, 0)
        };
        let barriers = 2 * windows
            + match self.mode {
                Mode::Off | Mode::Unbatched => map_barriers + link_barriers,
                // The section's window closes with the barrier that is due anyway.
                Mode::Batched => link_barriers,
                Mode::FusedLean => 0,
                // Once an operation, behind its last gate.
                Mode::Fused if F::VALID_KERNEL_STORE_NEEDS_BARRIER => self.maps,
                Mode::Fused => 0,
            };
        Events {
            windows,
            barriers,
            linear_stores: key_changes,
            key_changes,
            tlb_flushes: self.events.tlb_flushes + key_changes,
            ..self.events
        }
    }
}

fn unmapped<F: Format>(free: &Change<F>) -> PageRange<F> {
    match *free {
        Change::Free(range, _) | Change::FreeSlot(range) | Change::Map(range, _) => range,
        Change::Purge => unreachable!("a purge unmaps nothing itself"),
    }
}

/// The second machine: makes the calls of a row and records the changes they are.
struct Recorder<'k, F: HostedFormat> {
    kernel: &'k Kernel<Counted<F>>,
    changes: Vec<Change<F>>,
}

impl<F: HostedFormat> Recorder<'_, F> {
    fn allocate(&mut self, pages: usize, huge: bool) -> PageRange<F> {
        let start = if huge { self.kernel.vmalloc_huge(pages) } else { self.kernel.vmalloc(pages) };
        self.mapped(start.expect("memory"), pages, if huge { F::CONT_BYTES } else { u64::MAX })
    }

    fn mapped(&mut self, start: VirtAddr, pages: usize, run_bytes: u64) -> PageRange<F> {
        let range = PageRange::new(start, pages).expect("a good range");
        self.changes.push(Change::Map(range, run_bytes.min(pages as u64 * F::PAGE_SIZE)));
        range
    }

    fn free(&mut self, area: PageRange<F>) {
        self.kernel.vfree(area.start()).expect("an area");
        self.changes.push(Change::Free(area, area.pages() + 1));
    }

    fn allocate_and_free(&mut self, pages: usize, huge: bool) {
        let area = self.allocate(pages, huge);
        self.free(area);
    }

    /// The loops of a row, as the evaluation describes them.
    fn row(&mut self, row: &Row, loops: u64) {
        match row.test {
            Test::FixSize => (0..loops).for_each(|_| self.allocate_and_free(row.pages, row.huge)),
            Test::RandomSize => {
                sizes().take(loops as usize).for_each(|n| self.allocate_and_free(n, false))
            }
            Test::VmMapRam => self.vm_map_ram(loops),
            Test::FullFit => self.full_fit(loops),
            Test::LongBusyList => self.long_busy_list(loops),
            Test::FixAlign => (0..loops).for_each(|_| {
                let start = self.kernel.vmalloc_aligned(5, 128 * F::PAGE_SIZE).expect("memory");
                assert!(start.is_aligned(128 * F::PAGE_SIZE));
                let area = self.mapped(start, 5, u64::MAX);
                self.free(area);
            }),
            Test::Fork | Test::Munmap => unreachable!("not a vmalloc row"),
        }
    }

    fn vm_map_ram(&mut self, loops: u64) {
        let frame = self.kernel.frames().new_frame().expect("memory");
        let frames: [PhysAddr; 1] = [frame.address()];
        for _ in 0..loops {
            let start = self.kernel.vm_map_ram(&frames).expect("memory");
            let slot = self.mapped(start, 1, u64::MAX);
            self.kernel.vm_unmap_ram(start, 1).expect("a mapping");
            self.changes.push(Change::FreeSlot(slot));
        }
        self.kernel.purge_vmalloc();
        self.changes.push(Change::Purge);
        self.kernel.frames().free_frame(frame);
    }

    fn full_fit(&mut self, loops: u64) {
        let areas: Vec<_> = (0..2 * 8192).map(|_| self.allocate(1, false)).collect();
        areas.iter().step_by(2).for_each(|&area| self.free(area));
        (0..loops).for_each(|_| self.allocate_and_free(1, false));
        areas.iter().skip(1).step_by(2).for_each(|&area| self.free(area));
    }

    fn long_busy_list(&mut self, loops: u64) {
        let areas: Vec<_> = (0..15_000).map(|_| self.allocate(1, false)).collect();
        for _ in 0..loops {
            let (large, small) = (self.allocate(100, false), self.allocate(1, false));
            self.free(large);
            self.free(small);
        }
        areas.into_iter().for_each(|area| self.free(area));
    }
}

/// The sizes of the random-size test: xorshift64 from the golden ratio, 1 to 100 pages.
fn sizes() -> impl Iterator<Item = usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some((state % 100) as usize + 1)
    })
}

fn vmalloc_rows() -> impl Iterator<Item = (&'static Row, u64)> {
    ALL_ROWS.iter().filter_map(|row| match row.span {
        Span::Loops { published } => Some((row, published / SCALE)),
        Span::Once => None,
    })
}

/// What a row counts when it is the first thing a machine does.
fn count<F: HostedFormat>(row: &Row, mode: Mode, loops: u64) -> Events {
    let (timing, counts) = run(&kernel_of::<F>(mode, PAGES), row, SCALE);
    assert_eq!(timing.operations, loops);
    Events::of(&counts)
}

fn every_row_counts_what_its_description_says<F: HostedFormat>() {
    for (row, loops) in vmalloc_rows() {
        for mode in Mode::ALL {
            let twin = kernel_of::<F>(mode, PAGES);
            let mut recorder = Recorder { kernel: &twin, changes: Vec::new() };
            recorder.row(row, loops);
            let mut model = Model::<F>::new(mode);
            recorder.changes.into_iter().for_each(|change| model.apply(change));
            assert_eq!(
                count::<F>(row, mode, loops),
                model.expected(),
                "{} {mode:?}",
                row.result_class
            );
        }
    }
}

/// What one loop costs, on a machine that has done such loops before: `pages` pages from `vmalloc` or `vmalloc_huge`, touched and freed.
/// Also says where the area was.
fn one_loop<F: HostedFormat>(
    kernel: &Kernel<Counted<F>>,
    pages: usize,
    huge: bool,
) -> (PageRange<F>, Events) {
    let (start, events) = counted(kernel, || {
        let start = if huge { kernel.vmalloc_huge(pages) } else { kernel.vmalloc(pages) };
        let start = start.expect("memory");
        kernel.touch(start).expect("a mapped page");
        kernel.vfree(start).expect("an area");
        start
    });
    (PageRange::new(start, pages).expect("a good range"), events)
}

/// A machine whose tables for the first 64 MiB of areas are linked, and where the last loop is over.
fn warm<F: HostedFormat>(mode: Mode) -> Kernel<Counted<F>> {
    let kernel = kernel_of::<F>(mode, PAGES);
    one_loop(&kernel, 16_000, false);
    kernel.purge_vmalloc();
    one_loop(&kernel, 1, false);
    kernel
}

fn one_page_costs_the_published_windows_and_barriers<F: HostedFormat>() {
    // The map's own DSB + ISB, in the baseline too.
    let map = if F::VALID_KERNEL_STORE_NEEDS_BARRIER { 1 } else { 0 };
    for (mode, windows, barriers) in [
        (Mode::Off, 0, map),
        (Mode::Unbatched, 2, map + 4),
        // The map's closing register write needs no barrier beside the one that is due: on arm64 only 3 are added.
        (Mode::Batched, 2, 4),
        // The unmap waits for the next map's window, so there is one window in place of two.
        (Mode::FusedLean, 1, 2),
        // A gate for each of the two, and the barrier of the map behind it.
        (Mode::Fused, 2, map + 4),
    ] {
        let (_, events) = one_loop(&warm::<F>(mode), 1, false);
        let expected = Events { entry_stores: 2, windows, barriers, ..Events::default() };
        assert_eq!(events, expected, "{mode:?}");
    }
}

fn fused_adds_at_most_half_of_the_barriers_batched_adds<F: HostedFormat>() {
    let barriers = |mode, ram: bool| {
        let kernel = warm::<F>(mode);
        let frame = kernel.frames().new_frame().expect("memory");
        let one_loop = || {
            if ram {
                let start = kernel.vm_map_ram(&[frame.address()]).expect("memory");
                kernel.vm_unmap_ram(start, 1).expect("a mapping");
            } else {
                one_loop(&kernel, 1, false);
            }
        };
        one_loop();
        let (_, events) = counted(&kernel, one_loop);
        kernel.purge_vmalloc();
        kernel.frames().free_frame(frame);
        events.barriers
    };
    for ram in [false, true] {
        let off = barriers(Mode::Off, ram);
        let batched = barriers(Mode::Batched, ram) - off;
        let fused = barriers(Mode::FusedLean, ram) - off;
        assert!(2 * fused <= batched, "fused adds {fused}, batched {batched}");
    }
}

fn an_area_that_straddles_2_mib_takes_two_sections_more<F: HostedFormat>() {
    let kernel = warm::<F>(Mode::Batched);
    let (mut inside, mut across) = (0, 0);
    while inside < 2 || across < 2 {
        let (area, events) = one_loop(&kernel, 256, false);
        let pieces = tables(area, Level::Pte).count() as u64;
        assert_eq!((events.entry_stores, events.windows), (512, 2 * pieces), "{area:?}");
        *(if pieces == 1 { &mut inside } else { &mut across }) += 1;
    }
}

fn a_huge_area_takes_a_section_per_64_kib_to_map_and_one_to_unmap<F: HostedFormat>() {
    for pages in [16, 64, 256] {
        let kernel = warm::<F>(Mode::Batched);
        let (area, events) = one_loop(&kernel, pages, true);
        assert!(area.start().is_aligned(F::CONT_BYTES));
        assert_eq!(tables(area, Level::Pte).count(), 1, "the first areas lie inside 2 MiB");
        assert_eq!(
            (events.entry_stores, events.windows),
            (2 * pages as u64, pages as u64 / 16 + 1)
        );
    }
}

/// Blocks of 2 MiB are entries above the last level: nothing is stored to PTEs.
fn an_area_of_2_mib_blocks_stores_no_pte<F: HostedFormat>() {
    for (mode, windows) in [
        (Mode::Off, 0),
        (Mode::Unbatched, 4),
        (Mode::Batched, 4),
        (Mode::FusedLean, 2),
        (Mode::Fused, 4),
    ] {
        let kernel = kernel_of::<F>(mode, PAGES);
        // The PMD table.
        one_loop(&kernel, 1024, true);
        kernel.purge_vmalloc();
        let (area, events) = one_loop(&kernel, 1024, true);
        assert!(area.start().is_aligned(Level::Pmd.entry_bytes::<F>()));
        assert_eq!(
            (events.entry_stores, events.upper_stores, events.windows),
            (0, 4, windows),
            "{mode:?}"
        );
    }
}

/// The row's own sizes average what the table of counts says: 2 * 50.5 stores a loop.
#[test]
fn random_sizes_average_fifty_and_a_half_pages() {
    const PUBLISHED_LOOPS: usize = 500_000;
    let pages: usize = sizes().take(PUBLISHED_LOOPS).sum();
    let average = pages as f64 / PUBLISHED_LOOPS as f64;
    assert!((50.4..50.6).contains(&average), "{average}");
}

for_both_formats!(
    every_row_counts_what_its_description_says,
    one_page_costs_the_published_windows_and_barriers,
    fused_adds_at_most_half_of_the_barriers_batched_adds,
    an_area_that_straddles_2_mib_takes_two_sections_more,
    a_huge_area_takes_a_section_per_64_kib_to_map_and_one_to_unmap,
    an_area_of_2_mib_blocks_stores_no_pte,
);
