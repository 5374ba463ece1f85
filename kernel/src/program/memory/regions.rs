//! What a process has mapped, changed under its lock.

use super::{Inner, LOWEST, MAPPINGS_TOP, Permission, Source, USER_END, range};
use crate::arch::PageRange;
use crate::arch::{Format as Tables, layout, user};
use crate::memory::boot::PAGE_SIZE;
use crate::program::errno::{Errno, Outcome};
use alloc::sync::Arc;
use kpkeys_mm::FilePages;
use kpkeys_pgtable::{Format, VirtAddr};

impl Inner {
    pub(super) fn fault(&mut self, va: VirtAddr, write: bool) -> Result<(), kpkeys_mm::Error> {
        if va.0 >= USER_END {
            return Err(kpkeys_mm::Error::NotMapped(va));
        }
        self.space.fault(va, write)
    }

    /// The part of a file that a mapping shows, with the address in its first page.
    pub(super) fn file_at(&self, va: VirtAddr) -> Option<FilePages<'static>> {
        self.space.mapping_at(va)?.2
    }

    pub(super) fn is_free(&self, range: PageRange) -> bool {
        range.end().0 <= USER_END && self.space.is_free(range)
    }

    /// A place below the stack that has room: the highest, unless that takes long to find.
    pub(super) fn room_for(&mut self, bytes: u64) -> Outcome<u64> {
        /// Mappings looked between before the place below the last one is taken.
        const LOOKED_BETWEEN: usize = 64;
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let below_last = || {
            let at = self.last_place.checked_sub(bytes).filter(|&at| at >= LOWEST)?;
            range(at, bytes).is_ok_and(|range| self.is_free(range)).then_some(at)
        };
        let found = self
            .highest_room(bytes, LOOKED_BETWEEN)
            .or_else(below_last)
            .or_else(|| self.highest_room(bytes, usize::MAX))
            .ok_or(Errno::ENOMEM)?;
        self.last_place = found;
        Ok(found)
    }

    /// The highest place with room above, between or below so many mappings.
    fn highest_room(&self, bytes: u64, most: usize) -> Option<u64> {
        let mut top = MAPPINGS_TOP;
        let mut mapped = self.space.mappings().rev().map(|(range, _)| range);
        for _ in 0..most {
            let below = mapped.next();
            let free_from = below.map_or(LOWEST, |range| range.end().0.max(LOWEST));
            if top.checked_sub(free_from).is_some_and(|room| room >= bytes) {
                return Some(top - bytes);
            }
            top = top.min(below?.start().0);
        }
        None
    }

    pub(super) fn map(
        &mut self,
        range: PageRange,
        allows: Permission,
        source: Source,
    ) -> Outcome<()> {
        let (pages, first, shared) = match source {
            Source::Zeroes => {
                self.space.mmap(range, allows.flags())?;
                return self.withhold_if(range, allows);
            }
            Source::Private(pages, first) => (pages, first, false),
            Source::Shared(pages, first) => (pages, first, true),
        };
        if allows.execute {
            pages.publish();
        }
        self.keeps.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let file = FilePages { file: pages.file(), first, shared };
        self.space.mmap_file(range, allows.flags(), file)?;
        if !self.keeps.iter().any(|kept| Arc::ptr_eq(kept, &pages)) {
            self.keeps.push(pages);
        }
        self.withhold_if(range, allows)
    }

    fn withhold_if(&mut self, range: PageRange, allows: Permission) -> Outcome<()> {
        if allows.any { Ok(()) } else { Ok(self.space.withhold(range)?) }
    }

    pub(super) fn unmap(&mut self, range: PageRange) -> Outcome<()> {
        let showed_files = self.space.shows_files(range);
        self.space.munmap(range)?;
        if showed_files {
            self.let_go();
        }
        Ok(())
    }

    /// Lets go of pages that no mapping shows any more.
    fn let_go(&mut self) {
        let space = &self.space;
        self.keeps.retain(|kept| space.files().any(|file| core::ptr::eq(file, kept.file())));
    }

    pub(super) fn protect(&mut self, range: PageRange, allows: Permission) -> Outcome<()> {
        if !self.space.is_mapped(range) {
            return Err(Errno::ENOMEM);
        }
        if !allows.any {
            return Ok(self.space.withhold(range)?);
        }
        let mut at = range.start();
        while at < range.end() {
            let (mapped, flags, _) = self.space.mapping_at(at).ok_or(Errno::ENOMEM)?;
            let end = mapped.end().min(range.end());
            let part = self::range(at.0, end.0 - at.0)?;
            if flags.execute != allows.execute {
                self.space.set_executable(part, allows.execute)?;
            }
            if flags.write != allows.write {
                self.space.mprotect(part, allows.write)?;
            }
            if self.space.is_withheld(at) {
                self.space.permit_again(part)?;
            }
            if allows.execute && !flags.execute {
                self.publish(part);
            }
            at = end;
        }
        Ok(())
    }

    /// Makes what is in the pages of a range fit to be run.
    fn publish(&self, range: PageRange) {
        let paging = self.space.kernel().paging();
        for page in 0..range.pages() {
            let found = paging.walk(self.space.root(), range.start().offset_pages::<Tables>(page));
            if let Some((level, _, entry)) = found {
                user::publish_code(layout::linear(Tables::frame(level, entry)), PAGE_SIZE as usize);
            }
        }
    }
}
