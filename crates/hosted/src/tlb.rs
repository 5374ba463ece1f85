//! What a process has of a TLB: nothing, or, where the host has keys for the pages of a process, the host's own page tables (`pku`).

use kpkeys_pgtable::{Flush, Machine, PhysAddr};

use crate::machine::HostedFormat;

/// What a machine keeps of translations.
pub trait Tlb: Send + Sync {
    /// The kernel's tables are those with this root from now on.
    fn load<M: Machine<Format: HostedFormat>>(&self, machine: &M, root: PhysAddr);

    /// What is kept of these translations is no longer used: it is read anew.
    fn flush<M: Machine<Format: HostedFormat>>(&self, machine: &M, flush: Flush<M::Format>);
}

/// Nothing is kept.
#[derive(Clone, Copy, Debug)]
pub struct NoTlb;

impl Tlb for NoTlb {
    #[inline(always)]
    fn load<M: Machine<Format: HostedFormat>>(&self, _machine: &M, _root: PhysAddr) {}

    #[inline(always)]
    fn flush<M: Machine<Format: HostedFormat>>(&self, _machine: &M, _flush: Flush<M::Format>) {}
}
