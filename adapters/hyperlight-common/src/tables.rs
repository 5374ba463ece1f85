//! The tables: the wrapped crate's functions on pieces of a range, after a look at what they do not look at.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;

use hyperlight_common::vmem::{self, Mapping, MappingKind};
use kpkeys_x86_64::{Linear, Machine, OutOfFrames, Protection, Within};
use x86_64::VirtAddr;
use x86_64::structures::paging::mapper::{MappedFrame, TranslateResult};
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, Page, PhysFrame, Size2MiB, Size4KiB, Translate,
};

use crate::ops::{Ops, Reader};

/// Why a range was not changed, from some page on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MapError {
    /// The range is not of whole pages, or not of addresses of one half.
    Range,
    /// There is no frame left that can be protected as a table.
    OutOfFrames,
    /// A block is mapped here, which the wrapped crate takes for a table.
    Block {
        /// Where.
        address: VirtAddr,
    },
    /// A page of a table is mapped here, whose key a new entry would not have.
    Table {
        /// Where.
        address: VirtAddr,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::Range => f.write_str("the range is not of whole pages in one half"),
            MapError::OutOfFrames => OutOfFrames.fmt(f),
            MapError::Block { address } => write!(
                f,
                "a block is mapped at {address:?}; map other addresses, or split it first"
            ),
            MapError::Table { address } => {
                write!(f, "a page of a table is mapped at {address:?}, and stays so")
            }
        }
    }
}

impl core::error::Error for MapError {}

impl From<OutOfFrames> for MapError {
    fn from(_: OutOfFrames) -> Self {
        MapError::OutOfFrames
    }
}

/// Tables that the functions of `hyperlight_common::vmem` keep, and only this can change.
#[derive(Debug)]
pub struct HardenedTables<'p, M, L> {
    protection: &'p Protection<M, L>,
    root: PhysFrame,
    exclusive: PhantomData<Cell<()>>,
}

impl<'p, M: Machine, L: Linear> HardenedTables<'p, M, L> {
    /// The tables of a root.
    ///
    /// # Safety
    ///
    /// As for [`Protection::tables`].
    pub unsafe fn new(protection: &'p Protection<M, L>, root: PhysFrame) -> Self {
        HardenedTables { protection, root, exclusive: PhantomData }
    }

    /// For `vmem::virt_to_phys`, of addresses that are mapped by pages of 4 KiB, or not.
    pub fn reader(&self) -> Reader<'_, M, L> {
        Reader { protection: self.protection, root: self.root }
    }

    /// `vmem::map`, in a window for each table of 512 pages.
    ///
    /// # Errors
    ///
    /// [`MapError`]. What comes before, up to a 2 MiB boundary, is mapped then.
    ///
    /// # Safety
    ///
    /// As there; flushing what was mapped before is the caller's.
    pub unsafe fn map<A: FrameAllocator<Size4KiB>>(
        &mut self,
        mapping: Mapping,
        frames: &mut A,
    ) -> Result<(), MapError> {
        if !mapping.phys_base.is_multiple_of(PAGE) {
            return Err(MapError::Range);
        }
        for (at, len) in pieces(mapping.virt_base, mapping.len)? {
            let tables = self.look_at(at, len)?;
            let phys_base = mapping.phys_base + (at - mapping.virt_base);
            let piece = Mapping { phys_base, virt_base: unsigned(at), len, ..mapping };
            let ops = self.ops(Within::Call);
            // SAFETY: the wrapped crate's code on these tables, which are borrowed exclusively; what it maps is the caller's promise.
            unsafe {
                self.protection.call(tables, &mut NeverFreed(frames), || vmem::map(&ops, piece))
            }?;
        }
        Ok(())
    }

    /// `vmem::modify_mapping`, with a window for each store: `f` runs outside of them.
    ///
    /// # Errors
    ///
    /// [`MapError`]. What comes before, up to a 2 MiB boundary, is changed then. [`MapError::Range`] also for the last page of all, where the
    /// wrapped crate overflows.
    ///
    /// # Safety
    ///
    /// As for [`map`](Self::map).
    pub unsafe fn modify<A: FrameAllocator<Size4KiB>>(
        &mut self,
        start: u64,
        len: u64,
        frames: &mut A,
        mut f: impl FnMut(VirtAddr, Mapping) -> MappingKind,
    ) -> Result<(), MapError> {
        start.checked_add(len).ok_or(MapError::Range)?;
        for (start, len) in pieces(start, len)? {
            let tables = self.look_at(start, len)?;
            self.protection.reserve(tables, frames)?;
            let ops = self.ops(Within::Itself);
            // SAFETY: as in `map`.
            unsafe {
                vmem::modify_mapping(&ops, start, len, |at, mapping| {
                    f(VirtAddr::new_truncate(at), mapping)
                });
            }
        }
        Ok(())
    }

    fn ops(&self, within: Within) -> Ops<'p, M, L> {
        let reader = Reader { protection: self.protection, root: self.root };
        Ops { reader, within }
    }

    /// How many tables a piece lacks, if it may be changed.
    ///
    /// # Errors
    ///
    /// What is mapped there and must stay.
    fn look_at(&self, start: u64, len: u64) -> Result<usize, MapError> {
        // SAFETY: it answers questions, by reading, while these tables are borrowed.
        let tables = unsafe { self.protection.tables(self.root) };
        for offset in (0..len).step_by(PAGE as usize) {
            let address = VirtAddr::new_truncate(start + offset);
            let refused = match tables.translate(address) {
                TranslateResult::Mapped { frame: MappedFrame::Size4KiB(frame), .. } => {
                    self.protection.protects(frame).then_some(MapError::Table { address })
                }
                TranslateResult::Mapped { .. } => Some(MapError::Block { address }),
                _ => None,
            };
            refused.map_or(Ok(()), Err)?;
        }
        let [first, last] = [start, start + (len - 1)].map(VirtAddr::new_truncate);
        let page = Page::<Size4KiB>::containing_address;
        Ok(tables.tables_between(page(first), page(last)))
    }
}

const PAGE: u64 = 4096;

/// An address without its sign: `vmem::map` takes it for the same, and overflows at the end of the upper half otherwise.
fn unsigned(address: u64) -> u64 {
    address & ((1 << 48) - 1)
}

/// A range in pieces of one table each.
fn pieces(start: u64, len: u64) -> Result<impl Iterator<Item = (u64, u64)>, MapError> {
    const TABLE: u64 = <Size2MiB as x86_64::structures::paging::PageSize>::SIZE;
    let last = start.checked_add(len.saturating_sub(1)).ok_or(MapError::Range)?;
    let canonical = VirtAddr::try_new(start).is_ok() && VirtAddr::try_new(last).is_ok();
    let whole = start.is_multiple_of(PAGE) && len.is_multiple_of(PAGE);
    if !canonical || !whole || start >> 47 != last >> 47 {
        return Err(MapError::Range);
    }
    let mut done = 0;
    Ok(core::iter::from_fn(move || {
        // Wraps after the last page of all, where nothing is left.
        let at = start.wrapping_add(done);
        let piece = (TABLE - at % TABLE).min(len - done);
        done += piece;
        (piece > 0).then_some((at, piece))
    }))
}

/// An allocator whose tables stay: the wrapped crate frees none.
struct NeverFreed<'a, A>(&'a mut A);

// SAFETY: the allocator's own promise.
unsafe impl<A: FrameAllocator<Size4KiB>> FrameAllocator<Size4KiB> for NeverFreed<'_, A> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0.allocate_frame()
    }
}

impl<A> FrameDeallocator<Size4KiB> for NeverFreed<'_, A> {
    unsafe fn deallocate_frame(&mut self, _: PhysFrame) {}
}
