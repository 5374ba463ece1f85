//! The machine: an arena, a backend, a probe, and fences in the place of barriers.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use kpkeys::Backend;
use kpkeys::encoding::{Encoding, Pkrs, Por};
use kpkeys_pgtable::entry::{Arm64, Depth, Granule, X86};
use kpkeys_pgtable::guarded::{Anchor, Violation, Violations};
use kpkeys_pgtable::{Entry, Flush, Format, Machine, Memory, PhysAddr, Probe, VirtAddr};

use crate::arena::{Arena, Views};
use crate::register::{context_barrier, store_barrier};
use crate::tlb::{NoTlb, Tlb};
use crate::{cpu, gates, mmu};

/// Where physical memory starts. Not zero, so that a forgotten base shows.
pub const MEMORY_START: PhysAddr = PhysAddr(0x1_0000_0000);
/// Where the alias puts it, for backends that need one.
pub const ALIAS_START: VirtAddr = VirtAddr(0xffff_a000_0000_0000);
/// Where the alias puts it, for backends whose windows load a root for it.
pub const ALIAS_IN_WINDOWS_START: VirtAddr = VirtAddr(0x2000_0000_0000);
/// Where the linear map puts it.
pub const LINEAR_START: VirtAddr = VirtAddr(0xffff_8880_0000_0000);

/// An entry format, the register encoding of the same architecture, and its rules for accesses.
pub trait HostedFormat: Format {
    /// The encoding of the protection register.
    type Encoding: Encoding + Send + Sync + 'static;

    /// What a leaf lets the kernel and user programs do on a CPU.
    fn permissions(leaf: Entry, cpu: &mmu::Cpu) -> mmu::Permissions;
}

impl<D: Depth> HostedFormat for X86<D> {
    type Encoding = Pkrs;

    fn permissions(leaf: Entry, cpu: &mmu::Cpu) -> mmu::Permissions {
        mmu::x86_64::permissions(leaf, cpu)
    }
}

impl<G: Granule> HostedFormat for Arm64<G> {
    type Encoding = Por;

    fn permissions(leaf: Entry, cpu: &mmu::Cpu) -> mmu::Permissions {
        mmu::aarch64::permissions(leaf, cpu)
    }
}

/// A machine in this process.
#[derive(Debug)]
pub struct Hosted<F: HostedFormat, B, P, T = NoTlb> {
    /// Of the arena, which lives as long.
    views: Views,
    arena: Arc<Arena>,
    backend: B,
    probe: P,
    tlb: T,
    cpus: usize,
    alias: VirtAddr,
    gates: gates::Gates,
    anchor: Anchor<F>,
    violations: Violations,
    reported: Mutex<Vec<Violation>>,
}

impl<F: HostedFormat, B: Backend, P: Probe> Hosted<F, B, P> {
    /// A machine whose physical memory is `arena`, with CPUs for up to `cpus` threads.
    pub fn new(arena: Arc<Arena>, backend: B, probe: P, cpus: usize) -> Self {
        Hosted::with_tlb(arena, backend, probe, NoTlb, cpus)
    }
}

impl<F: HostedFormat, B: Backend, P: Probe, T: Tlb> Hosted<F, B, P, T> {
    /// The same, with something that keeps translations.
    pub fn with_tlb(arena: Arc<Arena>, backend: B, probe: P, tlb: T, cpus: usize) -> Self {
        Hosted {
            views: arena.views(MEMORY_START),
            arena,
            backend,
            probe,
            tlb,
            cpus: cpus.max(1),
            alias: ALIAS_START,
            gates: gates::Gates::new(cpus.max(1)),
            anchor: Anchor::new(),
            violations: Violations::default(),
            reported: Mutex::default(),
        }
    }

    /// The same, where violations are audited.
    pub fn auditing(self) -> Self {
        Hosted { violations: Violations::Audit, ..self }
    }

    /// The same, with the alias in the half that programs have otherwise, where windows load a root for it.
    pub fn with_alias_in_windows(self) -> Self {
        Hosted { alias: ALIAS_IN_WINDOWS_START, ..self }
    }

    /// Takes the violations that were reported since this was last asked.
    pub fn take_reported(&self) -> Vec<Violation> {
        // Whoever panicked with the lock held had pushed, or had not.
        std::mem::take(&mut self.reported.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[inline(always)]
    fn offset(&self, view: *mut u8, frame: PhysAddr) -> NonNull<u8> {
        debug_assert!(
            frame.0.wrapping_sub(MEMORY_START.0) < self.arena.bytes() as u64,
            "{frame:?} is outside the arena"
        );
        // SAFETY: `frame` is in memory (the callers' contract), so the address is inside the view, and not null.
        unsafe { NonNull::new_unchecked(view.wrapping_add(frame.0 as usize)) }
    }
}

impl<F: HostedFormat, B: Backend + Sync, P: Probe, T: Tlb> Hosted<F, B, P, T> {
    /// The kernel's tables are those with this root from now on: what a kernel does by loading its root register.
    pub fn load_root(&self, root: PhysAddr) {
        self.tlb.load(self, root);
    }
}

// SAFETY: all views cover every frame of `memory`, page-aligned, for as long as the arena lives, which this machine owns. Tables
// are always readable; they are writable always, or in the guarded arena while a window is open, through the view that is for
// that; or, where the host has keys, unless their page has one, and then by a thread with a window open. The fences are the nearest the
// host has, and stand for barriers that nothing here depends on: there is no table walker but software, on coherent memory. What there is of a
// TLB, `flush_tlb` makes anew for all threads before it returns. CPU numbers are the threads', whose uniqueness `cpu::become_cpu` asks for.
unsafe impl<F: HostedFormat, B: Backend + Sync, P: Probe, T: Tlb> Machine for Hosted<F, B, P, T> {
    type Format = F;
    type Backend = B;
    type Probe = P;

    #[inline(always)]
    fn backend(&self) -> &B {
        &self.backend
    }

    #[inline(always)]
    fn probe(&self) -> &P {
        &self.probe
    }

    #[inline(always)]
    fn memory(&self) -> Memory<F> {
        Memory::new(MEMORY_START, self.arena.bytes() >> F::PAGE_SHIFT, LINEAR_START)
    }

    #[inline(always)]
    fn table(&self, frame: PhysAddr) -> NonNull<u8> {
        self.offset(self.views.tables, frame)
    }

    #[inline(always)]
    fn data(&self, frame: PhysAddr) -> NonNull<u8> {
        self.offset(self.views.data, frame)
    }

    #[inline(always)]
    fn alias(&self) -> Option<VirtAddr> {
        Some(self.alias)
    }

    #[inline(always)]
    fn to_alias(&self) -> usize {
        self.arena.alias().addr().get().wrapping_sub(self.arena.tables().addr().get())
    }

    #[inline(always)]
    fn anchor(&self) -> &Anchor<F> {
        &self.anchor
    }

    fn violations(&self) -> Violations {
        self.violations
    }

    #[cold]
    fn report(&self, violation: &Violation) {
        debug_assert!(self.backend.is_in::<kpkeys::context::Default>(), "a window is open");
        self.reported.lock().unwrap_or_else(PoisonError::into_inner).push(*violation);
    }

    #[inline(always)]
    fn interrupts_off(&self) -> bool {
        self.gates.enter()
    }

    #[inline(always)]
    fn interrupts_on(&self) {
        self.gates.leave();
    }

    fn wait_for_gates(&self) -> bool {
        self.gates.wait()
    }

    #[inline(always)]
    fn entry_barrier(&self) {
        store_barrier();
        context_barrier();
    }

    #[inline(always)]
    fn flush_tlb(&self, flush: Flush<F>) {
        // `Paging` has counted it.
        self.tlb.flush(self, flush);
    }

    #[inline(always)]
    fn cpu(&self) -> usize {
        cpu::current()
    }

    #[inline(always)]
    fn cpus(&self) -> usize {
        self.cpus
    }
}
