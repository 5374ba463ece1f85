//! What every process must read, by random histories against a plain model that knows nothing but that: of each page, what
//! it was mapped from and what was written to it.
//!
//! Where [`space_model`](crate::space_model) says where each page is, this says what is in it, after moves with and without keeping the
//! old mapping, forks that copy, skip and wipe, files shared and private. Fuzzing takes operations from bytes in place of chance, and has the
//! rest from here.

use std::collections::BTreeMap;

use kpkeys_hosted::HostedFormat;
use kpkeys_mm::{AddressSpace, Error, File, FilePages, Kernel, MapFlags, OnFork};
use kpkeys_pgtable::{Format, Mode, PageRange, PhysAddr, VirtAddr};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{
    Modelled, PAGE_SIZE, assert_every_frame_accounted_for, for_both_formats, guarded, guarded_pan,
    range,
};

/// Histories for each format and mode, and their length.
const HISTORIES: u32 = 48;
const OPERATIONS: usize = 48;
const PROCESSES: usize = 3;
pub const PAGES: usize = 2048;
/// Pages that histories touch: few, so that mappings meet often, around a place where tables of all levels end.
pub const REGION: usize = 40;
const START: u64 = (1 << 39) - 16 * PAGE_SIZE;
pub const FILE_PAGES: usize = 16;

#[derive(Clone, Copy, Debug)]
pub enum Operation {
    Mmap { span: Span, write: bool, file: Option<(usize, bool)> },
    Munmap(Span),
    Protect(Span, bool),
    Write { page: usize, value: u64 },
    Read(usize),
    Populate(Span),
    Discard(Span),
    MarkUnused(Span),
    Move { from: Span, to: Span, keeps_old: bool },
    OnFork(Span, OnFork),
    Fork,
    Exit,
}

#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub first: usize,
    pub pages: usize,
}

impl Span {
    fn range<F: HostedFormat>(self) -> PageRange<F> {
        range(address(self.first).0, self.pages)
    }

    fn all(self) -> std::ops::Range<usize> {
        self.first..self.first + self.pages
    }
}

fn operation() -> impl Strategy<Value = (usize, Operation)> {
    let span = || {
        (0..REGION, 1..12_usize)
            .prop_map(|(first, pages)| Span { first, pages: pages.min(REGION - first) })
    };
    let on_fork =
        prop_oneof![2 => Just(OnFork::Copy), 1 => Just(OnFork::Skip), 1 => Just(OnFork::Wipe)];
    let file = prop::option::weighted(0.3, (0..FILE_PAGES, any::<bool>()));
    let operation = prop_oneof![
        5 => (span(), prop::bool::weighted(0.9), file)
            .prop_map(|(span, write, file)| Operation::Mmap { span, write, file }),
        1 => span().prop_map(Operation::Munmap),
        1 => (span(), prop::bool::weighted(0.8)).prop_map(|(span, write)| Operation::Protect(span, write)),
        9 => (0..REGION, any::<u64>()).prop_map(|(page, value)| Operation::Write { page, value }),
        3 => (0..REGION).prop_map(Operation::Read),
        1 => span().prop_map(Operation::Populate),
        1 => span().prop_map(Operation::Discard),
        1 => span().prop_map(Operation::MarkUnused),
        // Next to where it was, half of the time.
        3 => (span(), span(), any::<bool>()).prop_map(|(from, to, keeps_old)| Operation::Move { from, to, keeps_old }),
        3 => (span(), any::<bool>()).prop_map(|(from, keeps_old)| {
            let first = from.first + from.pages;
            let to = Span { first: first % REGION, pages: from.pages.min(REGION - first % REGION) };
            Operation::Move { from, to, keeps_old }
        }),
        1 => (span(), on_fork).prop_map(|(span, on_fork)| Operation::OnFork(span, on_fork)),
        3 => Just(Operation::Fork),
        1 => Just(Operation::Exit),
    ];
    (0..PROCESSES, operation)
}

fn address(page: usize) -> VirtAddr {
    VirtAddr(START).offset(page as u64 * PAGE_SIZE)
}

/// A page of a mapping.
#[derive(Clone, Copy, Debug)]
struct Page {
    write: bool,
    on_fork: OnFork,
    /// The file's page, and whether writes go there.
    file: Option<(usize, bool)>,
    /// What this process wrote, or a process it was forked from.
    own: Option<u64>,
}

impl Page {
    /// The page of the same mapping that many pages further on, never written.
    fn further(self, pages: usize) -> Page {
        Page { file: self.file.map(|(page, shared)| (page + pages, shared)), own: None, ..self }
    }
}

type Pages = BTreeMap<usize, Page>;

struct Pair<'k, M: Modelled> {
    kernel: &'k Kernel<M>,
    file: &'k File,
    /// What the file holds.
    contents: [u64; FILE_PAGES],
    processes: Vec<(AddressSpace<'k, M>, Pages)>,
}

impl<'k, M: Modelled> Pair<'k, M> {
    fn new(kernel: &'k Kernel<M>, file: &'k File) -> Self {
        let first = (AddressSpace::new(kernel).expect("memory"), Pages::new());
        Pair { kernel, file, contents: [0; FILE_PAGES], processes: vec![first] }
    }

    fn apply(&mut self, process: usize, operation: Operation) {
        let process = process % self.processes.len();
        let file = self.file;
        let may_fork = self.processes.len() < PROCESSES;
        let (space, pages) = &mut self.processes[process];
        match operation {
            Operation::Mmap { span, write, file: from } => {
                let flags = MapFlags { write, ..MapFlags::DATA };
                let mapped = match from {
                    None => space.mmap(span.range(), flags),
                    Some((first, shared)) => {
                        space.mmap_file(span.range(), flags, FilePages { file, first, shared })
                    }
                };
                let first = Page { write, on_fork: OnFork::Copy, file: from, own: None };
                if mapped.is_ok() {
                    pages.extend(span.all().zip(0..).map(|(page, by)| (page, first.further(by))));
                } else {
                    assert!(span.all().any(|page| pages.contains_key(&page)), "{mapped:?}");
                }
            }
            Operation::Munmap(span) => {
                space.munmap(span.range()).expect("inside the user half");
                pages.retain(|page, _| !span.all().contains(page));
            }
            Operation::Protect(span, write) => {
                if space.mprotect(span.range(), write).is_ok() {
                    pages.range_mut(span.all()).for_each(|(_, page)| page.write = write);
                }
            }
            Operation::OnFork(span, on_fork) => {
                if space.set_on_fork(span.range(), on_fork).is_ok() {
                    pages.range_mut(span.all()).for_each(|(_, page)| page.on_fork = on_fork);
                }
            }
            Operation::Write { page, value } => self.write(process, page, value),
            Operation::Read(page) => self.read(process, page),
            // Of files it says nothing.
            Operation::Populate(span) => {
                let anonymous = |page| pages.get(&page).is_some_and(|page| page.file.is_none());
                if span.all().all(anonymous) {
                    let populated = space.populate(span.range());
                    assert!(matches!(populated, Ok(()) | Err(Error::Forbidden(_))));
                }
            }
            Operation::Discard(span) => {
                space.discard(span.range());
                pages.range_mut(span.all()).for_each(|(_, page)| page.own = None);
            }
            Operation::MarkUnused(span) => space.mark_unused(span.range()).expect("user pages"),
            Operation::Move { from, to, keeps_old } => {
                if space.mremap(from.range(), to.range(), keeps_old).is_ok() {
                    moved(pages, from, to, keeps_old);
                }
            }
            Operation::Fork if may_fork => {
                let child = space.fork().expect("memory");
                let inherited = pages.iter().filter(|(_, page)| page.on_fork != OnFork::Skip);
                let own = |page: &Page| page.own.filter(|_| page.on_fork == OnFork::Copy);
                let inherited = inherited.map(|(&at, page)| (at, Page { own: own(page), ..*page }));
                let inherited = inherited.collect();
                self.processes.push((child, inherited));
            }
            Operation::Fork | Operation::Exit => {
                self.processes.swap_remove(process);
                if self.processes.is_empty() {
                    let space = AddressSpace::new(self.kernel).expect("memory");
                    self.processes.push((space, Pages::new()));
                }
            }
        }
    }

    /// What a process must read.
    fn expected(&self, page: &Page) -> u64 {
        let in_file = page.file.map(|(number, _)| self.contents[number % FILE_PAGES]);
        page.own.or(in_file).unwrap_or(0)
    }

    fn write(&mut self, process: usize, at: usize, value: u64) {
        let (space, pages) = &mut self.processes[process];
        let allowed = pages.get(&at).is_some_and(|page| page.write);
        assert_eq!(space.fault(address(at), true).is_ok(), allowed, "page {at}");
        let Some(page) = pages.get_mut(&at).filter(|page| page.write) else { return };
        match page.file {
            Some((number, true)) => self.contents[number % FILE_PAGES] = value,
            _ => page.own = Some(value),
        }
        let frame = present(space, at).expect("a page that was faulted in");
        self.kernel.frames().will_write(frame);
        // SAFETY: a frame of data that is mapped, of which there are no references.
        unsafe { self.kernel.machine().data(frame).cast::<u64>().write(value) };
    }

    fn read(&mut self, process: usize, at: usize) {
        let (space, pages) = &mut self.processes[process];
        assert_eq!(space.fault(address(at), false).is_ok(), pages.contains_key(&at), "page {at}");
    }

    /// Whatever is there is what must be read.
    fn compare(&self) {
        for (process, (space, pages)) in self.processes.iter().enumerate() {
            for at in 0..REGION {
                let Some(frame) = present(space, at) else { continue };
                let page = pages.get(&at).unwrap_or_else(|| panic!("process {process} page {at}"));
                // SAFETY: as in `write`.
                let value = unsafe { self.kernel.machine().data(frame).cast::<u64>().read() };
                assert_eq!(value, self.expected(page), "process {process} page {at}");
            }
        }
    }

    /// Every process reads every page.
    fn finish(mut self) {
        for process in 0..self.processes.len() {
            (0..REGION).for_each(|at| self.read(process, at));
            self.compare();
        }
        self.processes.clear();
        assert_every_frame_accounted_for(self.kernel, &[], FILE_PAGES);
    }
}

/// The frame of a page that is there.
fn present<M: Modelled>(space: &AddressSpace<'_, M>, at: usize) -> Option<PhysAddr> {
    let (level, _, entry) = space.kernel().paging().walk(space.root(), address(at))?;
    Some(M::Format::frame(level, entry))
}

fn moved(pages: &mut Pages, from: Span, to: Span, keeps_old: bool) {
    let first = pages[&from.first];
    let before: Vec<Page> = from.all().map(|at| pages[&at]).collect();
    let now = (0..to.pages).map(|page| *before.get(page).unwrap_or(&first.further(page)));
    let now: Vec<_> = to.all().zip(now).collect();
    let in_place = from.first == to.first;
    let kept = if keeps_old && !in_place { from.pages.min(to.pages) } else { 0 };
    for (page, at) in from.all().enumerate() {
        if page < kept {
            pages.get_mut(&at).expect("a page that moves").own = None;
        } else {
            pages.remove(&at);
        }
    }
    pages.retain(|at, _| !to.all().contains(at));
    pages.extend(now);
}

/// Carries out a history; after every operation, whatever is there is what must be read.
pub fn carry_out<M: Modelled>(
    kernel: &Kernel<M>,
    operations: impl IntoIterator<Item = (usize, Operation)>,
) {
    let file = kernel.new_file(FILE_PAGES, 4).expect("memory");
    let mut pair = Pair::new(kernel, &file);
    for (process, operation) in operations {
        pair.apply(process, operation);
        pair.compare();
    }
    pair.finish();
    kernel.close_file(file);
}

fn run<M: Modelled>(mode: Mode, boot: impl Fn() -> Kernel<M>) {
    let config = Config { cases: HISTORIES, failure_persistence: None, ..Config::default() };
    let history = prop::collection::vec(operation(), OPERATIONS);
    let result = TestRunner::new(config).run(&history, |operations| {
        carry_out(&boot(), operations);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{mode:?}: {failure}"));
}

fn every_process_reads_what_it_must<F: HostedFormat>() {
    Mode::ALL.into_iter().for_each(|mode| run(mode, || guarded::<F>(mode, PAGES)));
}

fn every_process_reads_what_it_must_behind_an_alias<F: HostedFormat>() {
    let protecting = Mode::ALL.into_iter().filter(|mode| mode.protects());
    protecting.for_each(|mode| run(mode, || guarded_pan::<F>(mode, PAGES)));
}

/// The old mapping, without pages, and the new one meet and are one: what that one owns must reach the child.
fn a_child_has_what_moved_next_to_where_it_was<F: HostedFormat>() {
    for mode in Mode::ALL {
        let kernel = guarded::<F>(mode, PAGES);
        let file = kernel.new_file(FILE_PAGES, 4).expect("memory");
        let mut pair = Pair::new(&kernel, &file);
        let [from, to] = [4, 8].map(|first| Span { first, pages: 4 });
        let steps = [
            Operation::Mmap { span: from, write: true, file: None },
            Operation::Write { page: 5, value: 7 },
            Operation::Move { from, to, keeps_old: true },
            Operation::Fork,
            Operation::Exit,
            Operation::Read(9),
        ];
        for step in steps {
            pair.apply(0, step);
        }
        pair.compare();
        let page = pair.processes[0].1[&9];
        assert_eq!(pair.expected(&page), 7, "{mode:?}");
        assert!(present(&pair.processes[0].0, 9).is_some());
        pair.finish();
        kernel.close_file(file);
    }
}

for_both_formats!(
    every_process_reads_what_it_must,
    every_process_reads_what_it_must_behind_an_alias,
    a_child_has_what_moved_next_to_where_it_was,
);
