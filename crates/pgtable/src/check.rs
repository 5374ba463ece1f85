//! The checker: walks every table and holds what it finds against what protection promises.
//!
//! What is promised, and so what is checked:
//!
//! 1. every page-table page reachable from a root carries [`Pkey::PAGE_TABLES`] in the linear map;
//! 2. nothing else does, except pages that wait in the pool to become page-table pages, and those recorded as made before
//!    keys worked, whether or not they are linked; and those all do;
//! 3. no mapping outside the linear map reaches a page-table page with write permission and without its key - or for user mode,
//!    which the key does not bind;
//! 4. the linear map maps each frame at its own address or not at all, for the kernel alone, and not to be executed;
//! 5. no root has entries in a half that is not its own, except that user roots may hold the kernel root's own entries, other than
//!    those of the alias.
//!
//! Where page tables are protected by an [alias](mod@crate::alias), what is said of the key above is said of these two:
//!
//! - in the linear map, page-table pages cannot be written;
//! - each has its alias, with exactly the entry that [`Format::alias`] gives, and nothing else has one.
//!
//! A key binds nothing then, so it makes no other writable mapping harmless.
//!
//! Where frames have types, these are held against the tables: a table is one of its level and kind, linked, a page that waits in the pool is spare,
//! no frame is said to be a linked table of the kernel's that no root leads to, and no leaf maps a frame that it must not map so, or data that is
//! said to be mapped by none. [`check_root`] does the same for what a root register holds, which the caller reads.
//!
//! The checker trusts nothing it reads: entries that point outside memory are findings too, and are not followed. It needs
//! that no table changes while it runs.

use core::fmt;

use kpkeys::Pkey;

use crate::addr::{ENTRIES, Level, PAGE_SIZE, PhysAddr, VirtAddr};
use crate::entry::{Entry, Format};
use crate::guarded::{FrameType, Kind, LeafRule};
use crate::machine::{Frames, Machine, Memory};
use crate::paging::{KERNEL_HALF, Paging, Root, USER_HALF};
use crate::section::Space;
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
    /// A page-table page can be written through the linear map, where it is protected by an alias: any kernel store changes it.
    WritablePtp {
        /// The page.
        frame: PhysAddr,
        /// The level of its entries.
        level: Level,
    },
    /// A page that waits in the pool to become a page-table page can be written through the linear map.
    WritableSpare {
        /// The page.
        frame: PhysAddr,
    },
    /// The alias of a page-table page is missing, or is not what it must be: it can be reached outside windows, or maps another page.
    WrongAlias {
        /// The page.
        frame: PhysAddr,
        /// Where its alias should be.
        address: VirtAddr,
        /// What is there instead.
        entry: Entry,
    },
    /// There is an alias at the place of a page that is no page-table page: it can be written in windows.
    AliasedData {
        /// The page that is mapped there.
        frame: PhysAddr,
        /// The address of the alias.
        address: VirtAddr,
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
    /// A leaf of the linear map is not data of the kernel at its own address: it maps another frame, lets user mode in, or lets it be executed.
    WrongLinearLeaf {
        /// The first address that it translates.
        address: VirtAddr,
        /// The leaf.
        entry: Entry,
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
    /// A frame is not what its type says.
    WrongType {
        /// The frame.
        frame: PhysAddr,
        /// What its type says.
        says: FrameType,
        /// What it is: `None` if it is no table in use.
        is: Option<FrameType>,
    },
    /// A leaf outside the linear map and the alias maps a frame that it must not map so.
    ForbiddenLeaf {
        /// The frame.
        frame: PhysAddr,
        /// What it is by its type.
        is: FrameType,
        /// Where it is mapped.
        address: VirtAddr,
    },
    /// A leaf outside the linear map and the alias maps data that is said to be mapped by none: it may become a page-table page.
    UnmarkedLeaf {
        /// The frame.
        frame: PhysAddr,
        /// Where it is mapped.
        address: VirtAddr,
    },
    /// A root register or a thread holds what is no root of its kind that is in use.
    ForeignRoot {
        /// What it holds.
        root: PhysAddr,
        /// What that is by its type, where frames have one.
        is: Option<FrameType>,
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
            Finding::WritablePtp { frame, level } => {
                write!(f, "{level:?} table at {frame:?} is writable in the linear map")
            }
            Finding::WritableSpare { frame } => {
                write!(f, "{frame:?} waits in the pool and is writable in the linear map")
            }
            Finding::WrongAlias { frame, address, entry } => {
                write!(f, "page-table page {frame:?} has {entry:?} for its alias at {address:?}")
            }
            Finding::AliasedData { frame, address } => {
                write!(
                    f,
                    "{frame:?} has an alias at {address:?} that belongs to no page-table page"
                )
            }
            Finding::KeyedData { frame } => {
                write!(f, "{frame:?} carries the page-table key and is no page-table page")
            }
            Finding::WritableAlias { frame, address } => {
                write!(f, "page-table page {frame:?} is writable through {address:?}")
            }
            Finding::WrongLinearLeaf { address, entry } => {
                write!(
                    f,
                    "{entry:?} for {address:?} of the linear map is not kernel data of that address's frame"
                )
            }
            Finding::StrayTable { address, entry } => {
                write!(f, "{entry:?} for {address:?} points outside memory")
            }
            Finding::SharedPtp { frame, address } => {
                write!(f, "{frame:?} is linked again, for {address:?}")
            }
            Finding::WrongType { frame, says, is: Some(is) } => {
                write!(f, "{frame:?} is said to be {says}, and is {is}")
            }
            Finding::WrongType { frame, says, is: None } => {
                write!(f, "{frame:?} is said to be {says}, and no root leads to it")
            }
            Finding::ForbiddenLeaf { frame, is, address } => {
                write!(f, "{frame:?} is {is}, and must not be mapped as it is at {address:?}")
            }
            Finding::UnmarkedLeaf { frame, address } => {
                write!(f, "{frame:?} is mapped at {address:?}, and its type says that it is not")
            }
            Finding::ForeignRoot { root, is } => {
                write!(f, "{root:?} is held as a root and is none of its kind in use")?;
                is.map_or(Ok(()), |is| write!(f, ": it is {is}"))
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
    /// Pages that hold what the pool must remember.
    pub state: usize,
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
    let kernel = paging.root_table(paging.kernel());
    let for_every_root = |index| match paging.is_for_every_root(index) {
        true => kernel.slot(index).load(),
        false => Entry::EMPTY,
    };
    if let Some(root) = paging.programs_kernel_root() {
        walk.mark(root.frame(), Level::Pgd, VirtAddr(0), &mut scratch);
        walk.check_type(root.frame(), FrameType::linked(Level::Pgd, Kind::of_root(root.space())));
        walk.find_foreign_entries(root, USER_HALF, |_| Entry::EMPTY);
        walk.find_foreign_entries(root, KERNEL_HALF, for_every_root);
    }
    for user in users {
        walk.mark_tables(user, USER_HALF, &mut scratch);
        let shared = M::Format::USER_ROOT_HAS_KERNEL_HALF;
        walk.find_foreign_entries(user, KERNEL_HALF, |index| {
            if shared { for_every_root(index) } else { Entry::EMPTY }
        });
    }
    if paging.is_protected() {
        walk.mark_foreign(&mut scratch);
        walk.mark_spares(&mut scratch);
        if paging.alias().is_none() {
            walk.find_keyed_data(&scratch);
        }
        walk.find_aliases(paging.kernel(), KERNEL_HALF, &scratch);
        for user in users {
            walk.find_aliases(user, USER_HALF, &scratch);
        }
    }
    walk.find_wrong_types(&scratch);
    walk.report.state = paging.ptps().state_pages(paging.machine());
    Some(walk.report)
}

/// Holds what a root register or a thread says its root is against what it must be: one of the kernel's, or, where frames have types, a root
/// in use of an address space. (Where they have none, any is one.) Where one register has both halves, the kernel's own may be in it.
pub fn check_root<M: Machine, F: Frames>(
    paging: &Paging<M, F>,
    root: PhysAddr,
    space: Space,
) -> Option<Finding> {
    let kernels = [Some(paging.kernel()), paging.programs_kernel_root()];
    let is_kernels = kernels.into_iter().flatten().any(|kernels| kernels.frame() == root);
    let types = paging.types();
    let is_users = || types.is_none_or(|types| types.is_root(root, Kind::User));
    let may_be = match space {
        Space::User => is_users() || M::Format::USER_ROOT_HAS_KERNEL_HALF && is_kernels,
        Space::Kernel | Space::Linear => is_kernels,
    };
    let is = types.map(|types| types.of(root));
    (!may_be).then_some(Finding::ForeignRoot { root, is })
}

/// What is wrong with a page-table page in the linear map.
enum Gap {
    /// This is its key there; `None` if it is not mapped there.
    Key(Option<Pkey>),
    /// It can be written there, and needs an alias for that.
    Writable,
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
        self.check_type(root.frame(), FrameType::linked(Level::Pgd, Kind::of_root(root.space())));
        self.mark_below(root, self.paging.root_table(root), Level::Pgd, entries, 0, marks);
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
        if self.paging.is_protected() {
            match self.gap(frame) {
                None => {}
                Some(Gap::Key(key)) => self.find(Finding::UnprotectedPtp { frame, level, key }),
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
            return (key != Some(Pkey::PAGE_TABLES)).then_some(Gap::Key(key));
        }
        let (_, _, leaf) =
            self.paging.walk(self.paging.kernel(), self.memory.linear_address(frame))?;
        M::Format::is_writable(leaf).then_some(Gap::Writable)
    }

    /// Whether a page-table page has the alias it must have, if it must have one.
    fn check_alias(&mut self, frame: PhysAddr) {
        let Some(alias) = self.paging.alias() else { return };
        let address = alias.address(frame);
        let found = self.paging.walk(self.paging.kernel(), address);
        let (level, entry) = found.map_or((Level::Pte, Entry::EMPTY), |leaf| (leaf.0, leaf.2));
        let first = VirtAddr(address.0 & !(level.entry_bytes() - 1));
        if entry != alias.entry::<M>(level, first) {
            self.find(Finding::WrongAlias { frame, address, entry });
        }
    }

    fn mark_below(
        &mut self,
        root: &Root,
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
                let kind = self.paging.kind(root, level, VirtAddr(address));
                self.check_type(frame, FrameType::linked(below, kind));
                self.mark_below(root, lower, below, 0..ENTRIES, address, marks);
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
        paging.ptps().for_each_keyed_spare(paging.machine(), &mut |frame| {
            if marks.mark(self.memory.frame_number(frame)) {
                self.report.spare += 1;
                match self.gap(frame) {
                    None => {}
                    Some(Gap::Key(key)) => self.find(Finding::UnprotectedSpare { frame, key }),
                    Some(Gap::Writable) => self.find(Finding::WritableSpare { frame }),
                }
                self.check_type(frame, FrameType::Spare);
                self.check_alias(frame);
            } else {
                self.find(Finding::SharedPtp { frame, address: VirtAddr(0) });
            }
        });
    }

    /// Whether a frame is by its type what it was found to be.
    fn check_type(&mut self, frame: PhysAddr, is: FrameType) {
        let says = self.paging.types().map(|types| types.of(frame));
        if let Some(says) = says.filter(|&says| says != is) {
            self.find(Finding::WrongType { frame, says, is: Some(is) });
        }
    }

    /// Frames that are said to be tables of the kernel's in use, and were not met. (Which address spaces there are the caller knows.)
    fn find_wrong_types(&mut self, marks: &Scratch<'_>) {
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
    fn check_mapped(&mut self, level: Level, entry: Entry, address: VirtAddr) {
        let linear = self.memory.linear.0;
        let in_linear = address.0.wrapping_sub(linear) / PAGE_SIZE < self.memory.pages as u64;
        let alias = self.paging.alias();
        if in_linear || alias.is_some_and(|alias| alias.contains(address)) {
            return;
        }
        let Some(types) = self.paging.types() else { return };
        let space = if address.is_kernel() { Space::Kernel } else { Space::User };
        let rule = LeafRule::of::<M::Format>(space, entry);
        let first = M::Format::frame(level, entry);
        if let Some(frame) = rule.first_refused(types, first, level.entry_pages()) {
            self.find(Finding::ForbiddenLeaf { frame, is: types.of(frame), address });
        }
        for page in 0..level.entry_pages() {
            let frame = first.offset(page as u64 * PAGE_SIZE);
            if types.of(frame) == FrameType::Data {
                self.find(Finding::UnmarkedLeaf { frame, address: address.offset_pages(page) });
            }
        }
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

    /// Whether a leaf of the linear map is what it must be, if it is one.
    fn check_linear_leaf(&mut self, level: Level, entry: Entry, address: VirtAddr) {
        let (first, memory) = (self.memory.linear.0, self.memory);
        let Some(offset) = address.0.checked_sub(first) else { return };
        if offset >= memory.pages as u64 * PAGE_SIZE {
            return;
        }
        let attrs = M::Format::attrs(entry);
        let is_own = M::Format::frame(level, entry) == memory.start.offset(offset);
        if !is_own || attrs.user || attrs.execute {
            self.find(Finding::WrongLinearLeaf { address, entry });
        }
    }

    fn check_leaf(&mut self, level: Level, entry: Entry, address: u64, marks: &Scratch<'_>) {
        self.check_linear_leaf(level, entry, VirtAddr(address));
        self.check_mapped(level, entry, VirtAddr(address));
        let alias = self.paging.alias();
        // The protection register binds kernel pages alone: a key on a user page protects nothing. And without one it binds none.
        let is_bound = alias.is_none()
            && !M::Format::attrs(entry).user
            && M::Format::key(entry) == Pkey::PAGE_TABLES;
        let is_harmless = !M::Format::is_writable(entry) || is_bound;
        let start = M::Format::frame(level, entry);
        for page in 0..level.entry_pages() as u64 {
            let (frame, address) =
                (start.offset(page * PAGE_SIZE), VirtAddr(address + page * PAGE_SIZE));
            let memory = self.memory;
            let is_ptp = |frame| marks.is_marked(memory.frame_number(frame));
            // Whose alias this is, readable or writable.
            let owner = alias.and_then(|alias| alias.frame_at(address));
            if owner.is_some_and(|owner| !is_ptp(owner)) {
                self.find(Finding::AliasedData { frame, address });
            }
            if is_harmless || !self.memory.contains(frame, 1) {
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

/// The first address that an entry translates, sign-extended below the root.
fn address_of(base: u64, level: Level, index: usize) -> u64 {
    let address = base | (index as u64) << level.shift();
    if level == Level::Pgd { ((address as i64) << 16 >> 16) as u64 } else { address }
}
