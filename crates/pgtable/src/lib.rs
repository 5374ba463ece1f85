//! Page tables that only an open window can change.
//!
//! Every page-table page (PTP) carries the key [`Pkey::PAGE_TABLES`](kpkeys::Pkey::PAGE_TABLES) in the linear map, so
//! a store to it faults unless the CPU is in context [`PageTables`](kpkeys::context::PageTables). Here is all code
//! that may enter it, and all code that stores.
//!
//! | module | concept |
//! |---|---|
//! | [`addr`] | typed addresses, levels, page ranges |
//! | [`entry`] | the two entry formats: pure functions |
//! | [`machine`] | what the library needs from the machine below it |
//! | [`mode`] | the protection modes, selectable at run time |
//! | [`table`] | reading tables |
//! | [`store`] | **the only stores**, each taking a [`Window`](kpkeys::Window) |
//! | [`section`] | windows as the modes place them: operations and lazy-MMU sections |
//! | [`ptp`] | PTP allocators, early PTPs, freed PTPs as tokens |
//! | [`linear`] | keys on the linear map |
//! | [`paging`] | the whole: roots, range map, unmap, protect, copy |
//! | [`check`] | the checker that walks every table |
//!
//! # Protocol
//!
//! - *Who may store.* A store needs a `&Window`; a window comes from a guard, and guards are opened by
//!   [`section::Section`] alone, as the mode says.
//! - *Publication.* A new table is zeroed, keyed, then linked; entries are stored with release ordering and loaded with
//!   acquire, so a walker that sees a table sees its zeroes.
//! - *Life of a PTP.* Allocated as [`ptp::Ptp`], linked, unlinked as [`ptp::UnlinkedPtp`], which can be released only
//!   together with a TLB flush; only then is its key reset and its frame free.
//! - *Locks.* Tables of one root are changed by one caller at a time, which the caller ensures, or by several on
//!   disjoint ranges; [`paging::Paging`] itself serialises linking of tables in a root and everything about the linear map.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod check;
pub mod entry;
mod error;
pub mod ground;
pub mod linear;
pub mod machine;
pub mod mode;
pub mod paging;
pub mod ptp;
pub mod range;
pub mod section;
pub mod store;
pub mod table;

pub use addr::{Level, PAGE_SIZE, PageRange, PhysAddr, VirtAddr};
pub use entry::{Attrs, Entry, Format};
pub use error::Error;
pub use machine::{Event, Flush, Frames, Machine, Memory, NoProbe, Probe};
pub use mode::Mode;
pub use paging::{Config, Paging, Root};
pub use section::Section;
