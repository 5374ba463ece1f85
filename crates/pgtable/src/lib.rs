//! Page tables that only an open window can change.
//!
//! Every page-table page (PTP) carries the key [`Pkey::PAGE_TABLES`](kpkeys::Pkey::PAGE_TABLES) in the linear map, so
//! a store to it faults unless the CPU is in context [`PageTables`](kpkeys::context::PageTables). Here is all code
//! that may enter it, and all code that stores.
//!
//! Where a backend works without keys ([`Scheme::Alias`](kpkeys::Scheme::Alias)), a PTP is read-only in the linear map instead, and
//! stored through a second mapping, its *alias*, that the CPU can reach in that context alone. "Keyed" and "protected" are the same
//! thing below: what the backend's scheme makes of a PTP.
//!
//! | module | concept |
//! |---|---|
//! | [`addr`] | typed addresses, levels, page ranges |
//! | [`entry`] | entry formats and the shape of tables: pure functions |
//! | [`machine`] | what the library needs from the machine below it |
//! | [`mode`] | the protection modes, selectable at run time |
//! | [`table`] | reading tables |
//! | [`store`] | **the only stores**, each taking a [`Window`](kpkeys::Window) |
//! | [`section`] | windows as the modes place them: operations and lazy-MMU sections |
//! | [`ptp`] | PTP allocators, early PTPs, freed PTPs as tokens |
//! | [`linear`] | protection on the linear map: keys, or read-only pages with an alias |
//! | [`guarded`] | **what is believed**: the type of every frame, where only a window can change it |
//! | [`alias`] | the second mapping of page-table pages, where there are no keys |
//! | [`paging`] | the whole: roots, range map, unmap, protect, copy |
//! | [`check`] | the checker that walks every table |
//!
//! # Protocol
//!
//! - *Who may store.* A store needs a `&Window`; a window comes from a guard, and guards are opened by
//!   [`section::Section`] alone, as the mode says.
//! - *Publication.* A new table is keyed, zeroed inside a window, then linked; entries are stored with release ordering and loaded with
//!   acquire, so a walker that sees a table sees its zeroes.
//! - *Life of a PTP.* Allocated as [`ptp::Ptp`], linked, unlinked as [`ptp::UnlinkedPtp`], which can be released only
//!   together with a TLB flush; only then is its key reset and its frame free.
//! - *Flags.* A CPU's walker may set the young or dirty flag of an entry at any moment. [`store`] has the rule which entries that is, and replaces the
//!   others by plain stores. Whoever takes write permission from a page flushes before its entry is changed again.
//! - *Locks.* Tables of one root are changed by one caller at a time, which the caller ensures, or by several on
//!   disjoint ranges; [`paging::Paging`] itself serialises linking of tables in a root and everything about the linear map.
//! - *Interrupts.* The locks are spinlocks that leave interrupts alone, and are held over TLB flushes. Take them from threads with
//!   interrupts on and never from an interrupt handler: then whoever waits still answers the holder's flush, and a holder that
//!   is preempted goes on in its turn.
//!
//! # Example
//!
//! A kernel implements [`Machine`] - where a frame is in the linear map, how TLBs are flushed, which backend - and hands over its
//! frames. Here the machine is the hosted one, whose MMU is a model, so that the example runs anywhere.
//!
//! ```
//! use kpkeys_hosted::{Setup, boot, mmu::{Fault, Mmu}};
//! use kpkeys_pgtable::entry::X86_64;
//! use kpkeys_pgtable::{Attrs, Config, Machine, Mode, PageRange, PhysAddr, VirtAddr};
//!
//! let setup = Setup { pages: 4096, cpus: 1, config: Config::of(Mode::Fused) };
//! let kernel = boot::<X86_64>(setup)?;                    // linear map built, every table keyed
//! let (paging, root) = (kernel.paging(), kernel.paging().kernel());
//!
//! // Map a device page: one operation, one window.
//! let range = PageRange::new(VirtAddr(0xffff_d000_0000_0000), 1)?;
//! paging.map(&paging.section(root), root, range, Attrs::DEVICE, |_| PhysAddr(0xfee0_0000))?;
//! assert!(paging.walk(root, range.start()).is_some());
//!
//! // An attacker's store to the root table, through the linear map, outside any window.
//! let machine = kernel.machine();
//! let protected = 0b1000;                                 // what IA32_PKRS holds: key 1 write-disabled
//! let mmu = Mmu::new(machine, root.frame(), None, protected);
//! let table = machine.memory().linear_address(root.frame());
//! assert_eq!(mmu.store(table, 0), Err(Fault::Key(kpkeys::Pkey::PAGE_TABLES)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod alias;
pub mod check;
pub mod entry;
mod error;
pub mod ground;
pub mod guarded;
pub mod keys;
pub mod linear;
pub mod machine;
pub mod mode;
pub mod paging;
pub mod ptp;
pub mod range;
pub mod section;
pub mod store;
pub mod table;

pub use addr::{Level, PageRange, PhysAddr, VirtAddr};
pub use entry::{Attrs, Entry, Format, MemoryType};
pub use error::Error;
pub use keys::Keys;
pub use machine::{Event, Flush, Frames, Machine, Memory, NoProbe, Probe};
pub use mode::Mode;
pub use paging::{Config, Paging, Root};
pub use section::Section;
