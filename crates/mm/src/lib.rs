//! Memory management on hardened page tables: the part of a kernel that changes page tables for a living.
//!
//! | module | concept |
//! |---|---|
//! | [`frames`] | buddy allocator, per-CPU lists, per-frame metadata, folios |
//! | [`space`] | user address spaces: mappings, faults, fork with copy-on-write, unmap, mremap |
//! | [`vmalloc`] | kernel mappings: `vmalloc`, `vmalloc_huge`, `vfree` with lazy purge, `vm_map_ram` |
//! | [`kernel`] | the three put together |
//!
//! It behaves as Linux does where that decides what page tables cost: how many entries are stored, in how many lazy-MMU
//! sections, when TLBs are flushed, when page-table pages come and go. Everything is generic over the
//! [`Machine`](kpkeys_pgtable::Machine) below, so the same code runs in a process and in a kernel.
#![no_std]

extern crate alloc;

mod error;
pub mod frames;
mod heap;
pub mod kernel;
pub mod space;
pub mod vmalloc;

pub use error::Error;
pub use frames::{Buddy, FrameMeta, FrameTable};
pub use kernel::{Kernel, Layout};
pub use space::{AddressSpace, File, FilePages, MapFlags, OnFork};
