//! The machine below the page tables: this one.

use crate::arch::backend::Selected;
use crate::arch::tlb;
use crate::arch::{self, layout};
use crate::arch::{Anchor, Flush, Format, Memory};
use crate::start::settled::Settled;
use crate::{cpu, protection};
use core::ptr::NonNull;
use kpkeys_pgtable::guarded::{Types, Violation, Violations};
use kpkeys_pgtable::{Machine, PhysAddr, Probe, VirtAddr};

/// Where the types of frames begin.
#[unsafe(link_section = ".settled")]
static ANCHOR: Anchor = Anchor::new();

/// The memory that the linear map covers.
#[unsafe(link_section = ".settled")]
static MEMORY: Settled<Memory> = Settled::new();

/// What every frame is, in modes that check.
pub fn types() -> Option<&'static Types<Format>> {
    ANCHOR.get()
}

/// Hardware, or what an emulator makes of it.
pub struct Bare<P> {
    probe: P,
    cpus: usize,
}

impl<P: Probe> Bare<P> {
    /// The running machine, whose linear map covers `memory`.
    pub fn new(memory: Memory, probe: P) -> Self {
        MEMORY.settle(|| memory);
        Self { probe, cpus: cpu::settle() }
    }
}

// SAFETY: the linear map has every frame of RAM at its physical address above `LINEAR_MAP`, readable always and writable
// unless its key forbids it (or it holds the image's code and constants, which no allocator hands out); holes between RAM are not
// mapped and never handed out either. Where flags are said not to be set by walkers, `TCR_EL1.HA` is clear. Flushes take effect on every online CPU before `flush_everywhere` returns; `wait_for_gates` has an answer
// of each, which a gate delays. CPU numbers are the online CPUs',
// which are numbered from 0 without gaps.
unsafe impl<P: Probe> Machine for Bare<P> {
    type Format = Format;
    type Backend = Selected;
    type Probe = P;

    // The walkers of x86-64 always set flags; those of arm64 with `TCR_EL1.HA`, which start-up leaves clear on every CPU.
    const WALKERS_SET_FLAGS: bool = cfg!(target_arch = "x86_64");

    #[inline(always)]
    fn backend(&self) -> &Selected {
        protection::backend()
    }

    #[inline(always)]
    fn probe(&self) -> &P {
        &self.probe
    }

    #[inline(always)]
    fn memory(&self) -> Memory {
        *MEMORY
    }

    #[inline(always)]
    fn table(&self, frame: PhysAddr) -> NonNull<u8> {
        let address = layout::linear(frame);
        debug_assert!(!address.is_null());
        // SAFETY: the linear map lies in the kernel's half, far from address zero.
        unsafe { NonNull::new_unchecked(address) }
    }

    #[inline(always)]
    fn alias(&self) -> Option<VirtAddr> {
        Some(VirtAddr(layout::alias()))
    }

    #[inline(always)]
    fn direct(&self, va: VirtAddr) -> Option<NonNull<u8>> {
        NonNull::new(va.0 as *mut u8)
    }

    #[inline(always)]
    fn anchor(&self) -> &Anchor {
        &ANCHOR
    }

    fn violations(&self) -> Violations {
        protection::violations::chosen()
    }

    #[cold]
    fn report(&self, violation: &Violation) {
        protection::violations::report(violation);
    }

    #[inline(always)]
    fn has_gates(&self) -> bool {
        protection::has_gates()
    }

    #[inline(always)]
    fn interrupts_off(&self) -> bool {
        let were_on = arch::irq::enabled();
        arch::irq::disable();
        were_on
    }

    #[inline(always)]
    fn interrupts_on(&self) {
        arch::irq::enable();
    }

    #[inline(always)]
    fn entry_barrier(&self) {
        arch::entry_barrier();
    }

    fn flush_tlb(&self, flush: Flush) {
        tlb::flush_everywhere(flush);
    }

    fn wait_for_gates(&self) -> bool {
        tlb::wait_for_gates();
        true
    }

    #[inline(always)]
    fn cpu(&self) -> usize {
        cpu::this().id.0
    }

    #[inline(always)]
    fn cpus(&self) -> usize {
        self.cpus
    }
}
