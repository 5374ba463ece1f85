//! Adoption: the tables lose their map of themselves first, by which the wrapped crate would go on writing them past any key.

use kpkeys_x86_64::{AdoptError, Linear, LinearMap, Machine, Protection};
use patina_paging::page_allocator::PageAllocator;
use x86_64::structures::paging::frame::PhysFrameRange;
use x86_64::structures::paging::mapper::PageTableFrameMapping;
use x86_64::structures::paging::page_table::PageTableEntry;
use x86_64::structures::paging::{PageTableFlags, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};

use crate::frames::Own;

/// The entry of a root by which the wrapped crate maps its tables, and the one below which it maps a page to zero it.
const SELF_MAP: usize = 511;
const ZEROING: usize = 510;

/// Protects every table of `root`, which the CPUs use: those that map `memory` one to one among them. `frames` are for tables that split
/// blocks of it.
///
/// What the wrapped crate has in the last two entries of a root goes: its map of the tables themselves, which no key can protect (see the
/// documentation of `kpkeys-x86_64`), and what it last zeroed. It reaches its tables by the one-to-one map then, as it does for tables that it
/// has not made.
///
/// # Errors
///
/// What cannot be adopted, and why. Nothing is protected then, and the two entries are as they were.
///
/// # Safety
///
/// As for [`Protection::adopt`]: the tables have four levels, `memory` is mapped one to one and can be read and written, and no `X64PageTable` of `root` is used any
/// more.
pub unsafe fn adopt<M: Machine, A: PageAllocator>(
    machine: M,
    memory: PhysFrameRange,
    root: u64,
    frames: &mut A,
) -> Result<Protection<M, LinearMap>, AdoptError> {
    let root = PhysFrame::containing_address(PhysAddr::new_truncate(root));
    let outside = AdoptError::OutsideLinearMap { table: root };
    let linear = LinearMap::new(memory, VirtAddr::zero()).ok_or(outside)?;
    linear.address(root).ok_or(outside)?;
    // SAFETY: the root has an address, and nobody else uses the tables (caller's promise).
    let taken = unsafe { take_out(linear, root) };
    machine.flush_all();
    // SAFETY: the caller's promise.
    let adopted = unsafe { Protection::adopt(machine, linear, root, &mut Own::new(frames)) };
    if adopted.is_err() {
        // SAFETY: as above; the tables carry no key.
        unsafe { put_back(linear, root, taken) };
    }
    adopted
}

type Entries = [Option<PageTableEntry>; 2];

/// Empties the entries that are the wrapped crate's own, and returns what was there.
///
/// # Safety
///
/// `root` is a root that `linear` has, and nobody else uses it.
unsafe fn take_out(linear: LinearMap, root: PhysFrame) -> Entries {
    // SAFETY: the caller's promise.
    let table = unsafe { &mut *linear.frame_to_pointer(root) };
    let map = &table[SELF_MAP];
    let is_own =
        map.flags().contains(PageTableFlags::PRESENT) && map.addr() == root.start_address();
    if !is_own {
        return [const { None }; 2];
    }
    [SELF_MAP, ZEROING].map(|index| Some(core::mem::take(&mut table[index])))
}

/// # Safety
///
/// As for [`take_out`].
unsafe fn put_back(linear: LinearMap, root: PhysFrame, taken: Entries) {
    // SAFETY: the caller's promise.
    let table = unsafe { &mut *linear.frame_to_pointer(root) };
    for (index, entry) in [SELF_MAP, ZEROING].into_iter().zip(taken) {
        if let Some(entry) = entry {
            table[index] = entry;
        }
    }
}
