//! User address spaces against a plain model, by random sequences of everything a process can ask for.
//!
//! The model knows no page tables: for each process and page, which mapping it is in, whether it is there, in which frame, what it
//! holds, and whether it may be written without a fault. After every operation the MMU model must say the same of the real tables.
//!
//! Fuzzing takes operations from bytes in place of chance, and has the rest from here.

use std::collections::{BTreeMap, BTreeSet};

use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::mmu::{Mmu, Privilege, Want};
use kpkeys_mm::{AddressSpace, Error, Kernel, MapFlags};
use kpkeys_pgtable::{Mode, PageRange, PhysAddr, VirtAddr};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{
    Modelled, PAGE_SIZE, assert_every_frame_accounted_for, for_both_formats, guarded, guarded_pan,
    range,
};

/// Sequences for each format and mode, and their length.
const SEQUENCES: u32 = 24;
const OPERATIONS: usize = 64;
const _: () = assert!(SEQUENCES as usize * OPERATIONS * Mode::ALL.len() * 2 >= 10_000);

const PROCESSES: usize = 3;
/// Frames for three processes with every page of the region in a frame of its own, twice over, so that 2 MiB are always to be had.
pub const PAGES: usize = 8192;
/// Pages that sequences touch: two whole PTE tables, and a little on either side.
pub const REGION: usize = EDGE + 2 * 512 + EDGE;
pub const EDGE: usize = 64;
/// The first page lies below 512 GiB, so that even PUD tables differ.
const START: u64 = (1 << 39) - EDGE as u64 * PAGE_SIZE;

#[derive(Clone, Debug)]
pub enum Operation {
    Mmap {
        first: usize,
        pages: usize,
        write: bool,
        huge: bool,
    },
    Munmap {
        first: usize,
        pages: usize,
    },
    Mprotect {
        first: usize,
        pages: usize,
        write: bool,
    },
    /// Nobody may use the range any more, or again.
    Withhold {
        first: usize,
        pages: usize,
        withhold: bool,
    },
    Populate {
        first: usize,
        pages: usize,
    },
    Discard {
        first: usize,
        pages: usize,
    },
    Fault {
        page: usize,
        write: bool,
    },
    /// A program's store: the access, the fault if there is one, the access again.
    Store {
        page: usize,
        value: u64,
    },
    Fork,
    Exit,
}

/// An operation, and the process that asks for it.
fn operation() -> impl Strategy<Value = (usize, Operation)> {
    let span = || {
        let pages = prop_oneof![4 => 1..24_usize, 1 => 1..=REGION];
        (0..REGION, pages).prop_map(|(first, pages)| (first, pages.min(REGION - first)))
    };
    let page = 0..REGION;
    let operation = prop_oneof![
        3 => (span(), any::<bool>(), any::<bool>()).prop_map(|((first, pages), read_only, huge)| {
            Operation::Mmap { first, pages, write: !read_only || huge, huge }
        }),
        // Of a size that large folios fit.
        2 => (0..EDGE, any::<bool>()).prop_map(|(first, huge)| {
            Operation::Mmap { first, pages: REGION - first - 8, write: true, huge }
        }),
        2 => span().prop_map(|(first, pages)| Operation::Munmap { first, pages }),
        2 => (span(), any::<bool>()).prop_map(|((first, pages), write)| Operation::Mprotect { first, pages, write }),
        2 => (span(), any::<bool>()).prop_map(|((first, pages), withhold)| Operation::Withhold { first, pages, withhold }),
        3 => span().prop_map(|(first, pages)| Operation::Populate { first, pages }),
        1 => span().prop_map(|(first, pages)| Operation::Discard { first, pages }),
        3 => (page.clone(), any::<bool>()).prop_map(|(page, write)| Operation::Fault { page, write }),
        6 => (page, any::<u64>()).prop_map(|(page, value)| Operation::Store { page, value }),
        2 => Just(Operation::Fork),
        1 => Just(Operation::Exit),
    ];
    (0..PROCESSES, operation)
}

/// A frame, by the folio it belongs to and its place in it.
type Frame = (usize, usize);

#[derive(Clone, Debug)]
struct Page {
    write: bool,
    huge: bool,
    withheld: bool,
    /// Its mapping has or had a page of its own; one mapping's pages all say the same.
    owned: bool,
    present: Option<Present>,
}

impl Page {
    /// Neighbours of one kind are in one mapping, whether or not they were mapped together.
    fn is_like(&self, other: &Page) -> bool {
        (self.write, self.huge, self.withheld) == (other.write, other.huge, other.withheld)
    }
}

/// The folio of the page of zeroes.
const ZEROES: usize = 0;

#[derive(Clone, Copy, Debug)]
struct Present {
    frame: Frame,
    value: u64,
    /// A store needs no fault.
    writable: bool,
}

/// One process of the model.
#[derive(Clone, Default)]
struct Process {
    pages: BTreeMap<usize, Page>,
}

/// All processes of the model, and what they share.
#[derive(Default)]
struct Model {
    processes: Vec<Process>,
    /// Pages of each folio, and how many mapped entries refer to it.
    folios: BTreeMap<usize, (usize, usize)>,
    next_number: usize,
}

impl Model {
    fn number(&mut self) -> usize {
        self.next_number += 1;
        self.next_number
    }

    fn unmap(&mut self, process: usize, pages: impl Iterator<Item = usize>) {
        for page in pages {
            let present =
                self.processes[process].pages.get_mut(&page).and_then(|page| page.present.take());
            if let Some(present) = present {
                self.forget(present.frame);
            }
        }
    }

    fn forget(&mut self, frame: Frame) {
        let (_, references) = self.folios.get_mut(&frame.0).expect("a mapped frame has a folio");
        *references -= 1;
        if *references == 0 {
            self.folios.remove(&frame.0);
        }
    }

    /// The pages of the mapping that a page is in.
    fn mapping(&self, process: usize, page: usize) -> std::ops::Range<usize> {
        let pages = &self.processes[process].pages;
        let like = |other: &usize| pages.get(other).is_some_and(|it| it.is_like(&pages[&page]));
        let first = (0..page).rev().take_while(like).last().unwrap_or(page);
        first..(page..REGION).take_while(like).last().unwrap_or(page) + 1
    }

    /// Mappings that have met are one, and own pages if one of them did.
    fn join(&mut self, process: usize) {
        let mut page = 0;
        while page < REGION {
            if !self.processes[process].pages.contains_key(&page) {
                page += 1;
                continue;
            }
            let mapping = self.mapping(process, page);
            let pages = || mapping.clone();
            if pages().any(|page| self.processes[process].pages[&page].owned) {
                self.own(process, pages());
            }
            page = mapping.end;
        }
    }

    fn own(&mut self, process: usize, pages: std::ops::Range<usize>) {
        let pages = self.processes[process].pages.range_mut(pages);
        pages.for_each(|(_, page)| page.owned = true);
    }

    /// The first page of a range that is in no mapping.
    fn gap(&self, process: usize, first: usize, pages: usize) -> Option<usize> {
        (first..first + pages).find(|page| !self.processes[process].pages.contains_key(page))
    }

    fn mmap(
        &mut self,
        process: usize,
        first: usize,
        pages: usize,
        write: bool,
        huge: bool,
    ) -> Result<(), Error> {
        if self.processes[process].pages.range(first..first + pages).next().is_some() {
            return Err(Error::Occupied(address(first), pages));
        }
        let new = Page { write, huge, withheld: false, owned: false, present: None };
        let new = (first..first + pages).map(|page| (page, new.clone()));
        self.processes[process].pages.extend(new);
        self.join(process);
        Ok(())
    }

    fn munmap(&mut self, process: usize, first: usize, pages: usize) {
        self.unmap(process, first..first + pages);
        self.processes[process].pages.retain(|page, _| !(first..first + pages).contains(page));
    }

    fn mprotect(
        &mut self,
        process: usize,
        first: usize,
        pages: usize,
        write: bool,
    ) -> Result<(), Error> {
        if let Some(gap) = self.gap(process, first, pages) {
            return Err(Error::NotMapped(address(gap)));
        }
        for (_, page) in self.processes[process].pages.range_mut(first..first + pages) {
            page.write = write;
            if let Some(present) = &mut page.present {
                // Permission is taken at once, and given by the next fault.
                present.writable &= write;
            }
        }
        self.join(process);
        Ok(())
    }

    fn withhold(
        &mut self,
        process: usize,
        first: usize,
        pages: usize,
        withhold: bool,
    ) -> Result<(), Error> {
        if let Some(gap) = self.gap(process, first, pages) {
            return Err(Error::NotMapped(address(gap)));
        }
        for page in first..first + pages {
            let now = self.processes[process].pages.get_mut(&page).expect("there is no gap");
            if now.withheld == withhold {
                continue;
            }
            now.withheld = withhold;
            if let Some(present) = &mut now.present {
                present.writable = false;
            }
            if !now.owned {
                // What owns no page is found again where it was.
                self.unmap(process, page..page + 1);
            }
        }
        self.join(process);
        Ok(())
    }

    fn populate(&mut self, process: usize, first: usize, pages: usize) -> Result<(), Error> {
        if let Some(gap) = self.gap(process, first, pages) {
            return Err(Error::NotMapped(address(gap)));
        }
        for page in first..first + pages {
            self.own(process, self.mapping(process, page));
        }
        for page in first..first + pages {
            let now = &self.processes[process].pages[&page];
            if !now.write || now.withheld {
                return Err(Error::Forbidden(address(page)));
            }
            if now.present.is_none() {
                self.first_touch(process, page);
            }
        }
        Ok(())
    }

    /// A large folio if the mapping asks for it, reaches over the whole 2 MiB, and none of them is there yet; a page otherwise.
    fn first_touch(&mut self, process: usize, page: usize) {
        let folio = self.number();
        let mapping = self.mapping(process, page);
        let pages = &mut self.processes[process].pages;
        let Page { write, huge, .. } = pages[&page];
        let table = (page + 512 - EDGE) / 512 * 512;
        let whole = table.saturating_sub(512 - EDGE)..table + EDGE;
        let fits = huge
            && whole.len() == 512
            && whole.clone().all(|page| mapping.contains(&page) && pages[&page].present.is_none());
        let touched = if fits { whole } else { page..page + 1 };
        self.folios.insert(folio, (touched.len(), touched.len()));
        for (index, page) in touched.enumerate() {
            let present = Present { frame: (folio, index), value: 0, writable: write };
            pages.get_mut(&page).expect("in the mapping").present = Some(present);
        }
    }

    /// Reading what was never written.
    fn map_zeroes(&mut self, process: usize, page: usize) {
        // The kernel keeps it, whoever maps it.
        self.folios.entry(ZEROES).or_insert((1, 1)).1 += 1;
        let present = Present { frame: (ZEROES, 0), value: 0, writable: false };
        let page = self.processes[process].pages.get_mut(&page).expect("a page of a mapping");
        page.present = Some(present);
    }

    fn fault(&mut self, process: usize, page: usize, write: bool) -> Result<(), Error> {
        let Some(now) = self.processes[process].pages.get(&page) else {
            return Err(Error::NotMapped(address(page)));
        };
        if now.withheld || write && !now.write {
            return Err(Error::Forbidden(address(page)));
        }
        let (present, huge) = (now.present, now.huge);
        if write || huge {
            self.own(process, self.mapping(process, page));
        }
        match present {
            None if !write && !huge => self.map_zeroes(process, page),
            None => self.first_touch(process, page),
            Some(present) if write && !present.writable => {
                self.make_writable(process, page, present)
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Copies a page unless it is a folio of its own that nobody else refers to.
    fn make_writable(&mut self, process: usize, page: usize, now: Present) {
        let frame = if self.folios[&now.frame.0] == (1, 1) {
            now.frame
        } else {
            let copy = self.number();
            self.folios.insert(copy, (1, 1));
            self.forget(now.frame);
            (copy, 0)
        };
        let page = self.processes[process].pages.get_mut(&page).expect("a page that is there");
        page.present = Some(Present { frame, writable: true, ..now });
    }

    fn fork(&mut self, process: usize) {
        for page in self.processes[process].pages.values_mut().filter(|page| page.owned) {
            if let Some(present) = &mut page.present {
                present.writable = false;
                self.folios.get_mut(&present.frame.0).expect("a mapped frame has a folio").1 += 1;
            }
        }
        let mut child = self.processes[process].clone();
        // What owns no page is found again where it was.
        child.pages.values_mut().filter(|page| !page.owned).for_each(|page| page.present = None);
        self.processes.push(child);
    }

    fn exit(&mut self, process: usize) {
        self.unmap(process, 0..REGION);
        self.processes.swap_remove(process);
    }

    /// Frames of data in use, besides the page of zeroes.
    fn frames(&self) -> usize {
        let folios = self.folios.iter().filter(|(number, _)| **number != ZEROES);
        folios.map(|(_, (pages, _))| pages).sum()
    }
}

fn address(page: usize) -> VirtAddr {
    VirtAddr(START).offset(page as u64 * PAGE_SIZE)
}

fn region<F: HostedFormat>(first: usize, pages: usize) -> PageRange<F> {
    range(address(first).0, pages)
}

/// The real thing beside the model.
struct Pair<'k, M: Modelled> {
    kernel: &'k Kernel<M>,
    model: Model,
    spaces: Vec<AddressSpace<'k, M>>,
}

impl<'k, M: Modelled> Pair<'k, M> {
    fn new(kernel: &'k Kernel<M>) -> Self {
        let mut pair = Pair { kernel, model: Model::default(), spaces: Vec::new() };
        pair.start_process();
        pair
    }

    fn start_process(&mut self) {
        self.spaces.push(AddressSpace::new(self.kernel).expect("memory"));
        self.model.processes.push(Process::default());
    }

    fn apply(&mut self, process: usize, operation: Operation) {
        let process = process % self.spaces.len();
        let may_fork = self.spaces.len() < PROCESSES;
        let (space, model) = (&mut self.spaces[process], &mut self.model);
        match operation {
            Operation::Mmap { first, pages, write, huge } => {
                let order = if huge { MapFlags::HUGE_DATA.order } else { 0 };
                let flags = MapFlags { write, execute: false, order };
                assert_eq!(
                    space.mmap(region(first, pages), flags),
                    model.mmap(process, first, pages, write, huge)
                );
            }
            Operation::Munmap { first, pages } => {
                assert_eq!(space.munmap(region(first, pages)), Ok(()));
                model.munmap(process, first, pages);
            }
            Operation::Mprotect { first, pages, write } => {
                assert_eq!(
                    space.mprotect(region(first, pages), write),
                    model.mprotect(process, first, pages, write)
                );
            }
            Operation::Withhold { first, pages, withhold } => {
                let range = region(first, pages);
                let done = if withhold { space.withhold(range) } else { space.permit_again(range) };
                assert_eq!(done, model.withhold(process, first, pages, withhold));
            }
            Operation::Populate { first, pages } => {
                assert_eq!(
                    space.populate(region(first, pages)),
                    model.populate(process, first, pages)
                );
            }
            Operation::Discard { first, pages } => {
                space.discard(region(first, pages));
                model.unmap(process, first..first + pages);
            }
            Operation::Fault { page, write } => {
                assert_eq!(space.fault(address(page), write), model.fault(process, page, write));
            }
            Operation::Store { page, value } => self.store(process, page, value),
            Operation::Fork if may_fork => {
                let child = space.fork().expect("memory");
                model.fork(process);
                self.spaces.push(child);
            }
            Operation::Fork | Operation::Exit => {
                self.spaces.swap_remove(process);
                model.exit(process);
                if self.spaces.is_empty() {
                    self.start_process();
                }
            }
        }
    }

    fn store(&mut self, process: usize, page: usize, value: u64) {
        if self.access(process, page, Want::Write).is_none() {
            let result = self.spaces[process].fault(address(page), true);
            assert_eq!(result, self.model.fault(process, page, true));
            if result.is_err() {
                return;
            }
        }
        let pa = self.access(process, page, Want::Write).expect("a store succeeds after its fault");
        self.kernel.frames().will_write(pa);
        // SAFETY: a page of the process's own, as the translation says, of which there are no references.
        unsafe { self.kernel.machine().data(pa).cast::<u64>().write(value) };
        let page =
            self.model.processes[process].pages.get_mut(&page).expect("a page that can be written");
        page.present.as_mut().expect("a page that can be written").value = value;
    }

    /// Where an access of the process goes.
    fn access(&self, process: usize, page: usize, want: Want) -> Option<PhysAddr> {
        let root = Some(self.spaces[process].root().frame());
        let mmu = Mmu::new(self.kernel.machine(), self.kernel.paging().kernel().frame(), root, 0);
        mmu.access(address(page), want, Privilege::User).ok()
    }

    /// The tables say of every page what the model says.
    fn compare(&self) {
        let (mut frames, mut addresses) = (BTreeMap::new(), BTreeSet::new());
        for (process, space) in self.spaces.iter().enumerate() {
            let pages = &self.model.processes[process].pages;
            for page in 0..REGION {
                let usable = pages.get(&page).filter(|page| !page.withheld);
                let expected = usable.and_then(|page| page.present);
                let read = self.access(process, page, Want::Read);
                let write = self.access(process, page, Want::Write);
                assert_eq!(read.is_some(), expected.is_some(), "process {process} page {page}");
                assert_eq!(
                    write.is_some(),
                    expected.is_some_and(|present| present.writable),
                    "process {process} page {page}"
                );
                assert_eq!(self.access(process, page, Want::Execute), None);
                let (Some(pa), Some(present)) = (read, expected) else { continue };
                // SAFETY: a frame of data that is mapped, of which there are no references.
                let value = unsafe { self.kernel.machine().data(pa).cast::<u64>().read() };
                assert_eq!(value, present.value, "process {process} page {page}");
                // Two pages are in one frame exactly if the model says so.
                addresses.insert(pa);
                assert_eq!(
                    *frames.entry(present.frame).or_insert(pa),
                    pa,
                    "process {process} page {page}"
                );
            }
            let present = pages.values().filter(|page| page.present.is_some()).count();
            assert_eq!(space.mapped_pages(), present);
            self.compare_mappings(space, pages);
        }
        assert_eq!(addresses.len(), frames.len(), "different frames are at different addresses");
    }

    fn compare_mappings(&self, space: &AddressSpace<'_, M>, pages: &BTreeMap<usize, Page>) {
        let mapped = space.mappings().flat_map(|(range, flags)| {
            (0..range.pages())
                .map(move |page| (range.start().offset_pages::<M::Format>(page), flags.write))
        });
        let expected = pages.iter().map(|(&page, now)| (address(page), now.write));
        assert!(mapped.eq(expected), "mappings differ");
    }

    fn finish(self) {
        let users: Vec<_> = self.spaces.iter().collect();
        assert_every_frame_accounted_for(self.kernel, &users, self.model.frames());
        drop(self.spaces);
        assert_every_frame_accounted_for(self.kernel, &[], 0);
    }
}

/// Carries out a sequence; the model must say the same after every operation.
pub fn carry_out<M: Modelled>(
    kernel: &Kernel<M>,
    operations: impl IntoIterator<Item = (usize, Operation)>,
) {
    let mut pair = Pair::new(kernel);
    for (process, operation) in operations {
        pair.apply(process, operation);
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

fn spaces_do_what_the_model_does_off<F: HostedFormat>() {
    run(Mode::Off, || guarded::<F>(Mode::Off, PAGES));
}

fn spaces_do_what_the_model_does_unbatched<F: HostedFormat>() {
    run(Mode::Unbatched, || guarded::<F>(Mode::Unbatched, PAGES));
}

fn spaces_do_what_the_model_does_batched<F: HostedFormat>() {
    run(Mode::Batched, || guarded::<F>(Mode::Batched, PAGES));
}

fn spaces_do_what_the_model_does_fused<F: HostedFormat>() {
    run(Mode::Fused, || guarded::<F>(Mode::Fused, PAGES));
}

fn spaces_do_what_the_model_does_unbatched_behind_an_alias<F: HostedFormat>() {
    run(Mode::Unbatched, || guarded_pan::<F>(Mode::Unbatched, PAGES));
}

fn spaces_do_what_the_model_does_batched_behind_an_alias<F: HostedFormat>() {
    run(Mode::Batched, || guarded_pan::<F>(Mode::Batched, PAGES));
}

fn spaces_do_what_the_model_does_fused_behind_an_alias<F: HostedFormat>() {
    run(Mode::Fused, || guarded_pan::<F>(Mode::Fused, PAGES));
}

for_both_formats!(
    spaces_do_what_the_model_does_off,
    spaces_do_what_the_model_does_unbatched,
    spaces_do_what_the_model_does_batched,
    spaces_do_what_the_model_does_fused,
    spaces_do_what_the_model_does_unbatched_behind_an_alias,
    spaces_do_what_the_model_does_batched_behind_an_alias,
    spaces_do_what_the_model_does_fused_behind_an_alias,
);
