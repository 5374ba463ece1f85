//! The memory of a process: its address space, and what Linux's calls say of it that the memory manager does not know.
//!
//! That is where the heap ends, and what is *reserved*: ranges mapped without any permission, which the memory manager need not know of
//! until they get one.

mod pages;
mod user;

pub use pages::Pages;
pub use user::{USER_END, UserAddress};

use super::Space;
use crate::arch::root::RootTable;
use crate::memory::paging::memories;
use crate::program::errno::{Errno, Outcome};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use kpkeys_mm::{FilePages, MapFlags, OnFork};
use kpkeys_pgtable::{PAGE_SIZE, PageRange, VirtAddr};

/// Where the stack of a program ends.
pub const STACK_TOP: u64 = 0x7fff_ffff_0000;
/// Below this are mappings whose place the kernel chooses: room for a stack is above.
const MAPPINGS_TOP: u64 = 0x7fff_f000_0000;
/// Nothing is mapped below: null pointers with small offsets fault.
const LOWEST: u64 = 0x1_0000;

/// What a range may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// It may be used at all.
    pub any: bool,
    /// For stores.
    pub write: bool,
    /// For code.
    pub execute: bool,
}

impl Permission {
    /// Ordinary data.
    pub const DATA: Self = Self { any: true, write: true, execute: false };

    fn flags(self) -> MapFlags {
        MapFlags { write: self.write, execute: self.execute, order: 0 }
    }
}

/// What a program wants of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read.
    Read,
    /// To write.
    Write,
    /// To run what is there.
    Execute,
}

/// What a mapping shows.
#[derive(Clone)]
pub enum Source {
    /// Zeroes.
    Zeroes,
    /// Pages of a file from one on, copied before they are written.
    Private(Arc<Pages>, usize),
    /// The same, written by everybody who has them.
    Shared(Arc<Pages>, usize),
}

/// The memory of a process.
pub struct Memory {
    inner: spin::Mutex<Inner>,
}

struct Inner {
    /// Before what its mappings refer to, since fields are dropped in order.
    space: Space,
    /// What keeps the pages of its mappings.
    keeps: Vec<Arc<Pages>>,
    /// Start and end of what is mapped without permission.
    reserved: BTreeMap<u64, u64>,
    /// Where the heap begins and ends.
    heap: (u64, u64),
}

impl Memory {
    /// Memory with nothing in it.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`].
    pub fn new() -> Outcome<Self> {
        let space = Space::new(memories())?;
        let inner = Inner { space, keeps: Vec::new(), reserved: BTreeMap::new(), heap: (0, 0) };
        Ok(Self { inner: spin::Mutex::new(inner) })
    }

    /// A copy, page by page when one of the two is written.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`].
    pub fn fork(&self) -> Outcome<Self> {
        let mut inner = self.inner.lock();
        let copy = Inner {
            space: inner.space.fork()?,
            keeps: inner.keeps.clone(),
            reserved: inner.reserved.clone(),
            heap: inner.heap,
        };
        Ok(Self { inner: spin::Mutex::new(copy) })
    }

    /// The root table. It lives as long as this does.
    pub fn root(&self) -> RootTable {
        RootTable(self.inner.lock().space.root().frame().0)
    }

    /// Handles a page fault of a program.
    ///
    /// # Errors
    ///
    /// What the memory manager says.
    pub fn fault(&self, address: u64, access: Access) -> Result<(), kpkeys_mm::Error> {
        let mut inner = self.inner.lock();
        let va = VirtAddr(address);
        // The memory manager is not asked about code: what is mapped and no code would fault for ever.
        if access == Access::Execute
            && inner.space.mappings().any(|(range, flags)| range.contains(va) && !flags.execute)
        {
            return Err(kpkeys_mm::Error::Forbidden(va));
        }
        inner.fault(va, access == Access::Write)
    }

    /// Maps `bytes` at `at`, over whatever is there.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`] for no pages, [`Errno::ENOMEM`].
    pub fn map_at(&self, at: u64, bytes: u64, allows: Permission, source: Source) -> Outcome<u64> {
        let range = range(at, bytes)?;
        if at < LOWEST {
            return Err(Errno::EPERM);
        }
        let mut inner = self.inner.lock();
        inner.unmap(range)?;
        inner.map(range, allows, source)?;
        Ok(at)
    }

    /// Maps `bytes` where there is room, at `hint` if there is.
    ///
    /// # Errors
    ///
    /// As [`map_at`](Self::map_at).
    pub fn map(&self, hint: u64, bytes: u64, allows: Permission, source: Source) -> Outcome<u64> {
        let mut inner = self.inner.lock();
        let hint = hint & !(PAGE_SIZE - 1);
        let at = match range(hint, bytes) {
            Ok(range) if hint >= LOWEST && inner.is_free(range) => hint,
            _ => inner.room_for(bytes)?,
        };
        inner.map(range(at, bytes)?, allows, source)?;
        Ok(at)
    }

    /// Makes a stack of `bytes` that ends at [`STACK_TOP`] and grows.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`].
    pub fn map_stack(&self, bytes: u64) -> Outcome<()> {
        let range = range(STACK_TOP - bytes, bytes)?;
        Ok(self.inner.lock().space.mmap_stack(range, MapFlags::DATA)?)
    }

    /// Removes what is mapped in a range.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`] for no pages, [`Errno::ENOMEM`].
    pub fn unmap(&self, at: u64, bytes: u64) -> Outcome<()> {
        self.inner.lock().unmap(range(at, bytes)?)
    }

    /// Changes what a range may be used for.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`] if something in it is not mapped; [`Errno::EACCES`] if it was not mapped for code and should be code now.
    pub fn protect(&self, at: u64, bytes: u64, allows: Permission) -> Outcome<()> {
        self.inner.lock().protect(range(at, bytes)?, allows)
    }

    /// Moves or resizes a mapping; see `mremap`.
    ///
    /// # Errors
    ///
    /// As the memory manager's.
    pub fn remap(
        &self,
        old: (u64, u64),
        new_bytes: u64,
        to: Option<u64>,
        may_move: bool,
    ) -> Outcome<u64> {
        let mut inner = self.inner.lock();
        let from = range(old.0, old.1)?;
        if let Some(to) = to {
            let target = range(to, new_bytes)?;
            inner.unmap(target)?;
            inner.space.mremap(from, target, false)?;
            return Ok(to);
        }
        let in_place = range(old.0, new_bytes)?;
        let more = new_bytes.saturating_sub(old.1);
        if more == 0 || inner.is_free(range(old.0 + old.1, more)?) {
            inner.space.mremap(from, in_place, false)?;
            return Ok(old.0);
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        let to = inner.room_for(new_bytes)?;
        inner.space.mremap(from, range(to, new_bytes)?, false)?;
        Ok(to)
    }

    /// Drops the pages of a range, which read as at first then.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`].
    pub fn discard(&self, at: u64, bytes: u64) -> Outcome<()> {
        self.inner.lock().space.discard(range(at, bytes)?);
        Ok(())
    }

    /// Says what forks do with a range.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`] if something in it is not mapped.
    pub fn set_on_fork(&self, at: u64, bytes: u64, on_fork: OnFork) -> Outcome<()> {
        Ok(self.inner.lock().space.set_on_fork(range(at, bytes)?, on_fork)?)
    }

    /// Where the heap is to begin.
    pub fn start_heap(&self, at: u64) {
        self.inner.lock().heap = (at, at);
    }

    /// Moves the end of the heap, if that is possible; returns where it is.
    pub fn move_heap_end(&self, wanted: u64) -> u64 {
        let mut inner = self.inner.lock();
        let (start, end) = inner.heap;
        let (old, new) = (
            end.next_multiple_of(PAGE_SIZE),
            wanted.wrapping_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1),
        );
        if wanted < start || wanted > MAPPINGS_TOP {
            return end;
        }
        let moved = if new > old {
            range(old, new - old)
                .and_then(|more| if inner.is_free(more) { Ok(more) } else { Err(Errno::ENOMEM) })
                .and_then(|more| inner.map(more, Permission::DATA, Source::Zeroes))
        } else if new < old {
            range(new, old - new).and_then(|less| inner.unmap(less))
        } else {
            Ok(())
        };
        if moved.is_ok() {
            inner.heap.1 = wanted;
        }
        inner.heap.1
    }

    /// The mappings, in order: start, end, and what they may be used for.
    pub fn mappings(&self) -> Vec<(u64, u64, Permission)> {
        let inner = self.inner.lock();
        let mapped = inner.space.mappings().map(|(range, flags)| {
            let allows = Permission { any: true, write: flags.write, execute: flags.execute };
            (range.start().0, range.end().0, allows)
        });
        let none = Permission { any: false, write: false, execute: false };
        let reserved = inner.reserved.iter().map(|(&start, &end)| (start, end, none));
        let mut all: Vec<_> = mapped.chain(reserved).collect();
        all.sort_unstable_by_key(|mapping| mapping.0);
        all
    }

    /// How many pages are in memory.
    pub fn resident_pages(&self) -> usize {
        self.inner.lock().space.mapped_pages()
    }
}

impl Inner {
    fn fault(&mut self, va: VirtAddr, write: bool) -> Result<(), kpkeys_mm::Error> {
        if va.0 >= USER_END {
            return Err(kpkeys_mm::Error::NotMapped(va));
        }
        self.space.fault(va, write)
    }

    fn is_free(&self, range: PageRange) -> bool {
        let touches = |start: u64, end: u64| start < range.end().0 && range.start().0 < end;
        range.end().0 <= USER_END
            && !self.space.mappings().any(|(other, _)| touches(other.start().0, other.end().0))
            && !self.reserved.iter().any(|(&start, &end)| touches(start, end))
    }

    /// The highest place below the stack that has room.
    fn room_for(&self, bytes: u64) -> Outcome<u64> {
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let mapped = self.space.mappings().map(|(range, _)| (range.start().0, range.end().0));
        let mut taken: Vec<_> =
            mapped.chain(self.reserved.iter().map(|(&start, &end)| (start, end))).collect();
        taken.sort_unstable();
        let mut top = MAPPINGS_TOP;
        for (start, end) in taken.into_iter().rev() {
            if end <= top && top - end >= bytes {
                break;
            }
            top = top.min(start);
        }
        top.checked_sub(bytes).filter(|&at| at >= LOWEST).ok_or(Errno::ENOMEM)
    }

    fn map(&mut self, range: PageRange, allows: Permission, source: Source) -> Outcome<()> {
        if !allows.any {
            if range.end().0 > USER_END {
                return Err(Errno::ENOMEM);
            }
            self.reserved.insert(range.start().0, range.end().0);
            return Ok(());
        }
        let (pages, first, shared) = match source {
            Source::Zeroes => return Ok(self.space.mmap(range, allows.flags())?),
            Source::Private(pages, first) => (pages, first, false),
            Source::Shared(pages, first) => (pages, first, true),
        };
        // What lies behind the file's last page has no page of it.
        let there = pages.len().saturating_sub(first).min(range.pages());
        if there > 0 {
            let backed = PageRange::new(range.start(), there).map_err(|_| Errno::EINVAL)?;
            self.keeps.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            let file = FilePages { file: pages.file(), first, shared };
            self.space.mmap_file(backed, allows.flags(), file)?;
            if !self.keeps.iter().any(|kept| Arc::ptr_eq(kept, &pages)) {
                self.keeps.push(pages);
            }
        }
        if there < range.pages() {
            self.reserved.insert(range.start().offset_pages(there).0, range.end().0);
        }
        Ok(())
    }

    fn unmap(&mut self, range: PageRange) -> Outcome<()> {
        self.space.munmap(range)?;
        self.release(range.start().0, range.end().0);
        Ok(())
    }

    /// Takes a range out of what is reserved; returns the parts that were.
    fn release(&mut self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let touched: Vec<_> =
            self.reserved.range(..end).map(|(&start, &end)| (start, end)).collect();
        let mut parts = Vec::new();
        for (from, to) in touched.into_iter().filter(|&(_, to)| to > start) {
            self.reserved.remove(&from);
            if from < start {
                self.reserved.insert(from, start);
            }
            if to > end {
                self.reserved.insert(end, to);
            }
            parts.push((from.max(start), to.min(end)));
        }
        parts
    }

    fn protect(&mut self, range: PageRange, allows: Permission) -> Outcome<()> {
        let (start, end) = (range.start().0, range.end().0);
        let mapped: Vec<_> = self
            .space
            .mappings()
            .filter(|(other, _)| other.start().0 < end && start < other.end().0)
            .map(|(other, flags)| (other.start().0.max(start), other.end().0.min(end), flags))
            .collect();
        if allows.execute && mapped.iter().any(|(_, _, flags)| !flags.execute) {
            return Err(Errno::EACCES);
        }
        let reserved = self.reserved.range(..end).filter(|&(_, &to)| to > start);
        let reserved: u64 = reserved.map(|(&from, &to)| to.min(end) - from.max(start)).sum();
        let covered: u64 = mapped.iter().map(|(from, to, _)| to - from).sum();
        if covered + reserved < end - start {
            return Err(Errno::ENOMEM);
        }
        if allows.any {
            for (from, to) in self.release(start, end) {
                self.map(self::range(from, to - from)?, allows, Source::Zeroes)?;
            }
        }
        for (from, to, flags) in mapped {
            if flags.write != allows.write {
                self.space.mprotect(self::range(from, to - from)?, allows.write)?;
            }
        }
        Ok(())
    }
}

/// The pages that `bytes` from a page's start on touch.
fn range(at: u64, bytes: u64) -> Outcome<PageRange> {
    let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
    if !at.is_multiple_of(PAGE_SIZE) || bytes == 0 {
        return Err(Errno::EINVAL);
    }
    if at.checked_add(bytes).is_none_or(|end| end > USER_END) {
        return Err(Errno::ENOMEM);
    }
    PageRange::new(VirtAddr(at), (bytes / PAGE_SIZE) as usize).map_err(|_| Errno::EINVAL)
}
