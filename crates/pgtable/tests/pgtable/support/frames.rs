//! Frames that can run out: a buddy allocator whose largest order and number of allocations a test sets.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use kpkeys_mm::{Buddy, FrameTable};
use kpkeys_pgtable::ptp::REFILL_ORDERS;
use kpkeys_pgtable::{Format, Frames, Memory, PhysAddr};

/// See the module.
pub struct Scarce<F: Format> {
    buddy: Buddy<F>,
    largest_order: AtomicU8,
    allocations_left: AtomicUsize,
    refused: AtomicUsize,
    allocated: Mutex<Vec<(PhysAddr, u8)>>,
    forged: Mutex<Option<PhysAddr>>,
}

impl<F: Format> Scarce<F> {
    pub fn new(memory: Memory<F>) -> Self {
        let table = FrameTable::on_heap(memory.pages);
        let buddy = Buddy::new(memory, table, true, 1, kpkeys_hosted::cpu::current);
        // SAFETY: all of this memory is free, and nobody else has it.
        unsafe { buddy.add(0..memory.pages) };
        Scarce {
            buddy,
            largest_order: AtomicU8::new(u8::MAX),
            allocations_left: AtomicUsize::new(usize::MAX),
            refused: AtomicUsize::new(0),
            allocated: Mutex::default(),
            forged: Mutex::default(),
        }
    }

    /// Refuses blocks of a larger order from now on, as if memory were fragmented.
    pub fn set_largest_order(&self, order: u8) {
        self.largest_order.store(order, Ordering::Relaxed);
    }

    /// Gives this out as the next block, as if a link of a free list were changed to it.
    pub fn forge(&self, block: PhysAddr) {
        *self.forged.lock().expect("no test panics with the lock held") = Some(block);
    }

    /// Whether what was forged was not asked for yet.
    pub fn is_forging(&self) -> bool {
        self.forged.lock().expect("no test panics with the lock held").is_some()
    }

    /// Refuses everything after this many more allocations.
    pub fn fail_after(&self, allocations: usize) {
        self.allocations_left.store(allocations, Ordering::Relaxed);
        self.refused.store(0, Ordering::Relaxed);
    }

    /// Refuses nothing for want of allocations any more; returns how often something was refused.
    pub fn recover(&self) -> usize {
        self.allocations_left.store(usize::MAX, Ordering::Relaxed);
        self.refused.swap(0, Ordering::Relaxed)
    }

    /// Blocks that are allocated now, in the order of their allocation.
    pub fn allocated(&self) -> Vec<(PhysAddr, u8)> {
        self.allocated.lock().expect("no test panics with the lock held").clone()
    }

    /// Those of them that a pool took for page-table pages; what it remembers is in single frames.
    pub fn blocks(&self) -> Vec<(PhysAddr, u8)> {
        self.allocated().into_iter().filter(|block| block.1 >= REFILL_ORDERS[2]).collect()
    }

    pub fn free_frames(&self) -> usize {
        self.buddy.free_frames()
    }

    fn may_allocate(&self, order: u8) -> bool {
        order <= self.largest_order.load(Ordering::Relaxed)
            && self
                .allocations_left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
    }
}

impl<F: Format> Frames for Scarce<F> {
    fn allocate(&self, order: u8) -> Option<PhysAddr> {
        if let Some(forged) = self.forged.lock().expect("no test panics with the lock held").take()
        {
            return Some(forged);
        }
        if !self.may_allocate(order) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let block = self.buddy.allocate(order)?;
        self.allocated.lock().expect("no test panics with the lock held").push((block, order));
        Some(block)
    }

    unsafe fn release(&self, block: PhysAddr, order: u8) {
        let mut allocated = self.allocated.lock().expect("no test panics with the lock held");
        let place = allocated.iter().position(|&known| known == (block, order));
        allocated
            .remove(place.expect("a block is released once, with the order it was allocated with"));
        drop(allocated);
        // SAFETY: the caller's promise is the one asked for.
        unsafe { self.buddy.release(block, order) };
    }
}
