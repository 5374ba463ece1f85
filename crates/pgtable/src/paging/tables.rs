//! From an address to the table that translates it.

use super::{Paging, Root};
use crate::addr::{Level, PhysAddr, VirtAddr};
use crate::entry::{Entry, Format};
use crate::error::Error;
use crate::guarded::Kind;
use crate::machine::{Frames, Machine};
use crate::section::{Section, Space};
use crate::table::{Slot, Table};

/// What a descent to an address ends at.
#[derive(Clone, Copy)]
pub(crate) enum Found<'m, F: Format> {
    /// A table of PTEs.
    Table(Table<'m, F>),
    /// A block: its level and entry.
    Block(Level, Slot<'m>, Entry),
    /// An entry that is not valid, above the last level.
    Nothing,
}

impl<M: Machine, F: Frames> Paging<M, F> {
    /// The entry that translates an address now: its level and slot, if it is valid.
    #[inline]
    pub fn walk(&self, root: &Root, va: VirtAddr) -> Option<(Level, Slot<'_>, Entry)> {
        match self.descend(root, va) {
            Found::Table(table) => {
                let slot = table.slot(va.index::<M::Format>(Level::Pte));
                let entry = slot.load();
                M::Format::is_present(entry).then_some((Level::Pte, slot, entry))
            }
            Found::Block(level, slot, entry) => Some((level, slot, entry)),
            Found::Nothing => None,
        }
    }

    /// What translates an address, down to the table of PTEs.
    #[inline(always)]
    pub(crate) fn descend(&self, root: &Root, va: VirtAddr) -> Found<'_, M::Format> {
        let mut table = self.table(root.frame);
        for &level in M::Format::ABOVE_PTE {
            let slot = table.slot(va.index::<M::Format>(level));
            let entry = slot.load();
            if !M::Format::is_table(level, entry) {
                let is_block = M::Format::is_present(entry);
                return if is_block { Found::Block(level, slot, entry) } else { Found::Nothing };
            }
            table = self.table(M::Format::frame(level, entry));
        }
        Found::Table(table)
    }

    /// The physical address that an address translates to now, if it does.
    #[inline]
    pub fn translate(&self, root: &Root, va: VirtAddr) -> Option<PhysAddr> {
        let (frame, bytes) = match self.descend(root, va) {
            Found::Table(table) => {
                let entry = table.slot(va.index::<M::Format>(Level::Pte)).load();
                if !M::Format::is_present(entry) {
                    return None;
                }
                (M::Format::frame(Level::Pte, entry), M::Format::PAGE_SIZE)
            }
            Found::Block(level, _, entry) => {
                (M::Format::frame(level, entry), level.entry_bytes::<M::Format>())
            }
            Found::Nothing => return None,
        };
        Some(frame.offset(va.0 % bytes))
    }

    /// The table at `level` that translates an address, if it is linked.
    #[inline]
    pub fn find_table(
        &self,
        root: &Root,
        va: VirtAddr,
        level: Level,
    ) -> Option<Table<'_, M::Format>> {
        // SAFETY: as for `table`.
        unsafe { self.table(root.frame).find(self.machine(), va, level) }
    }

    /// The table at `level` that translates an address; missing tables on the way are allocated and linked.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]; [`Error::MappedByBlock`] if a block is in the way; [`Error::WrongHalf`] if the root is not for the address.
    #[inline]
    #[track_caller]
    pub fn table_for(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        va: VirtAddr,
        level: Level,
    ) -> Result<Table<'_, M::Format>, Error> {
        if !root.is_for::<M::Format>(va) {
            return Err(Error::WrongHalf(va));
        }
        match self.find_table(root, va, level) {
            Some(table) => Ok(table),
            None => self.link_tables(section, root, va, level),
        }
    }

    #[cold]
    #[track_caller]
    fn link_tables(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        va: VirtAddr,
        level: Level,
    ) -> Result<Table<'_, M::Format>, Error> {
        if !(self.has_begun(section) && self.has(root)) {
            return Err(Error::Foreign(va));
        }
        let mut table = self.table(root.frame);
        for &at in M::Format::ABOVE_PTE {
            if at == level {
                break;
            }
            let slot = table.slot(va.index::<M::Format>(at));
            table = match self.lower_table(at, slot.load()) {
                Some(lower) => lower,
                None => self.link_table(section, root, slot, at, va)?,
            };
        }
        Ok(table)
    }

    #[track_caller]
    fn link_table(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        slot: Slot<'_>,
        level: Level,
        va: VirtAddr,
    ) -> Result<Table<'_, M::Format>, Error> {
        let (below, kind) = (level.below().unwrap_or(level), self.kind(root, level, va));
        let page = self.allocate(section, below, kind)?;
        let _linking = root.link.lock();
        let entry = slot.load();
        if entry.is_empty() {
            let table = page.table(self.machine());
            // Leaves of the alias are marked as the user's, and so must be the way to them.
            let user =
                root.space == Space::User || self.alias().is_some_and(|alias| alias.contains(va));
            section.link((slot, entry), level, kind, user, page)?;
            return Ok(table);
        }
        self.release(section.disclaim(page, below, kind));
        // Another CPU linked one meanwhile; or a block is in the way.
        self.lower_table(level, entry).ok_or(Error::MappedByBlock(va))
    }

    /// The kind of the table that an entry at `level` points to, the one that translates an address.
    pub(crate) fn kind(&self, root: &Root, level: Level, va: VirtAddr) -> Kind {
        let first = va.0 & !(level.entry_bytes::<M::Format>() - 1);
        let last = first + (level.entry_bytes::<M::Format>() - 1);
        let memory = self.machine().memory();
        let linear_last = memory.linear.0 + (memory.pages as u64 * M::Format::PAGE_SIZE - 1);
        match root.space {
            Space::User => Kind::User,
            Space::Alias => Kind::Alias,
            _ if first <= linear_last && memory.linear.0 <= last => Kind::Linear,
            _ if self.alias().is_some_and(|alias| alias.overlaps(first, last)) => Kind::Alias,
            _ => Kind::Kernel,
        }
    }

    /// The table in a frame that is known to hold one: a root, or what a table entry points to.
    #[inline(always)]
    pub(super) fn table(&self, frame: PhysAddr) -> Table<'_, M::Format> {
        // SAFETY: roots are tables until released, which consumes them; entries of tables are stored by this crate alone,
        // and point to pages that stay tables until they are unlinked and flushed, while the caller keeps other users of
        // the same range away (crate protocol).
        unsafe { Table::at(self.machine(), frame) }
    }

    #[inline(always)]
    pub(crate) fn lower_table(&self, level: Level, entry: Entry) -> Option<Table<'_, M::Format>> {
        // SAFETY: as for `table`.
        unsafe { Table::below(self.machine(), level, entry) }
    }

    pub(crate) fn root_table(&self, root: &Root) -> Table<'_, M::Format> {
        self.table(root.frame)
    }
}
