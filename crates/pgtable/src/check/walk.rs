//! The walk over every table, and what it holds each entry against.

use kpkeys::Pkey;

use super::{Finding, Report, Scratch};
use crate::addr::{Level, PhysAddr, VirtAddr};
use crate::entry::{Entry, Format, root_address};
use crate::guarded::{FrameType, Kind, LeafRule};
use crate::machine::{Frames, Machine, Memory};
use crate::paging::{Paging, Root};
use crate::section::Space;
use crate::table::Table;

/// What is wrong with a page-table page in the linear map.
enum Gap {
    /// This is its key there; `None` if it is not mapped there.
    Key(Option<Pkey>),
    /// Its key is that of the other page tables.
    Others(Pkey),
    /// It can be written there, and needs an alias for that.
    Writable,
}

pub(super) struct Walk<'a, M: Machine, F: Frames> {
    paging: &'a Paging<M, F>,
    memory: Memory<M::Format>,
    pub(super) report: Report,
    found: &'a mut dyn FnMut(Finding),
}

impl<'a, M: Machine, F: Frames> Walk<'a, M, F> {
    pub(super) fn new(paging: &'a Paging<M, F>, found: &'a mut dyn FnMut(Finding)) -> Self {
        Walk { paging, memory: paging.machine().memory(), report: Report::default(), found }
    }

    fn find(&mut self, finding: Finding) {
        self.report.findings += 1;
        (self.found)(finding);
    }

    pub(super) fn mark_tables(
        &mut self,
        root: &Root,
        entries: core::ops::Range<usize>,
        marks: &mut Scratch<'_>,
    ) {
        self.mark(root.frame(), M::Format::ROOT, VirtAddr(0), marks);
        self.check_type(
            root.frame(),
            FrameType::linked(M::Format::ROOT, Kind::of_root(root.space())),
        );
        self.mark_below(root, self.paging.root_table(root), M::Format::ROOT, entries, 0, marks);
    }

    /// Entries of the half of a root that is not its own, other than `allowed`.
    pub(super) fn find_foreign_entries(
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
    pub(super) fn mark(
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
        if self.paging.is_protected() {
            match self.gap(frame) {
                None => {}
                Some(Gap::Key(key)) => self.find(Finding::UnprotectedPtp { frame, level, key }),
                Some(Gap::Others(key)) => self.find(Finding::OthersKey { frame, key }),
                Some(Gap::Writable) => self.find(Finding::WritablePtp { frame, level }),
            }
            self.check_alias(frame);
        }
        true
    }

    /// What the protection of a page lacks in the linear map.
    fn gap(&self, frame: PhysAddr) -> Option<Gap> {
        let key = self.paging.memory_pkey(frame);
        if self.paging.alias().is_none() || key.is_none() {
            let must = self.paging.key_of_protected(frame);
            return match key {
                Some(key) if key == must => None,
                Some(key) if self.is_of_tables(key) => Some(Gap::Others(key)),
                _ => Some(Gap::Key(key)),
            };
        }
        let (_, _, leaf) =
            self.paging.walk(self.paging.kernel(), self.memory.linear_address(frame))?;
        M::Format::is_writable(leaf).then_some(Gap::Writable)
    }

    /// Whether a key is one that page tables carry.
    fn is_of_tables(&self, key: Pkey) -> bool {
        key == Pkey::PAGE_TABLES || self.paging.separates_user_tables() && key == Pkey::USER_TABLES
    }

    /// Whether a page-table page has the alias it must have, if it must have one.
    fn check_alias(&mut self, frame: PhysAddr) {
        let Some(alias) = self.paging.alias() else { return };
        let address = alias.address(frame);
        let found = self.paging.walk(self.paging.alias_root(), address);
        let (level, entry) = found.map_or((Level::Pte, Entry::EMPTY), |leaf| (leaf.0, leaf.2));
        let first = VirtAddr(address.0 & !(level.entry_bytes::<M::Format>() - 1));
        if entry != alias.entry(level, first) {
            self.find(Finding::WrongAlias { frame, address, entry });
        }
    }

    fn mark_below(
        &mut self,
        root: &Root,
        table: Table<'_, M::Format>,
        level: Level,
        entries: core::ops::Range<usize>,
        base: u64,
        marks: &mut Scratch<'_>,
    ) {
        let Some(below) = level.below() else { return };
        for index in entries {
            let entry = table.slot(index).load();
            let address = address_of::<M::Format>(root, base, level, index);
            if !M::Format::is_table(level, entry) {
                continue;
            }
            let frame = M::Format::frame(level, entry);
            if !self.memory.contains(frame, 1) {
                self.find(Finding::StrayTable { address: VirtAddr(address), entry });
            } else if self.mark(frame, below, VirtAddr(address), marks)
                && let Some(lower) = self.paging.lower_table(level, entry)
            {
                let kind = self.paging.kind(root, level, VirtAddr(address));
                self.check_type(frame, FrameType::linked(below, kind));
                self.mark_below(root, lower, below, 0..M::Format::ENTRIES, address, marks);
            }
        }
    }

    /// Recorded pages that no root leads to.
    pub(super) fn mark_foreign(&mut self, marks: &mut Scratch<'_>) {
        for (start, pages) in self.paging.foreign_ptps().iter() {
            for page in 0..pages as u64 {
                let frame = start.offset(page * M::Format::PAGE_SIZE);
                if !marks.is_marked(self.memory.frame_number(frame)) {
                    self.mark(frame, M::Format::ROOT, VirtAddr(0), marks);
                }
            }
        }
    }

    /// Pages that wait in the pool carry the key and are not linked anywhere.
    pub(super) fn mark_spares(&mut self, marks: &mut Scratch<'_>) {
        let paging = self.paging;
        paging.for_each_keyed_spare(&mut |frame| {
            if marks.mark(self.memory.frame_number(frame)) {
                self.report.spare += 1;
                match self.gap(frame) {
                    None => {}
                    Some(Gap::Key(key)) => self.find(Finding::UnprotectedSpare { frame, key }),
                    Some(Gap::Others(key)) => self.find(Finding::OthersKey { frame, key }),
                    Some(Gap::Writable) => self.find(Finding::WritableSpare { frame }),
                }
                self.check_type(frame, paging.class_of_frame(frame).spare());
                self.check_alias(frame);
            } else {
                self.find(Finding::SharedPtp { frame, address: VirtAddr(0) });
            }
        });
    }

    /// Whether a frame is by its type what it was found to be.
    pub(super) fn check_type(&mut self, frame: PhysAddr, is: FrameType) {
        let says = self.paging.types().map(|types| types.of(frame));
        if let Some(says) = says.filter(|&says| says != is) {
            self.find(Finding::WrongType { frame, says, is: Some(is) });
        }
    }

    /// Frames that are said to be tables of the kernel's in use, and were not met. (Which address spaces there are the caller knows.)
    pub(super) fn find_wrong_types(&mut self, marks: &Scratch<'_>) {
        let Some(types) = self.paging.types() else { return };
        for number in (0..self.memory.pages).filter(|&number| !marks.is_marked(number)) {
            let frame = self.memory.frame(number);
            let says = types.of(frame);
            if let FrameType::Table { kind, linked: true, .. } = says
                && kind != Kind::User
            {
                self.find(Finding::WrongType { frame, says, is: None });
            }
        }
    }

    /// Whether a leaf outside the linear map and the alias may map what it maps.
    fn check_mapped(&mut self, root: &Root, level: Level, entry: Entry, address: VirtAddr) {
        let linear = self.memory.linear.0;
        let in_linear =
            address.0.wrapping_sub(linear) / M::Format::PAGE_SIZE < self.memory.pages as u64;
        let alias = self.paging.alias().filter(|alias| alias.is_in(root.space()));
        if in_linear || alias.is_some_and(|alias| alias.contains(address)) {
            return;
        }
        let Some(types) = self.paging.types() else { return };
        let space = if address.is_kernel() { Space::Kernel } else { Space::User };
        let rule = LeafRule::of::<M::Format>(space, entry);
        let first = M::Format::frame(level, entry);
        if let Some(frame) = rule.first_refused(types, first, level.entry_pages::<M::Format>()) {
            self.find(Finding::ForbiddenLeaf { frame, is: types.of(frame), address });
        }
        for page in 0..level.entry_pages::<M::Format>() {
            let frame = first.offset(page as u64 * M::Format::PAGE_SIZE);
            if types.of(frame) == FrameType::Data {
                self.find(Finding::UnmarkedLeaf {
                    frame,
                    address: address.offset_pages::<M::Format>(page),
                });
            }
        }
    }

    pub(super) fn find_keyed_data(&mut self, marks: &Scratch<'_>) {
        for number in 0..self.memory.pages {
            let frame = self.memory.frame(number);
            let key = self.paging.memory_pkey(frame);
            if !marks.is_marked(number) && key.is_some_and(|key| self.is_of_tables(key)) {
                self.find(Finding::KeyedData { frame });
            }
        }
    }

    pub(super) fn find_aliases(
        &mut self,
        root: &Root,
        entries: core::ops::Range<usize>,
        marks: &Scratch<'_>,
    ) {
        self.aliases_below(root, self.paging.root_table(root), M::Format::ROOT, entries, 0, marks);
    }

    fn aliases_below(
        &mut self,
        root: &Root,
        table: Table<'_, M::Format>,
        level: Level,
        entries: core::ops::Range<usize>,
        base: u64,
        marks: &Scratch<'_>,
    ) {
        for index in entries {
            let entry = table.slot(index).load();
            let address = address_of::<M::Format>(root, base, level, index);
            if M::Format::is_leaf(level, entry) {
                self.check_leaf(root, level, entry, address, marks);
            } else if M::Format::is_table(level, entry)
                && self.memory.contains(M::Format::frame(level, entry), 1)
                && let (Some(lower), Some(below)) =
                    (self.paging.lower_table(level, entry), level.below())
            {
                self.aliases_below(root, lower, below, 0..M::Format::ENTRIES, address, marks);
            }
        }
    }

    /// Whether a leaf of the linear map is what it must be, if it is one.
    fn check_linear_leaf(&mut self, level: Level, entry: Entry, address: VirtAddr) {
        let (first, memory) = (self.memory.linear.0, self.memory);
        let Some(offset) = address.0.checked_sub(first) else { return };
        if offset >= memory.pages as u64 * M::Format::PAGE_SIZE {
            return;
        }
        let attrs = M::Format::attrs(entry);
        let is_own = M::Format::frame(level, entry) == memory.start.offset(offset);
        if !is_own || attrs.user || attrs.execute {
            self.find(Finding::WrongLinearLeaf { address, entry });
        }
    }

    fn check_leaf(
        &mut self,
        root: &Root,
        level: Level,
        entry: Entry,
        address: u64,
        marks: &Scratch<'_>,
    ) {
        self.check_linear_leaf(level, entry, VirtAddr(address));
        self.check_mapped(root, level, entry, VirtAddr(address));
        let alias = self.paging.alias();
        // The protection register binds kernel pages alone: a key on a user page protects nothing. And without one it binds none.
        let is_bound = alias.is_none() && !M::Format::attrs(entry).user;
        let key = M::Format::key(entry);
        let is_harmless = |frame| {
            !M::Format::is_writable(entry) || is_bound && key == self.paging.key_of_protected(frame)
        };
        let start = M::Format::frame(level, entry);
        for page in 0..level.entry_pages::<M::Format>() as u64 {
            let (frame, address) = (
                start.offset(page * M::Format::PAGE_SIZE),
                VirtAddr(address + page * M::Format::PAGE_SIZE),
            );
            let memory = self.memory;
            let is_ptp = |frame| marks.is_marked(memory.frame_number(frame));
            // Whose alias this is, readable or writable.
            let owner = alias
                .filter(|alias| alias.is_in(root.space()))
                .and_then(|alias| alias.frame_at(address));
            if owner.is_some_and(|owner| !is_ptp(owner)) {
                self.find(Finding::AliasedData { frame, address });
            }
            if is_harmless(frame) || !self.memory.contains(frame, 1) {
                continue;
            }
            // The linear map itself was looked at page by page, and so was a page's own alias.
            let is_own = self.memory.linear_address(frame) == address || owner == Some(frame);
            if !is_own && is_ptp(frame) {
                self.find(Finding::WritableAlias { frame, address });
            }
        }
    }
}

/// The first address that an entry translates.
fn address_of<F: Format>(root: &Root, base: u64, level: Level, index: usize) -> u64 {
    if level == F::ROOT {
        let is_lower = matches!(root.space(), Space::User | Space::Alias);
        root_address::<F>(index, !is_lower)
    } else {
        base | (index as u64) << level.shift::<F>()
    }
}
