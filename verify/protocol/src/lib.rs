//! The window protocol under a model checker, driven by the code that kernels run.
//!
//! Two threads on two CPUs, or on three of which one begins idle, change page tables by `kpkeys-pgtable` itself, and kernel mappings by `kpkeys-mm`: guards, gates, sections, allocators, types, locks, all as they are. Below lies
//! a machine whose register, TLBs, interrupts and locks are models. At each of its hooks (the register is written, an entry is about to be stored, a lock
//! taken, a frame asked for, a TLB flushed, interrupts masked) a thread stops, and the explorer tries everything that may happen there: the other CPU goes
//! on, a device interrupts, a timer takes the CPU away, an NMI arrives.
//!
//! | module | concept |
//! |---|---|
//! | [`world`] | CPUs, threads, locks; points at which code stops |
//! | [`machine`] | the hooks: three systems, each a format with a backend |
//! | [`frames`], [`tlb`] | memory, and what TLBs may hold of it |
//! | [`exception`] | entry code, written down again |
//! | [`kernel`], [`scenario`] | what threads and handlers do |
//! | [`tables`], [`areas`] | the work of threads on page tables, and on kernel mappings |
//! | [`rules`] | what must hold at every point |
//! | [`fault`] | what can be planted, to see it found |
//! | [`threads`], [`explore`] | one execution; all of them |

pub mod areas;
pub mod exception;
pub mod explore;
pub mod fault;
pub mod frames;
pub mod kernel;
pub mod machine;
pub mod rules;
pub mod scenario;
pub mod tables;
pub mod threads;
pub mod tlb;
pub mod world;
