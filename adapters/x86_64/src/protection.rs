//! Protected tables: what all mappers of a kernel share.

use kpkeys::{Backend, Pkey, Scheme};
use spin::Mutex;
use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame, Size4KiB};

use crate::entry::{Slot, zero};
use crate::error::{AdoptError, OutOfFrames};
use crate::frames::{List, NoFrames};
use crate::key::Keys;
use crate::linear::Linear;
use crate::machine::{Machine, in_window};
use crate::mapper::HardenedPageTable;

/// Frames that change their key together, before one flush.
const TOGETHER: usize = 16;

/// Tables whose pages carry the key of page tables. One for a kernel, shared by its CPUs.
#[derive(Debug)]
pub struct Protection<M, L> {
    pub(crate) machine: M,
    pub(crate) linear: L,
    root: PhysFrame,
    /// Frames that are keyed, ahead of use. The lock is also the one of all changes to the linear map. It is a spinlock that leaves
    /// interrupts alone, and is never held over a flush.
    pub(crate) spares: Mutex<List>,
    /// For adapters of other crates: frames that wait for a flush.
    pub(crate) freed: Mutex<List>,
    /// Likewise: held by the call that counts on what is in stock.
    pub(crate) call: Mutex<()>,
}

impl<M: Machine, L: Linear> Protection<M, L> {
    /// Protects every table of `root`, the kernel's: those of the linear map too. `frames` are for tables that split blocks of it.
    ///
    /// # Errors
    ///
    /// What cannot be adopted, and why. Nothing is protected then, though blocks of the linear map may be split.
    ///
    /// # Safety
    ///
    /// - `root` is the root of the 4-level tables that the CPUs use, and `linear` says where they map memory.
    /// - Nothing stores to the tables from now on but this crate and the CPUs: no mapper of the wrapped crate is left, no reference to a table.
    /// - The backend is initialised on every CPU, which is outside of windows.
    /// - Frames that allocators hand out are mapped writable by the linear map alone.
    pub unsafe fn adopt<A: FrameAllocator<Size4KiB>>(
        machine: M,
        linear: L,
        root: PhysFrame,
        frames: &mut A,
    ) -> Result<Self, AdoptError> {
        linear.address(root).ok_or(AdoptError::OutsideLinearMap { table: root })?;
        match (machine.backend().scheme(), linear.alias(root)) {
            (Scheme::Keys, None) | (Scheme::Alias, Some(_)) => {}
            _ => return Err(AdoptError::Scheme),
        }
        let [spares, freed] = [List::EMPTY, List::EMPTY].map(Mutex::new);
        let protection = Protection { machine, linear, root, spares, freed, call: Mutex::new(()) };
        // SAFETY: the caller's promise.
        unsafe { protection.adopt_root(root, frames)? };
        Ok(protection)
    }

    /// Protects the tables of another root, of an address space that was made before.
    ///
    /// # Errors
    ///
    /// As for [`adopt`](Self::adopt). Some tables of `root` may be protected then, so that only this crate can change them.
    ///
    /// # Safety
    ///
    /// As for [`adopt`](Self::adopt); the upper half of `root` is that of the kernel's root, without the alias if there is one.
    pub unsafe fn adopt_root<A: FrameAllocator<Size4KiB>>(
        &self,
        root: PhysFrame,
        frames: &mut A,
    ) -> Result<(), AdoptError> {
        let adopted = {
            let _lock = self.spares.lock();
            self.keys().adopt(root, frames)
        };
        self.machine.flush_all();
        adopted
    }

    /// The root that was adopted first: the kernel's.
    pub fn root(&self) -> PhysFrame {
        self.root
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// A mapper for the tables of a root, which takes the place of the wrapped crate's.
    ///
    /// # Safety
    ///
    /// - `root` was adopted, or comes from [`new_root`](Self::new_root), and there is no other mapper for it.
    /// - Mappers of roots that share tables are used one at a time where they change those.
    /// - Where the linear map itself is changed through a mapper, no other one makes tables meanwhile: keys are in the same entries.
    /// - No interrupt handler uses a mapper: a lock would never come free.
    pub unsafe fn tables(&self, root: PhysFrame) -> HardenedPageTable<'_, M, L> {
        HardenedPageTable::new(self, root)
    }

    /// Whether a frame carries the key of page tables.
    pub fn protects(&self, frame: PhysFrame) -> bool {
        self.keys().leaf(frame).is_ok_and(|leaf| leaf.entry.key() == Pkey::PAGE_TABLES)
    }

    /// A new root: nothing in the lower half, in the upper half what the kernel's root has there now, but for an alias. A kernel with one
    /// changes tables while its own root is loaded, and runs programs on others.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`].
    pub fn new_root<A: FrameAllocator<Size4KiB> + ?Sized>(
        &self,
        frames: &mut A,
    ) -> Result<PhysFrame, OutOfFrames> {
        let mut list = self.take(1, frames)?;
        let root = list.pop(&self.linear, self.root).ok_or(OutOfFrames)?;
        let aliased = self.keys().is_aliased();
        in_window(&self.machine, |window| {
            // SAFETY: the frame has an address, and was taken for this.
            unsafe { zero(window, &self.linear, root) };
            for index in 256..512 {
                // SAFETY: both are tables with an address: the root that was adopted, and the one that is being made.
                let [kernel, new] =
                    [self.root, root].map(|root| unsafe { Slot::of(&self.linear, root, index) });
                let entry = kernel.load();
                if !(aliased && entry.may_be_an_alias()) {
                    new.store(window, entry);
                }
            }
        });
        Ok(root)
    }

    /// Takes a root back, and gives its frame to `frames` after a flush.
    ///
    /// # Safety
    ///
    /// No CPU uses the root, its lower half has no tables, and the frame comes from the allocator of `frames`.
    pub unsafe fn release_root<D: FrameDeallocator<Size4KiB>>(
        &self,
        root: PhysFrame,
        frames: &mut D,
    ) {
        let mut list = List::EMPTY;
        // SAFETY: the frame carries the key, and nobody uses it (caller's promise).
        in_window(&self.machine, |window| unsafe { list.push(window, &self.linear, root) });
        self.give_back(list, frames);
    }

    /// Protects frames ahead of use, until `count` are in stock: the calls that need them then neither allocate nor flush.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`], with those in stock that there were.
    pub fn reserve<A: FrameAllocator<Size4KiB> + ?Sized>(
        &self,
        count: usize,
        frames: &mut A,
    ) -> Result<(), OutOfFrames> {
        if self.reserved() < count {
            let list = self.take(count, frames)?;
            self.put(list);
        }
        Ok(())
    }

    /// Frames in stock.
    pub fn reserved(&self) -> usize {
        self.spares.lock().len()
    }

    /// `count` keyed frames, from stock or from the allocator.
    pub(crate) fn take<A: FrameAllocator<Size4KiB> + ?Sized>(
        &self,
        count: usize,
        frames: &mut A,
    ) -> Result<List, OutOfFrames> {
        let mut list = List::EMPTY;
        if count == 0 {
            return Ok(list);
        }
        self.move_spares(count, &mut list);
        while list.len() < count {
            if let Err(error) = self.grow(count - list.len(), &mut list, frames) {
                self.put(list);
                return Err(error);
            }
        }
        Ok(list)
    }

    /// Moves up to `count` frames from stock.
    fn move_spares(&self, count: usize, to: &mut List) {
        let mut spares = self.spares.lock();
        if spares.is_empty() {
            return;
        }
        in_window(&self.machine, |window| {
            while to.len() < count {
                let Some(frame) = spares.pop(&self.linear, self.root) else { break };
                // SAFETY: the frame was in a list, so it is keyed and nobody's.
                unsafe { to.push(window, &self.linear, frame) };
            }
        });
    }

    /// Puts frames in stock.
    pub(crate) fn put(&self, mut list: List) {
        if list.is_empty() {
            return;
        }
        let mut spares = self.spares.lock();
        in_window(&self.machine, |window| {
            while let Some(frame) = list.pop(&self.linear, self.root) {
                // SAFETY: as in `move_spares`.
                unsafe { spares.push(window, &self.linear, frame) };
            }
        });
    }

    /// Protects some more frames, at least one and at most `count`.
    fn grow<A: FrameAllocator<Size4KiB> + ?Sized>(
        &self,
        count: usize,
        list: &mut List,
        frames: &mut A,
    ) -> Result<(), OutOfFrames> {
        let mut new = [None; TOGETHER];
        {
            let _lock = self.spares.lock();
            for place in new.iter_mut().take(count) {
                *place = frames
                    .allocate_frame()
                    .filter(|&frame| self.keys().set(frame, Pkey::PAGE_TABLES, frames).is_ok());
                if place.is_none() {
                    break;
                }
            }
        }
        // What was changed before a refusal is flushed too: a block that was split.
        self.machine.flush_all();
        in_window(&self.machine, |window| {
            // The one that was allocated first is to be handed out first.
            for frame in new.into_iter().rev().flatten() {
                // SAFETY: keyed and flushed above, and the allocator's to give.
                unsafe { list.push(window, &self.linear, frame) };
            }
        });
        new[0].map(|_| ()).ok_or(OutOfFrames)
    }

    /// Gives frames that were tables back to where they came from: after a flush, since CPUs may hold paths through them; without their key; and
    /// after another flush, since CPUs may hold the key.
    pub(crate) fn give_back<D: FrameDeallocator<Size4KiB>>(&self, mut list: List, to: &mut D) {
        if list.is_empty() {
            return;
        }
        self.machine.flush_all();
        while !list.is_empty() {
            let freed = self.unprotect_some(&mut list);
            self.machine.flush_all();
            for frame in freed.into_iter().flatten() {
                // SAFETY: no table and no TLB refers to the frame any more, and it can be written again.
                unsafe { to.deallocate_frame(frame) };
            }
        }
    }

    /// Resets the key of the next frames. One that keeps it is not given back, where every store to it would fault.
    fn unprotect_some(&self, list: &mut List) -> [Option<PhysFrame>; TOGETHER] {
        let mut freed = [None; TOGETHER];
        let _lock = self.spares.lock();
        for place in &mut freed {
            *place = list
                .pop(&self.linear, self.root)
                .filter(|&frame| self.keys().set(frame, Pkey::DEFAULT, &mut NoFrames).is_ok());
        }
        freed
    }

    pub(crate) fn keys(&self) -> Keys<'_, M, L> {
        Keys { machine: &self.machine, linear: self.linear, root: self.root }
    }
}
