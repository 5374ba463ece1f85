//! Kernel mappings against a plain model, by random sequences of everything `vmalloc` and `vm_map_ram` offer.
//!
//! The model knows which ranges are in use, what was stored there, and which were freed since the last flush of the TLB. It checks
//! what callers rely on: their pages are theirs alone and keep their contents, guard pages and freed pages do not translate, and
//! addresses are not used again before they were flushed.
//!
//! Fuzzing takes operations from bytes in place of chance, and has the rest from here.

use std::collections::BTreeSet;

use kpkeys::encoding::Update;
use kpkeys::{Backend, Pkey, Scheme, context};
use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::mmu::{Fault, Mmu, Privilege, Want};
use kpkeys_mm::frames::OwnedFrame;
use kpkeys_mm::vmalloc::blocks::MAX_SLOTS;
use kpkeys_mm::vmalloc::deferred::MAX_DEFERRED_PAGES;
use kpkeys_mm::{Error, Kernel};
use kpkeys_pgtable::{Event, Machine, Mode, PhysAddr, VirtAddr};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{
    Modelled, PAGE_SIZE, assert_every_frame_accounted_for, for_both_formats, guarded, guarded_pan,
};

/// Sequences for each format and mode, and their length.
const SEQUENCES: u32 = 24;
const OPERATIONS: usize = 64;
const _: () = assert!(SEQUENCES as usize * OPERATIONS * Mode::ALL.len() * 2 >= 10_000);

pub const PAGES: usize = 8192;
/// Frames that `vm_map_ram` maps: more than fit a block's slots.
pub const RAM_FRAMES: usize = MAX_SLOTS + 6;

#[derive(Clone, Debug)]
pub enum Operation {
    Vmalloc {
        pages: usize,
    },
    VmallocHuge {
        pages: usize,
    },
    VmallocAligned {
        pages: usize,
        align_log2: u32,
    },
    VmMapRam {
        pages: usize,
    },
    /// Frees one of the live ranges, whichever function it is from.
    Free {
        which: usize,
    },
    /// Frees it again, or part of it, or with the other function: always refused.
    FreeWrongly {
        which: usize,
    },
    Purge,
    Shrink,
}

fn operation() -> impl Strategy<Value = Operation> {
    let size = || prop_oneof![4 => 1..24_usize, 2 => 1..=600_usize, 1 => 512..=1100_usize];
    prop_oneof![
        4 => size().prop_map(|pages| Operation::Vmalloc { pages }),
        3 => size().prop_map(|pages| Operation::VmallocHuge { pages }),
        1 => (1..40_usize, 0..24_u32).prop_map(|(pages, align_log2)| Operation::VmallocAligned { pages, align_log2 }),
        6 => (1..=RAM_FRAMES).prop_map(|pages| Operation::VmMapRam { pages }),
        12 => any::<usize>().prop_map(|which| Operation::Free { which }),
        2 => any::<usize>().prop_map(|which| Operation::FreeWrongly { which }),
        1 => Just(Operation::Purge),
        1 => Just(Operation::Shrink),
    ]
}

/// A range in use.
#[derive(Clone, Copy, Debug)]
struct Live {
    start: VirtAddr,
    pages: usize,
    /// From `vm_map_ram`, whose frames are the caller's and which has no guard page.
    ram: bool,
    /// What its first and last word hold.
    mark: u64,
}

/// A range that was freed, and may still be in TLBs.
#[derive(Clone, Copy, Debug)]
struct Freed {
    start: VirtAddr,
    pages: usize,
}

impl Live {
    /// Addresses that are nobody else's: with the guard page.
    fn span(&self) -> (u64, u64) {
        let guard = usize::from(!self.ram);
        (self.start.0, self.start.offset((self.pages + guard) as u64 * PAGE_SIZE).0)
    }
}

impl Freed {
    fn overlaps(&self, live: &Live) -> bool {
        let (start, end) = live.span();
        start < self.start.offset(self.pages as u64 * PAGE_SIZE).0 && self.start.0 < end
    }
}

type EncodingOf<M> = <<M as Machine>::Format as HostedFormat>::Encoding;

struct Pair<'k, M: Modelled> {
    kernel: &'k Kernel<M>,
    ram: Vec<OwnedFrame>,
    live: Vec<Live>,
    /// Since the last flush.
    freed: Vec<Freed>,
    flushes: u64,
    next_mark: u64,
}

impl<'k, M: Modelled> Pair<'k, M> {
    fn new(kernel: &'k Kernel<M>) -> Self {
        let ram = (0..RAM_FRAMES).map(|_| kernel.frames().new_frame().expect("memory")).collect();
        Pair {
            kernel,
            ram,
            live: Vec::new(),
            freed: Vec::new(),
            flushes: flushes(kernel),
            next_mark: 0,
        }
    }

    fn mmu(&self) -> Mmu<'k, M> {
        let register = Update::of::<EncodingOf<M>, context::Default>().apply(0);
        Mmu::new(self.kernel.machine(), self.kernel.paging().kernel().frame(), None, register)
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Vmalloc { pages } => self.allocated(self.kernel.vmalloc(pages), pages, 1),
            Operation::VmallocHuge { pages } => {
                let align = if pages >= 512 {
                    512
                } else if pages >= 16 {
                    16
                } else {
                    1
                };
                self.allocated(self.kernel.vmalloc_huge(pages), pages, align);
            }
            Operation::VmallocAligned { pages, align_log2 } => {
                let align = PAGE_SIZE.max(1 << align_log2) / PAGE_SIZE;
                self.allocated(self.kernel.vmalloc_aligned(pages, 1 << align_log2), pages, align);
            }
            Operation::VmMapRam { pages } => self.map_ram(pages),
            Operation::Free { which } => self.free(which),
            Operation::FreeWrongly { which } => self.free_wrongly(which),
            Operation::Purge => {
                self.kernel.purge_vmalloc();
                self.assert_freed_is_gone();
            }
            Operation::Shrink => {
                self.kernel.paging().shrink();
                // Giving a block back flushes the addresses of its pages, and no area.
                self.flushes = flushes(self.kernel);
            }
        }
        self.note_flushes(None);
    }

    fn allocated(&mut self, area: Result<VirtAddr, Error>, pages: usize, align_pages: u64) {
        let Ok(start) = area else { return self.assert_memory_was_short(area, pages) };
        assert!(start.is_aligned(align_pages * PAGE_SIZE));
        self.insert(Live { start, pages, ram: false, mark: 0 });
        // Frames are the area's alone.
        let all: Vec<_> =
            self.live.iter().filter(|live| !live.ram).flat_map(|live| self.frames(live)).collect();
        let ram = self.ram.iter().map(OwnedFrame::address);
        let distinct: BTreeSet<_> = all.iter().copied().chain(ram).collect();
        assert_eq!(distinct.len(), all.len() + RAM_FRAMES, "a frame is in two areas");
    }

    fn map_ram(&mut self, pages: usize) {
        let frames: Vec<_> = self.ram[..pages].iter().map(OwnedFrame::address).collect();
        let start = self.kernel.vm_map_ram(&frames).expect("memory");
        let live = Live { start, pages, ram: true, mark: 0 };
        assert_eq!(self.frames(&live), frames);
        self.insert(live);
    }

    fn insert(&mut self, live: Live) {
        self.note_flushes(Some(&live));
        let (start, end) = live.span();
        for other in &self.live {
            let (other_start, other_end) = other.span();
            assert!(end <= other_start || other_end <= start, "{live:?} overlaps {other:?}");
        }
        for freed in &self.freed {
            assert!(!freed.overlaps(&live), "{live:?} was not flushed since {freed:?}");
        }
        self.next_mark += 1;
        let live = Live { mark: self.next_mark, ..live };
        // Frames of `vm_map_ram` are mapped at several addresses, where they cannot hold several marks.
        if !live.ram {
            for va in words(&live) {
                self.mmu().store(va, live.mark).expect("a new mapping can be written");
            }
        }
        self.kernel
            .touch(live.start.offset((live.pages - 1) as u64 * PAGE_SIZE))
            .expect("a mapped page");
        self.live.push(live);
    }

    fn free(&mut self, which: usize) {
        if self.live.is_empty() {
            return;
        }
        let live = self.live.swap_remove(which % self.live.len());
        let freed = Freed { start: live.start, pages: live.pages };
        let result = if live.ram {
            self.kernel.vm_unmap_ram(live.start, live.pages)
        } else {
            self.kernel.vfree(live.start)
        };
        assert_eq!(result, Ok(()));
        self.freed.push(freed);
        // In mode `fused` the unmap may wait, and the next flush may not be for it.
        if !self.kernel.paging().mode().fuses() || live.pages > MAX_DEFERRED_PAGES {
            assert!(self.is_gone(&freed), "{freed:?} still translates");
        }
    }

    fn free_wrongly(&mut self, which: usize) {
        let Some(&live) = self.live.get(which % self.live.len().max(1)) else { return };
        let (start, pages) = (live.start, live.pages);
        let refused = Err(Error::NotMapped(start));
        if live.ram {
            assert_eq!(self.kernel.vfree(start), refused);
            assert_eq!(self.kernel.vm_unmap_ram(start, pages + 1), refused);
        } else {
            assert_eq!(self.kernel.vm_unmap_ram(start, pages), refused);
        }
        if let Some(freed) = self.freed.last() {
            let refused = Err(Error::NotMapped(freed.start));
            assert_eq!(self.kernel.vfree(freed.start), refused);
            assert_eq!(self.kernel.vm_unmap_ram(freed.start, freed.pages), refused);
        }
    }

    /// An allocation fails only for want of memory.
    fn assert_memory_was_short(&self, area: Result<VirtAddr, Error>, pages: usize) {
        assert_eq!(area, Err(Error::OutOfMemory));
        let free = self.kernel.frames().free_frames();
        assert!(free < pages + 16, "{free} frames were free, {pages} were asked for");
    }

    /// Flushes of vmalloc ranges: all but those of key changes. `new` was mapped since, maybe where something was unmapped and flushed by the same call.
    fn note_flushes(&mut self, new: Option<&Live>) {
        let flushes = flushes(self.kernel);
        if flushes != self.flushes {
            self.flushes = flushes;
            // What waits for a window was not unmapped, so the flush did not take it out of the TLB for good.
            let waits =
                |freed: &Freed| !self.is_gone(freed) && new.is_none_or(|new| !freed.overlaps(new));
            self.freed = self.freed.iter().copied().filter(waits).collect();
        }
    }

    fn assert_freed_is_gone(&self) {
        for freed in &self.freed {
            assert!(self.is_gone(freed), "{freed:?} still translates");
        }
    }

    fn is_gone(&self, freed: &Freed) -> bool {
        (0..freed.pages).all(|page| {
            let result = self.mmu().access(
                freed.start.offset(page as u64 * PAGE_SIZE),
                Want::Read,
                Privilege::Kernel,
            );
            matches!(result, Err(Fault::NotPresent(_)))
        })
    }

    fn frames(&self, live: &Live) -> Vec<PhysAddr> {
        let translate = |page| {
            self.mmu().access(
                live.start.offset(page as u64 * PAGE_SIZE),
                Want::Write,
                Privilege::Kernel,
            )
        };
        (0..live.pages).map(|page| translate(page).expect("a live page translates")).collect()
    }

    fn compare(&self) {
        for live in &self.live {
            let frames = self.frames(live);
            if live.ram {
                assert!(
                    frames.into_iter().eq(self.ram[..live.pages].iter().map(OwnedFrame::address))
                );
                continue;
            }
            for va in words(live) {
                let pa = self
                    .mmu()
                    .access(va, Want::Read, Privilege::Kernel)
                    .expect("a live page translates");
                let frame = PhysAddr(pa.0 & !(PAGE_SIZE - 1));
                // SAFETY: a word inside a frame of a live area, of which there are no references.
                let word = unsafe {
                    self.kernel
                        .machine()
                        .data(frame)
                        .add((pa.0 - frame.0) as usize)
                        .cast::<u64>()
                        .read()
                };
                assert_eq!(word, live.mark, "{live:?}");
            }
            let guard = self.mmu().access(
                live.start.offset(live.pages as u64 * PAGE_SIZE),
                Want::Read,
                Privilege::Kernel,
            );
            assert!(
                matches!(guard, Err(Fault::NotPresent(_))),
                "the guard page of {live:?} translates"
            );
        }
    }

    /// The kernel's tables are out of reach of a store outside a window, exactly if they are protected.
    fn assert_tables_refuse_stores(&self) {
        let memory = self.kernel.machine().memory();
        let root = memory.linear_address(self.kernel.paging().kernel().frame());
        let access = self.mmu().access(root, Want::Write, Privilege::Kernel).map(|_| ());
        let by_alias = self.kernel.machine().backend().scheme() == Scheme::Alias;
        match (self.kernel.paging().mode().protects(), by_alias) {
            (false, _) => assert_eq!(access, Ok(())),
            (true, false) => assert_eq!(access, Err(Fault::Key(Pkey::PAGE_TABLES))),
            (true, true) => assert!(matches!(access, Err(Fault::Permission(_))), "{access:?}"),
        }
    }

    fn finish(mut self) {
        self.assert_tables_refuse_stores();
        while !self.live.is_empty() {
            self.free(0);
        }
        self.kernel.purge_vmalloc();
        self.assert_freed_is_gone();
        self.ram.drain(..).for_each(|frame| self.kernel.frames().free_frame(frame));
        assert_every_frame_accounted_for(self.kernel, &[], 0);
    }
}

/// The second word of the first page, and the last word.
fn words(live: &Live) -> [VirtAddr; 2] {
    [live.start.offset(8), VirtAddr(live.start.offset(live.pages as u64 * PAGE_SIZE).0 - 8)]
}

fn flushes<M: Modelled>(kernel: &Kernel<M>) -> u64 {
    let counts = kernel.machine().probe().read();
    counts.of(Event::TlbFlush) - counts.of(Event::KeyChange)
}

/// Carries out a sequence; the model must say the same after every operation.
pub fn carry_out<M: Modelled>(kernel: &Kernel<M>, operations: impl IntoIterator<Item = Operation>) {
    let mut pair = Pair::new(kernel);
    for operation in operations {
        pair.apply(operation);
        pair.compare();
    }
    pair.finish();
}

fn run<M: Modelled>(mode: Mode, boot: impl Fn() -> Kernel<M>) {
    let config = Config { cases: SEQUENCES, failure_persistence: None, ..Config::default() };
    let sequence = prop::collection::vec(operation(), OPERATIONS);
    let result = TestRunner::new(config).run(&sequence, |operations| {
        carry_out(&boot(), operations);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{mode:?}: {failure}"));
}

fn areas_do_what_the_model_does_off<F: HostedFormat>() {
    run(Mode::Off, || guarded::<F>(Mode::Off, PAGES));
}

fn areas_do_what_the_model_does_unbatched<F: HostedFormat>() {
    run(Mode::Unbatched, || guarded::<F>(Mode::Unbatched, PAGES));
}

fn areas_do_what_the_model_does_batched<F: HostedFormat>() {
    run(Mode::Batched, || guarded::<F>(Mode::Batched, PAGES));
}

fn areas_do_what_the_model_does_fused<F: HostedFormat>() {
    run(Mode::Fused, || guarded::<F>(Mode::Fused, PAGES));
}

fn areas_do_what_the_model_does_unbatched_behind_an_alias<F: HostedFormat>() {
    run(Mode::Unbatched, || guarded_pan::<F>(Mode::Unbatched, PAGES));
}

fn areas_do_what_the_model_does_batched_behind_an_alias<F: HostedFormat>() {
    run(Mode::Batched, || guarded_pan::<F>(Mode::Batched, PAGES));
}

fn areas_do_what_the_model_does_fused_behind_an_alias<F: HostedFormat>() {
    run(Mode::Fused, || guarded_pan::<F>(Mode::Fused, PAGES));
}

for_both_formats!(
    areas_do_what_the_model_does_off,
    areas_do_what_the_model_does_unbatched,
    areas_do_what_the_model_does_batched,
    areas_do_what_the_model_does_fused,
    areas_do_what_the_model_does_unbatched_behind_an_alias,
    areas_do_what_the_model_does_batched_behind_an_alias,
    areas_do_what_the_model_does_fused_behind_an_alias,
);
