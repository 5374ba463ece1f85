//! A machine inside a process, on Linux or macOS.
//!
//! Page tables, the linear map and everything built on them run here as in a kernel, on real memory and real threads. What a
//! process cannot have is replaced by the nearest thing it can:
//!
//! | in a kernel | here | module |
//! |---|---|---|
//! | physical memory | an arena of anonymous memory, backed when touched; mapped more than once, shared memory | [`arena`] |
//! | the protection register | an unused register written by a real instruction, with a real barrier | [`register`] |
//! | a CPU | a thread | [`cpu`] |
//! | whether a CPU is in a gate | a flag of the thread's, waited for by `membarrier`, where there is none by fences | `gates` |
//! | barriers for kernel entries | the nearest fences of the host (x86-64: MFENCE, LFENCE; arm64: DSB ISHST, ISB) | [`machine`] |
//! | TLB maintenance | counted, not executed; with keys of the host's, when the host is told of a changed key | [`machine`], [`tlb`] |
//! | protection, whole or in parts | backends that leave out a part of it, for measuring | [`parts`] |
//! | the MMU | a model that translates an address or says which fault it raises | [`mmu`] |
//! | the host kernel itself, for scale | its own fork and munmap, on Linux | [`linux`] |
//! | a CPU's time | the thread's CPU time | [`clock`] |
//! | keys that the CPU checks | where it has keys for user pages: the same, checked by the same means | `pku` |
//! | faults on stray stores | in the test mode: page tables are read-only to the process outside windows, and a stray store is SIGSEGV | [`register`] |

pub mod arena;
pub mod boot;
pub mod clock;
pub mod counter;
pub mod cpu;
mod fence;
mod gates;
pub mod linux;
pub mod machine;
pub mod mmu;
pub mod parts;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod pku;
pub mod register;
mod shared;
mod switch_cost;
pub mod tlb;

pub use boot::{
    Setup, boot, boot_counted, boot_counted_pan, boot_counted_ttbr0, boot_guarded,
    boot_guarded_pan, boot_measured, boot_measured_counted,
};
pub use counter::{Counter, Counts};
pub use machine::{Hosted, HostedFormat};
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use switch_cost::key_change_ns;
pub use switch_cost::{barrier_ns, switch_ns, switch_ns_by};
