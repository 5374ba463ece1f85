//! The memory of a process: its address space, and what Linux's calls say of it that the memory manager does not know: where the heap
//! ends, and who keeps the pages of its mappings.

use crate::arch::PageRange;
use crate::memory::boot::PAGE_SIZE;
mod pages;
mod regions;
mod user;

pub use pages::Pages;
pub use user::{USER_END, UserAddress};

use super::Space;
use crate::arch::root::RootTable;
use crate::lock::expect_irqs_on;
use crate::memory::paging::memories;
use crate::program::errno::{Errno, Outcome};
use alloc::sync::Arc;
use alloc::vec::Vec;
use kpkeys_mm::{MapFlags, OnFork};
use kpkeys_pgtable::{Root, VirtAddr};

/// Where the stack of a program ends.
pub const STACK_TOP: u64 = 0x7fff_fffe_0000;
/// Below this are mappings whose place the kernel chooses: room for a stack is above.
const MAPPINGS_TOP: u64 = 0x7fff_f000_0000;
/// Nothing is mapped below: null pointers with small offsets fault.
const LOWEST: u64 = 0x1_0000;

/// What processes have that have ended.
static NOTHING: spin::Once<Arc<Memory>> = spin::Once::new();

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

/// Something that is mapped.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The one behind its last.
    pub end: u64,
    /// What it may be used for.
    pub allows: Permission,
    /// What is written reaches everybody who maps the same.
    pub is_shared: bool,
}

/// The memory of a process.
pub struct Memory {
    inner: spin::Mutex<Inner>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        expect_irqs_on();
    }
}

struct Inner {
    /// Before what its mappings refer to, since fields are dropped in order.
    space: Space,
    /// What keeps the pages of its mappings.
    keeps: Vec<Arc<Pages>>,
    /// Where the heap begins and ends.
    heap: (u64, u64),
    /// The place that was last chosen for a mapping.
    last_place: u64,
}

impl Memory {
    /// Memory with nothing in it.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`].
    pub fn new() -> Outcome<Self> {
        let space = Space::new(memories())?;
        let inner = Inner { space, keeps: Vec::new(), heap: (0, 0), last_place: MAPPINGS_TOP };
        Ok(Self { inner: spin::Mutex::new(inner) })
    }

    /// Memory with nothing in it, for all processes that have ended.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`], the first time.
    pub fn nothing() -> Outcome<Arc<Self>> {
        NOTHING.try_call_once(|| Self::new().map(Arc::new)).cloned()
    }

    /// Runs `f` with the root tables that there are when no program runs.
    pub fn with_kept_roots<R>(f: impl FnOnce(&[&Root]) -> R) -> R {
        match NOTHING.get() {
            Some(nothing) => f(&[nothing.inner.lock().space.root()]),
            None => f(&[]),
        }
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
            heap: inner.heap,
            last_place: inner.last_place,
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
            && inner.space.mapping_at(va).is_some_and(|(_, flags, _)| !flags.execute)
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
    /// [`Errno::ENOMEM`] if something in it is not mapped.
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
        if more == 0 || range(old.0 + old.1, more).is_ok_and(|more| inner.is_free(more)) {
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

    /// Whether all of a range is mapped.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`] if it is not.
    pub fn is_mapped(&self, at: u64, bytes: u64) -> Outcome<()> {
        let range = range(at, bytes)?;
        if self.inner.lock().space.is_mapped(range) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Has the pages of a range be there, writable where that is allowed.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`] if something in it is not mapped, or there is no memory.
    pub fn fault_in(&self, at: u64, bytes: u64) -> Outcome<()> {
        let range = range(at, bytes)?;
        self.inner.lock().space.fault_in(range).map_err(|_| Errno::ENOMEM)
    }

    /// Says of each page from one on whether it is there: 1 or 0.
    pub fn are_present(&self, at: u64, present: &mut [u8]) {
        let inner = self.inner.lock();
        let space = &inner.space;
        for (page, is_present) in present.iter_mut().enumerate() {
            let va = VirtAddr(at).offset_pages::<crate::arch::Format>(page);
            *is_present = space.kernel().paging().walk(space.root(), va).is_some().into();
        }
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

    /// The mappings, in order.
    pub fn mappings(&self) -> Vec<Mapping> {
        let inner = self.inner.lock();
        let mapped = inner.space.mappings().map(|(range, flags)| {
            let any = !inner.space.is_withheld(range.start());
            Mapping {
                start: range.start().0,
                end: range.end().0,
                allows: Permission { any, write: flags.write, execute: flags.execute },
                is_shared: inner.file_at(range.start()).is_some_and(|file| file.shared),
            }
        });
        mapped.collect()
    }

    /// What tells a word of this memory from all others: where in which pages it is, if a mapping shares those with other processes; or where
    /// in this memory.
    pub fn identity_of(self: &Arc<Self>, at: UserAddress) -> (usize, u64) {
        let inner = self.inner.lock();
        match inner.space.mapping_at(VirtAddr(at.0)) {
            Some((range, _, Some(file))) if file.shared => {
                let first = file.first as u64 * PAGE_SIZE;
                (core::ptr::from_ref(file.file).addr(), first + at.0 - range.start().0)
            }
            _ => (Arc::as_ptr(self).addr(), at.0),
        }
    }

    /// How many pages are in memory.
    pub fn resident_pages(&self) -> usize {
        self.inner.lock().space.mapped_pages()
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
