//! Kernel mappings of frames that need not be contiguous: `vmalloc` and `vm_map_ram`.
//!
//! | module | concept |
//! |---|---|
//! | [`area`] | `vmalloc`, `vmalloc_huge`, `vfree` |
//! | `backing` | the frames behind an area |
//! | [`blocks`] | `vm_map_ram` on per-CPU blocks |
//! | [`deferred`] | unmaps that wait for a window |
//! | [`lazy`] | unmapped addresses and frames that wait for a TLB flush |
//! | `held` | pages of `vm_map_ram` whose frames are held until that flush |
//! | [`addresses`] | free ranges of kernel addresses |
//! | [`extent`] | a range of addresses as a node, from taking it to giving it back |
//! | `owners` | who owns what starts at an address |
//! | `cpu` | what each CPU has for itself |
//!
//! # The life of a range
//!
//! Mapped; then unmapped, its entries cleared but TLBs still holding it, so its addresses *and its frames* wait on its CPU's lazy list;
//! then, when enough wait, one TLB flush for all of them, and only then is any of it free. That holds in every mode, and for what was
//! mapped for a moment by a request that failed.
//!
//! The frames of `vm_map_ram` are the caller's. Each is held, by a reference, from before it is mapped until the flush, so it is not free
//! before even if its owner gives it back at once. One that has no owner who counts (a page of an address space, a table, a device's memory)
//! is flushed when it is unmapped.
//!
//! Enough is 32 MiB of addresses, more with more CPUs, or an eighth of all frames; and whatever waits if memory or addresses are short.
//! Kernel page-table pages are never freed.
//!
//! # Locks
//!
//! A mapping is made, found and given back with what its CPU has for itself, and atomic words that nobody else touches. Only a CPU that
//! has used up its addresses, and a purge, take the lock of the free ranges. There is one purge at a time. Its lock is taken before a CPU's own,
//! and that before the lock of the free ranges; the last two are never held while page tables are changed.
//!
//! # Heap
//!
//! What a call will need is asked for before it changes anything, so a heap that is used up is [`Error::OutOfMemory`] and nothing
//! else; giving back needs none.

pub mod addresses;
pub mod area;
mod backing;
pub mod blocks;
mod contents;
mod cpu;
pub mod deferred;
pub mod extent;
mod held;
pub mod lazy;
mod owners;

use alloc::boxed::Box;

use kpkeys_pgtable::{Format, Machine, PageRange};
use spin::{Mutex, MutexGuard};

use crate::error::Error;
use crate::heap;
use crate::kernel::Kernel;
use addresses::FreeAddresses;
use cpu::{Own, PerCpu};
use deferred::Deferred;
use extent::Extent;
use lazy::Waiting;
use owners::Owners;

/// A range of addresses that was taken, and what waits to be unmapped.
type Taken<E> = (Box<Extent<E>>, Deferred<E>);
/// The range that was taken, or the node itself if there was none.
type Replaced<E> = Result<Box<Extent<E>>, Box<Extent<E>>>;

/// The kernel's mappings.
pub(crate) struct Vmalloc<E: Format> {
    range: PageRange<E>,
    addresses: Mutex<FreeAddresses<E>>,
    owners: Owners<E>,
    waiting: Waiting,
    cpus: Box<[PerCpu<E>]>,
}

impl<E: Format> Vmalloc<E> {
    /// Whether an address is one of those that areas lie at.
    #[inline(always)]
    pub(crate) fn covers(&self, va: kpkeys_pgtable::VirtAddr) -> bool {
        self.range.contains(va)
    }

    /// Everything in `range` is free. There are `memory` frames.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub(crate) fn new(range: PageRange<E>, cpus: usize, memory: usize) -> Result<Self, Error> {
        let cpus = cpus.max(1);
        let per_cpu = (0..cpus).map(|_| PerCpu::default());
        Ok(Vmalloc {
            range,
            addresses: Mutex::new(FreeAddresses::new(range, Extent::new()?)),
            owners: Owners::new(range)?,
            waiting: Waiting::new(cpus, memory),
            cpus: heap::collect(per_cpu)?.into_boxed_slice(),
        })
    }

    /// A range of free addresses in `node`, or `node` itself if there is none. An aligned one takes a node more.
    fn try_take(
        &self,
        pages: usize,
        align: u64,
        node: Box<Extent<E>>,
    ) -> Result<Replaced<E>, Error> {
        if align <= E::PAGE_SIZE {
            return Ok(self.addresses.lock().take(pages, pages, node));
        }
        let rest = Extent::new()?;
        Ok(self.addresses.lock().take_aligned(pages, align, node, rest))
    }

    /// Frees the addresses that CPUs have for small areas and have not handed out.
    fn give_up_chunks(&self) {
        for cpu in &self.cpus {
            if let Some(chunk) = cpu.lock().give_up_chunk() {
                self.addresses.lock().put(chunk);
            }
        }
    }

    /// What the CPU with this number has for itself.
    #[inline(always)]
    fn cpu(&self, number: usize) -> &PerCpu<E> {
        // Numbers are below that of CPUs; a model's threads may have none.
        self.cpus.get(number).unwrap_or(&self.cpus[0])
    }
}

impl<M: Machine> Kernel<M> {
    /// What the calling CPU has for itself.
    #[inline(always)]
    fn own(&self) -> MutexGuard<'_, Own<M::Format>> {
        self.areas().cpu(self.machine().cpu()).lock()
    }

    /// A range of kernel addresses in `node`, purging if that is what it takes.
    fn take_addresses(
        &self,
        pages: usize,
        align: u64,
        node: Box<Extent<M::Format>>,
    ) -> Result<Box<Extent<M::Format>>, Error> {
        match self.areas().try_take(pages, align, node)? {
            Ok(taken) => Ok(taken),
            Err(node) => {
                self.purge_vmalloc();
                self.areas().give_up_chunks();
                let taken = self.areas().try_take(pages, align, node)?;
                taken.map_err(|_| Error::OutOfAddresses(pages))
            }
        }
    }

    /// The same, and the unmaps that wait on this CPU: its lock is taken once for both.
    fn take_addresses_and_deferred(
        &self,
        pages: usize,
        align: u64,
    ) -> Result<Taken<M::Format>, Error> {
        let (node, deferred) = {
            let mut own = self.own();
            (own.take_spare()?, self.deferred_of(&mut own))
        };
        match self.take_addresses(pages, align, node) {
            Ok(taken) => Ok((taken, deferred)),
            Err(error) => {
                self.clear_now(deferred);
                Err(error)
            }
        }
    }
}
