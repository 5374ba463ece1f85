//! Where the tables map memory: the one place in which a page of a table can be written, and which therefore carries its key. With a backend
//! that protects by an alias, tables are read-only there, and written at another address.

use x86_64::VirtAddr;
use x86_64::structures::paging::frame::PhysFrameRange;
use x86_64::structures::paging::mapper::PageTableFrameMapping;
use x86_64::structures::paging::{PageTable, PhysFrame};

/// The kernel's mapping of all memory. [`LinearMap`] is the one of `OffsetPageTable`; a kernel that uses `MappedPageTable` with a mapping of its own
/// implements this for it.
///
/// # Safety
///
/// The implementor promises that, for each frame that has an [`address`](Self::address),
/// [`frame_to_pointer`](PageTableFrameMapping::frame_to_pointer) is a pointer through which the frame can be read at any time, and written
/// while it carries no key or, without an alias, a window is open; that [`writable`](Self::writable) is one through which it can be written while a
/// window is open; and that each always gives the same for the same frame.
pub unsafe trait Linear: PageTableFrameMapping + Copy + 'static {
    /// The address at which the tables map this frame, or `None` for a frame that they do not map here.
    fn address(&self, frame: PhysFrame) -> Option<VirtAddr>;

    /// The address of the frame's alias, as the tables say, or `None` if tables are written where they are read.
    fn alias(&self, _frame: PhysFrame) -> Option<VirtAddr> {
        None
    }

    /// Where a frame that is a table is written, in a window: its alias, if it has one.
    #[inline(always)]
    fn writable(&self, frame: PhysFrame) -> *mut PageTable {
        self.frame_to_pointer(frame)
    }
}

/// The linear map as the wrapped crate's mapper needs it in a window, where it stores.
#[derive(Clone, Copy, Debug)]
pub struct InWindow<L>(pub(crate) L);

// SAFETY: `Linear` promises a pointer for each frame, writable in a window, which is where this is used.
unsafe impl<L: Linear> PageTableFrameMapping for InWindow<L> {
    #[inline(always)]
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        self.0.writable(frame)
    }
}

/// Memory mapped at an offset, as `OffsetPageTable` has it; with [`with_alias`](Self::with_alias), at another one too.
#[derive(Clone, Copy, Debug)]
pub struct LinearMap {
    memory: PhysFrameRange,
    offset: VirtAddr,
    pointers: usize,
    alias: Option<Alias>,
}

/// Where memory is mapped for the second time.
#[derive(Clone, Copy, Debug)]
struct Alias {
    offset: VirtAddr,
    pointers: usize,
}

impl LinearMap {
    /// `memory`, mapped at `offset` on: what is at physical address `a` is at `offset + a`.
    ///
    /// `None` if that is not a range of canonical addresses, or `offset` is not a multiple of 4 KiB.
    pub fn new(memory: PhysFrameRange, offset: VirtAddr) -> Option<LinearMap> {
        Self::seen_at(memory, offset, offset.as_u64() as usize)
    }

    /// The same where this program sees memory at another offset than the tables say: a model of a machine.
    pub fn seen_at(memory: PhysFrameRange, offset: VirtAddr, pointers: usize) -> Option<LinearMap> {
        let map = LinearMap { memory, offset, pointers, alias: None };
        map.entries(offset).map(|_| map)
    }

    /// The same memory mapped a second time, at `offset` on, for a backend that protects by an alias (SMAP): writable, for programs to access by
    /// every entry of the path, never executable, not global. The kernel maps it so before [`adopt`](crate::Protection::adopt), which checks.
    ///
    /// `None` if that is not a range of canonical addresses in the upper half, `offset` is not a multiple of 4 KiB, or an entry of the
    /// root would lead to both mappings: roots of programs have the one and lack the other.
    #[must_use]
    pub fn with_alias(self, offset: VirtAddr) -> Option<LinearMap> {
        self.with_alias_seen_at(offset, offset.as_u64() as usize)
    }

    /// The same where this program sees the alias at another offset than the tables say.
    #[must_use]
    pub fn with_alias_seen_at(self, offset: VirtAddr, pointers: usize) -> Option<LinearMap> {
        let (linear, alias) = (self.entries(self.offset)?, self.entries(offset)?);
        let apart = linear.1 < alias.0 || alias.1 < linear.0;
        let alias = (apart && alias.0 >= UPPER_HALF).then_some(Alias { offset, pointers })?;
        Some(LinearMap { alias: Some(alias), ..self })
    }

    /// The entries of the root that lead to the first and the last byte of memory mapped at an offset, if it can be.
    fn entries(&self, offset: VirtAddr) -> Option<(u64, u64)> {
        let (start, end) = (self.memory.start.start_address(), self.memory.end.start_address());
        let first = offset.as_u64().checked_add(start.as_u64())?;
        let last = offset.as_u64().checked_add(end.as_u64())? - 1;
        let canonical = VirtAddr::try_new(first).is_ok() && VirtAddr::try_new(last).is_ok();
        let possible = start < end && canonical && first >> 47 == last >> 47;
        (possible && offset.is_aligned(4096u64)).then_some((first >> 39 & 511, last >> 39 & 511))
    }

    fn at(&self, offset: VirtAddr, frame: PhysFrame) -> Option<VirtAddr> {
        let inside = (self.memory.start..self.memory.end).contains(&frame);
        // `entries` checked that the sum is canonical.
        inside.then(|| VirtAddr::new_truncate(offset.as_u64() + frame.start_address().as_u64()))
    }
}

/// The first entry of a root for the upper half of the address space.
const UPPER_HALF: u64 = 256;

fn pointer(offset: usize, frame: PhysFrame) -> *mut PageTable {
    let address = offset.wrapping_add(frame.start_address().as_u64() as usize);
    core::ptr::with_exposed_provenance_mut(address)
}

// SAFETY: the address is in the range that whoever adopts tables with this map answers for (`Protection::adopt`).
unsafe impl PageTableFrameMapping for LinearMap {
    #[inline(always)]
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        pointer(self.pointers, frame)
    }
}

// SAFETY: as above; all are an addition to the frame's address.
unsafe impl Linear for LinearMap {
    #[inline(always)]
    fn address(&self, frame: PhysFrame) -> Option<VirtAddr> {
        self.at(self.offset, frame)
    }

    #[inline(always)]
    fn alias(&self, frame: PhysFrame) -> Option<VirtAddr> {
        self.at(self.alias?.offset, frame)
    }

    #[inline(always)]
    fn writable(&self, frame: PhysFrame) -> *mut PageTable {
        pointer(self.alias.map_or(self.pointers, |alias| alias.pointers), frame)
    }
}
