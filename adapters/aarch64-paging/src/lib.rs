//! Page tables of the [`aarch64_paging`] crate that a stray store cannot change.
//!
//! A kernel that keeps its tables by `aarch64-paging` keeps its calls, too: [`Tables`] has those of [`Mapping`](aarch64_paging::Mapping), and
//! each opens one window of [`kpkeys`] for what it stores. Between them, every page of table memory is read-only to the kernel.
//!
//! | | |
//! |---|---|
//! | [`Layout`] | where table memory is: RAM for tables alone, its address in the linear map, that of its alias |
//! | [`Pool`] | table memory: which pages are free, and whether protection is on |
//! | [`Tables`] | the tables of one root; [`Batch`], several changes in one window |
//! | [`Existing`] | tables that are there at start, copied, and given back |
//!
//! # Start
//!
//! 1. Set table memory aside and make a [`Pool`] of it.
//! 2. Make [`Tables`], new or [adopted](Tables::adopt), and map memory as ever: where that is the linear map of table memory, the call makes it
//!    protected. Map the [alias](Tables::map_alias) in tables of the upper half.
//! 3. Activate them, flush, initialise the backend, and call [`Pool::protect`], which refuses while one of these is missing.
//!
//! # What it promises
//!
//! Write protection: outside of windows no store of the kernel changes a table, wherever it goes. Not more. The wrapped crate's own code
//! runs inside the window, with its walks and with the updater given to [`Tables::modify_range`], so a window is as long as the call is; and it
//! believes what it is told, as the lists of this crate do that are in ordinary memory: a frame has no type, and an attacker who changes what is
//! to be mapped, or which page is free, before a call is made, has it made so.
//!
//! # Traps of the wrapped crate, and what becomes of them here
//!
//! | trap | here |
//! |---|---|
//! | a table cannot be refused | pages are reserved before a window opens: [`Error::OutOfTables`], and nothing has changed |
//! | reads tables where it stores them | [`Tables::walk_range`] reads through the linear map, without a window |
//! | keeps the address of its root | taken up anew when protection is turned on |
//! | follows every entry that looks like a table's | [`Error::ForeignTable`] before a window opens |
//! | subtracts past zero, with overflow checks, where a block that is there has the flags asked for, and always when a hole is unmapped | [`Error::BelowBlock`]; [`Tables::unmap_range`] gives it an address that does not |
//! | takes a table to unmap a hole as large as an entry of a level 0 root | so here: it is reserved, and may be refused |
//! | maps table memory as anything | [`Error::TableMemory`] |
//! | panics when dropped while active | such tables are kept |
//! | frees a table before its flush, up to 0.12.2 | needs 0.12.3 |
//! | checks live tables for break-before-make before a change, and may still stop halfway in `modify_range` | so here: [`Error::Map`] |
//! | `deactivate` flushes this CPU alone (changes flush all) | so here: flush by yourself before a frame that was mapped is used again |
//! | takes no lock | `&mut`: the caller's lock |
//!
//! # Interrupts
//!
//! A window that an exception interrupts is closed for the handler: by the hardware, with PAN; by the kernel's own entry code, with keys
//! ([`kpkeys::Backend::exception_entry`]). Do not change tables in interrupt handlers: the lock of the pool leaves interrupts alone.
#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]

mod adopt;
mod error;
mod frames;
mod layout;
mod plan;
mod pool;
mod tables;
mod walk;

pub use aarch64_paging;
pub use adopt::Existing;
pub use error::Error;
pub use layout::Layout;
pub use pool::Pool;
pub use tables::{Batch, Tables, Updatable};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Where table memory is reached by this program: the first page of each view.
#[derive(Clone, Copy, Debug)]
pub struct Views {
    /// For loads, and until protection is on for stores.
    pub linear: *mut u8,
    /// For stores in windows, for backends that store through an alias.
    pub alias: *mut u8,
}

// SAFETY: addresses alone; what may be done with them is the pool's to say.
unsafe impl Send for Views {}
// SAFETY: as for `Send`.
unsafe impl Sync for Views {}
