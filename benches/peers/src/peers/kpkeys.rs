//! This library, hosted: an operation, and so a window, for each call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use kpkeys::keyed::{Keyed, Register, Value};
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::{Hosted, HostedFormat, cpu};
use kpkeys_mm::{Buddy, FrameTable, Kernel, Layout};
use kpkeys_pgtable::range::WriteProtect;
use kpkeys_pgtable::{
    Attrs, Config, Format, Machine, NoProbe, PageRange, PhysAddr, Root, VirtAddr,
};

use crate::peer::{PAGE, Peer};

/// A register that costs nothing, to show what is left of a mode without its windows. For one thread.
#[derive(Debug, Default)]
pub struct NullRegister(AtomicU64);

// SAFETY: reads return what was last written; there is one CPU. Compiler fences keep stores in their windows; the register protects nothing, so
// there is no hardware order to keep.
unsafe impl Register for NullRegister {
    const NEEDS_BARRIER: bool = false;

    #[inline(always)]
    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn write(&self, value: Value) {
        compiler_fence(Ordering::SeqCst);
        self.0.store(value.bits(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn synchronize(&self) {}
}

/// A kernel whose windows cost nothing.
pub type WithoutSwitches<F> =
    Hosted<F, Keyed<NullRegister, <F as HostedFormat>::Encoding>, NoProbe>;

/// Boots it.
pub fn boot_without_switches<F: HostedFormat>(
    pages: usize,
    config: Config,
) -> Kernel<WithoutSwitches<F>> {
    let arena = Arc::new(Arena::new(pages).expect("the host has memory for the arena"));
    let backend = Keyed::new(NullRegister::default());
    backend.reset();
    let machine = Hosted::new(arena, backend, NoProbe, 1);
    let memory = machine.memory();
    let frames = Buddy::new(memory, FrameTable::on_heap(memory.pages), true, 1, cpu::current);
    // SAFETY: all of this memory is free, and nobody else has it.
    unsafe { frames.add(0..memory.pages) };
    let kernel = Kernel::new(machine, frames, config, Layout::standard()).expect("it boots");
    kernel.enable_protection().expect("protection can be turned on");
    kernel
}

/// An address space of a kernel. Pages have constant attributes, as with every other library here; if they are not settled, a walker may still
/// mark their entries, so that every change of one is an atomic read-modify-write.
pub struct Kpkeys<'k, M: Machine, const SETTLED: bool> {
    kernel: &'k Kernel<M>,
    root: Root,
}

impl<'k, M: Machine, const SETTLED: bool> Kpkeys<'k, M, SETTLED> {
    const ATTRS: Attrs = Attrs { young: SETTLED, dirty: SETTLED, ..Attrs::USER_DATA };

    /// An empty one.
    pub fn new(kernel: &'k Kernel<M>) -> Self {
        let paging = kernel.paging();
        let section = paging.section(paging.kernel());
        let root = paging.new_user_root(&section).expect("there is memory for a root");
        Kpkeys { kernel, root }
    }
}

#[inline(always)]
fn range<F: Format>(va: u64, pages: usize) -> PageRange<F> {
    PageRange::new(VirtAddr(va), pages).expect("a range in the user's half")
}

impl<M: Machine, const SETTLED: bool> Peer for Kpkeys<'_, M, SETTLED> {
    #[inline]
    fn walk(&self, va: u64) -> u64 {
        self.kernel.paging().translate(&self.root, VirtAddr(va)).map_or(0, |pa| pa.0)
    }

    #[inline(always)]
    fn map_range(&mut self, va: u64, pa: u64, pages: usize) {
        let paging = self.kernel.paging();
        let section = paging.section(&self.root);
        let frame = |i| PhysAddr(pa + i as u64 * PAGE);
        paging.map(&section, &self.root, range(va, pages), Self::ATTRS, frame).expect("mapped");
    }

    #[inline(always)]
    fn protect_range(&mut self, va: u64, pages: usize) {
        let paging = self.kernel.paging();
        let section = paging.section(&self.root);
        paging.protect(&section, &self.root, range(va, pages), WriteProtect).expect("protected");
    }

    #[inline(always)]
    fn unmap_range(&mut self, va: u64, pages: usize) {
        let paging = self.kernel.paging();
        let section = paging.section(&self.root);
        paging.unmap(&section, &self.root, range(va, pages), |_, _, _| ()).expect("unmapped");
    }

    fn entry(&self, va: u64) -> u64 {
        let found = self.kernel.paging().walk(&self.root, VirtAddr(va));
        found.map_or(0, |(_, _, entry)| entry.0)
    }
}
