//! The checker: walks every table and holds what it finds against what protection promises.
//!
//! What is promised, and so what is checked:
//!
//! 1. every page-table page reachable from a root carries [`Pkey::PAGE_TABLES`] in the linear map;
//! 2. nothing else does, except pages that wait in the pool to become page-table pages, and those recorded as made before
//!    keys worked, whether or not they are linked; and those all do;
//! 3. no mapping outside the linear map reaches a page-table page with write permission and without its key - or for user mode,
//!    which the key does not bind;
//! 4. no root has entries in a half that is not its own, except that user roots may hold the kernel root's own entries.
//!
//! The checker trusts nothing it reads: entries that point outside memory are findings too, and are not followed. It needs
//! that no table changes while it runs.

use core::fmt;

use kpkeys::Pkey;

use crate::addr::{ENTRIES, Level, PAGE_SIZE, PhysAddr, VirtAddr};
use crate::entry::{Entry, Format};
use crate::machine::{Frames, Machine, Memory};
use crate::paging::{KERNEL_HALF, Paging, Root, USER_HALF};
use crate::table::Table;

/// One thing that is not as promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// A page-table page does not carry the key: any kernel store changes it.
    UnprotectedPtp {
        /// The page.
        frame: PhysAddr,
        /// The level of its entries.
        level: Level,
        /// What the linear map says: another key, or not mapped there.
        key: Option<Pkey>,
    },
    /// A page that waits in the pool to become a page-table page does not carry the key.
    UnprotectedSpare {
        /// The page.
        frame: PhysAddr,
        /// What the linear map says: another key, or not mapped there.
        key: Option<Pkey>,
    },
    /// A page that is no page-table page carries the key: stores to it fault.
    KeyedData {
        /// The page.
        frame: PhysAddr,
    },
    /// A page-table page can be written through another address.
    WritableAlias {
        /// The page.
        frame: PhysAddr,
        /// The address it can be written through.
        address: VirtAddr,
    },
    /// An entry points outside memory where a table should be.
    StrayTable {
        /// The address the entry helps to translate.
        address: VirtAddr,
        /// The entry.
        entry: Entry,
    },
    /// A page is linked as a table twice, at different places, or is linked and waits in the pool.
    SharedPtp {
        /// The page.
        frame: PhysAddr,
        /// The second address it was found for.
        address: VirtAddr,
    },
    /// An entry of a root in a half that is not the root's: hardware would follow it, and nobody here stored it.
    ForeignRootEntry {
        /// The root.
        root: PhysAddr,
        /// The index of the entry.
        index: usize,
        /// The entry.
        entry: Entry,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::UnprotectedPtp { frame, level, key: Some(key) } => {
                write!(f, "{level:?} table at {frame:?} carries key {}", key.number())
            }
            Finding::UnprotectedPtp { frame, level, key: None } => {
                write!(f, "{level:?} table at {frame:?} is not in the linear map")
            }
            Finding::UnprotectedSpare { frame, key: Some(key) } => {
                write!(f, "{frame:?} waits in the pool with key {}", key.number())
            }
            Finding::UnprotectedSpare { frame, key: None } => {
                write!(f, "{frame:?} waits in the pool and is not in the linear map")
            }
            Finding::KeyedData { frame } => {
                write!(f, "{frame:?} carries the page-table key and is no page-table page")
            }
            Finding::WritableAlias { frame, address } => {
                write!(f, "page-table page {frame:?} is writable through {address:?}")
            }
            Finding::StrayTable { address, entry } => {
                write!(f, "{entry:?} for {address:?} points outside memory")
            }
            Finding::SharedPtp { frame, address } => {
                write!(f, "{frame:?} is linked again, for {address:?}")
            }
            Finding::ForeignRootEntry { root, index, entry } => {
                write!(f, "{entry:?} at index {index} of the root {root:?} is in the wrong half")
            }
        }
    }
}

/// What a check counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Page-table pages reached.
    pub ptps: usize,
    /// Pages that carry the key and wait in the pool.
    pub spare: usize,
    /// Things not as promised.
    pub findings: usize,
}

/// Memory the checker needs: one bit for each frame.
pub struct Scratch<'b> {
    bits: &'b mut [u64],
}

impl<'b> Scratch<'b> {
    /// Words of scratch memory that `memory` needs.
    pub const fn words(memory: &Memory) -> usize {
        memory.pages.div_ceil(64)
    }

    /// Scratch memory, whatever it holds. A check refuses one with fewer than [`words`](Self::words).
    pub fn new(bits: &'b mut [u64]) -> Self {
        bits.fill(0);
        Scratch { bits }
    }

    /// Marks a frame; false if it was marked before.
    fn mark(&mut self, number: usize) -> bool {
        let (word, bit) = (&mut self.bits[number / 64], 1 << (number % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn is_marked(&self, number: usize) -> bool {
        self.bits[number / 64] & (1 << (number % 64)) != 0
    }
}

/// Checks the kernel's tables and those of `users`, and passes each finding to `found`. Returns `None` if the scratch memory is too
/// small.
pub fn check<M: Machine, F: Frames>(
    paging: &Paging<M, F>,
    users: &[&Root],
    mut scratch: Scratch<'_>,
    mut found: impl FnMut(Finding),
) -> Option<Report> {
    let memory = paging.machine().memory();
    if scratch.bits.len() < Scratch::words(&memory) {
        return None;
    }
    let mut walk = Walk { paging, memory, report: Report::default(), found: &mut found };
    walk.mark_tables(paging.kernel(), KERNEL_HALF, &mut scratch);
    walk.find_foreign_entries(paging.kernel(), USER_HALF, |_| Entry::EMPTY);
    for user in users {
        walk.mark_tables(user, USER_HALF, &mut scratch);
        let kernel = paging.root_table(paging.kernel());
        let shared = M::Format::USER_ROOT_HAS_KERNEL_HALF;
        walk.find_foreign_entries(user, KERNEL_HALF, |index| {
            if shared { kernel.slot(index).load() } else { Entry::EMPTY }
        });
    }
    if paging.is_protected() {
        walk.mark_foreign(&mut scratch);
        walk.mark_spares(&mut scratch);
        walk.find_keyed_data(&scratch);
        walk.find_aliases(paging.kernel(), KERNEL_HALF, &scratch);
        for user in users {
            walk.find_aliases(user, USER_HALF, &scratch);
        }
    }
    Some(walk.report)
}

struct Walk<'a, M: Machine, F: Frames> {
    paging: &'a Paging<M, F>,
    memory: Memory,
    report: Report,
    found: &'a mut dyn FnMut(Finding),
}

impl<M: Machine, F: Frames> Walk<'_, M, F> {
    fn find(&mut self, finding: Finding) {
        self.report.findings += 1;
        (self.found)(finding);
    }

    fn mark_tables(
        &mut self,
        root: &Root,
        entries: core::ops::Range<usize>,
        marks: &mut Scratch<'_>,
    ) {
        self.mark(root.frame(), Level::Pgd, VirtAddr(0), marks);
        self.mark_below(self.paging.root_table(root), Level::Pgd, entries, 0, marks);
    }

    /// Entries of the half of a root that is not its own, other than `allowed`.
    fn find_foreign_entries(
        &mut self,
        root: &Root,
        half: core::ops::Range<usize>,
        allowed: impl Fn(usize) -> Entry,
    ) {
        let table = self.paging.root_table(root);
        for index in half {
            let entry = table.slot(index).load();
            if !entry.is_empty() && entry != allowed(index) {
                self.find(Finding::ForeignRootEntry { root: root.frame(), index, entry });
            }
        }
    }

    /// Counts and marks one table and checks its key. False if it was met before.
    fn mark(
        &mut self,
        frame: PhysAddr,
        level: Level,
        address: VirtAddr,
        marks: &mut Scratch<'_>,
    ) -> bool {
        if !marks.mark(self.memory.frame_number(frame)) {
            self.find(Finding::SharedPtp { frame, address });
            return false;
        }
        self.report.ptps += 1;
        let key = self.paging.memory_pkey(frame);
        if self.paging.is_protected() && key != Some(Pkey::PAGE_TABLES) {
            self.find(Finding::UnprotectedPtp { frame, level, key });
        }
        true
    }

    fn mark_below(
        &mut self,
        table: Table<'_>,
        level: Level,
        entries: core::ops::Range<usize>,
        base: u64,
        marks: &mut Scratch<'_>,
    ) {
        let Some(below) = level.below() else { return };
        for index in entries {
            let entry = table.slot(index).load();
            let address = address_of(base, level, index);
            if !M::Format::is_table(level, entry) {
                continue;
            }
            let frame = M::Format::frame(level, entry);
            if !self.memory.contains(frame, 1) {
                self.find(Finding::StrayTable { address: VirtAddr(address), entry });
            } else if self.mark(frame, below, VirtAddr(address), marks)
                && let Some(lower) = self.paging.lower_table(level, entry)
            {
                self.mark_below(lower, below, 0..ENTRIES, address, marks);
            }
        }
    }

    /// Recorded pages that no root leads to.
    fn mark_foreign(&mut self, marks: &mut Scratch<'_>) {
        for (start, pages) in self.paging.foreign_ptps().iter() {
            for page in 0..pages as u64 {
                let frame = start.offset(page * PAGE_SIZE);
                if !marks.is_marked(self.memory.frame_number(frame)) {
                    self.mark(frame, Level::Pgd, VirtAddr(0), marks);
                }
            }
        }
    }

    /// Pages that wait in the pool carry the key and are not linked anywhere.
    fn mark_spares(&mut self, marks: &mut Scratch<'_>) {
        let paging = self.paging;
        paging.ptps().for_each_keyed_spare(&mut |frame| {
            if marks.mark(self.memory.frame_number(frame)) {
                self.report.spare += 1;
                let key = paging.memory_pkey(frame);
                if key != Some(Pkey::PAGE_TABLES) {
                    self.find(Finding::UnprotectedSpare { frame, key });
                }
            } else {
                self.find(Finding::SharedPtp { frame, address: VirtAddr(0) });
            }
        });
    }

    fn find_keyed_data(&mut self, marks: &Scratch<'_>) {
        for number in 0..self.memory.pages {
            let frame = self.memory.frame(number);
            if !marks.is_marked(number) && self.paging.memory_pkey(frame) == Some(Pkey::PAGE_TABLES)
            {
                self.find(Finding::KeyedData { frame });
            }
        }
    }

    fn find_aliases(&mut self, root: &Root, entries: core::ops::Range<usize>, marks: &Scratch<'_>) {
        self.aliases_below(self.paging.root_table(root), Level::Pgd, entries, 0, marks);
    }

    fn aliases_below(
        &mut self,
        table: Table<'_>,
        level: Level,
        entries: core::ops::Range<usize>,
        base: u64,
        marks: &Scratch<'_>,
    ) {
        for index in entries {
            let entry = table.slot(index).load();
            let address = address_of(base, level, index);
            if M::Format::is_leaf(level, entry) {
                self.check_leaf(level, entry, address, marks);
            } else if M::Format::is_table(level, entry)
                && self.memory.contains(M::Format::frame(level, entry), 1)
                && let (Some(lower), Some(below)) =
                    (self.paging.lower_table(level, entry), level.below())
            {
                self.aliases_below(lower, below, 0..ENTRIES, address, marks);
            }
        }
    }

    fn check_leaf(&mut self, level: Level, entry: Entry, address: u64, marks: &Scratch<'_>) {
        // The protection register binds kernel pages alone: a key on a user page protects nothing.
        let is_bound = !M::Format::attrs(entry).user && M::Format::key(entry) == Pkey::PAGE_TABLES;
        if !M::Format::is_writable(entry) || is_bound {
            return;
        }
        let start = M::Format::frame(level, entry);
        for page in 0..level.entry_pages() as u64 {
            let (frame, address) =
                (start.offset(page * PAGE_SIZE), VirtAddr(address + page * PAGE_SIZE));
            if !self.memory.contains(frame, 1) {
                break;
            }
            // The linear map itself is compared key by key.
            let is_linear = self.memory.linear_address(frame) == address;
            if !is_linear && marks.is_marked(self.memory.frame_number(frame)) {
                self.find(Finding::WritableAlias { frame, address });
            }
        }
    }
}

/// The first address that an entry translates, sign-extended below the root.
fn address_of(base: u64, level: Level, index: usize) -> u64 {
    let address = base | (index as u64) << level.shift();
    if level == Level::Pgd { ((address as i64) << 16 >> 16) as u64 } else { address }
}
