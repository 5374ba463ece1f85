//! The host's page tables as the machine's TLB.
//!
//! The library changes the linear map and then flushes, as a kernel does. A flush is when the host learns of such a change: each page
//! of the arena gets the key that the linear map says *now*. Until the flush the old key is in force, as it is on a CPU.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use kpkeys::Pkey;
use kpkeys_pgtable::{Flush, Format, Machine, Memory, PageRange, PhysAddr};

use crate::arena::Arena;
use crate::machine::HostedFormat;
use crate::mmu::Mmu;
use crate::tlb::Tlb;

/// The host's page tables keep the key of each page of an arena.
#[derive(Debug)]
pub struct HostKeys {
    arena: Arc<Arena>,
    /// The kernel's root. Locked while the host is told, or one CPU might tell it what another has since changed.
    root: Mutex<Option<PhysAddr>>,
}

impl HostKeys {
    /// Of this arena, all of whose pages have the host's default key.
    pub fn new(arena: Arc<Arena>) -> Self {
        HostKeys { arena, root: Mutex::new(None) }
    }

    /// Gives pages the keys that the linear map says, those in a row that have the same at once.
    fn follow<M: Machine<Format: HostedFormat>>(
        &self,
        machine: &M,
        root: PhysAddr,
        pages: Range<usize>,
    ) {
        let mut run: Option<(Range<usize>, Pkey)> = None;
        for (leaf, key) in leaves(machine, root, pages) {
            run = match run {
                Some((run, of_run)) if of_run == key && run.end == leaf.start => {
                    Some((run.start..leaf.end, key))
                }
                before => {
                    self.set(before);
                    Some((leaf, key))
                }
            };
        }
        self.set(run);
    }

    fn set(&self, run: Option<(Range<usize>, Pkey)>) {
        if let Some((pages, key)) = run {
            self.arena.set_key(pages, key);
        }
    }
}

impl Tlb for HostKeys {
    fn load<M: Machine<Format: HostedFormat>>(&self, machine: &M, root: PhysAddr) {
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = Some(root);
        self.flush(machine, Flush::AllKernel);
    }

    fn flush<M: Machine<Format: HostedFormat>>(&self, machine: &M, flush: Flush<M::Format>) {
        let memory = machine.memory();
        let pages = match flush {
            Flush::Kernel(range) => of_linear_map(memory, range),
            Flush::AllKernel | Flush::All => 0..memory.pages,
            // The key of memory is the linear map's alone.
            Flush::User(..) | Flush::AddressSpace(_) => return,
        };
        if pages.is_empty() {
            return;
        }
        let root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = *root {
            self.follow(machine, root, pages);
        }
    }
}

/// The pages of memory whose linear addresses are in a range.
fn of_linear_map<F: Format>(memory: Memory<F>, range: PageRange<F>) -> Range<usize> {
    let page = |va: u64| (va.saturating_sub(memory.linear.0) / F::PAGE_SIZE) as usize;
    let first = page(range.start().0).min(memory.pages);
    first..page(range.end().0).min(memory.pages)
}

/// The leaves of the linear map for pages, each with the pages it maps of them, and its key. What is not mapped is left out.
fn leaves<M: Machine<Format: HostedFormat>>(
    machine: &M,
    root: PhysAddr,
    pages: Range<usize>,
) -> impl Iterator<Item = (Range<usize>, Pkey)> {
    let memory = machine.memory();
    let mmu = Mmu::new(machine, root, None, 0);
    let mut next = pages.start;
    std::iter::from_fn(move || {
        while next < pages.end {
            let va = memory.linear_address(memory.frame(next));
            let found = mmu.leaf(root, va);
            let (Ok((level, _)) | Err(level)) = found;
            let size = level.entry_pages::<M::Format>();
            let start = next;
            next = ((start / size + 1) * size).min(pages.end);
            if let Ok((_, entry)) = found {
                return Some((start..next, M::Format::key(entry)));
            }
        }
        None
    })
}
