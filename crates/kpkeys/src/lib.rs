//! Protection keys for kernels: which memory a CPU may write *right now*.
//!
//! A *protection key* is a small number in a page-table leaf entry. A per-CPU register says what may be
//! done with the pages of each key, and one register write changes that for all of them, without touching
//! a table or a TLB. This crate turns that register into something that can be reasoned about:
//!
//! - a [`Context`] is a symbolic configuration of every managed key, fixed at compile time;
//! - a [`Backend`] is one way to tell a CPU to enter and leave a context;
//! - a [`Guard`] is the time a CPU spends in a context, and gives it back when dropped;
//! - a [`Window`] is the proof, needed by every page-table store, that page tables may be written now;
//! - a [`Guarded`](guarded::Guarded) is a value of one's own, with another key, whose stores need such a proof as well.
//!
//! There are keys to spare: where the tables of address spaces are to have one of their own, a backend by keys is made [`with_separate_keys`](keyed::Keyed::with_separate_keys).
//!
//! A CPU without such a register can protect one class of pages, page tables, by older features: the pages are read-only where
//! they are mapped, and have a second mapping, their *alias*, that one bit of the CPU opens and closes ([`pan`], [`smap`]), or that only windows have a root register lead to ([`ttbr0`]). The protocol
//! is the same; [`Backend::scheme`] says which of the two it is.
//!
//! # The protocol
//!
//! 1. Each CPU initialises its backend ([`pks::Pks::init`], [`poe::Poe::init`], [`pan::Pan`]`::init`, [`smap::Smap`]`::init`, [`ttbr0::Ttbr0`]`::init`), which verifies the control bits
//!    and starts in [`context::Default`]: every managed key is read-only, key 0 is read-write.
//! 2. Code that must write opens a [`Guard`] and writes while it lives. What entering and leaving write are constants of the code, known
//!    from the types of the guard: no value is kept meanwhile. Guards do not nest by themselves: whoever needs a window takes `&Window`, and
//!    [`Guard::within`] makes one that goes back to the one it is within.
//! 3. On an exception the register is saved and reset ([`Backend::exception_entry`]), so that a handler starts
//!    protected, and written back on return ([`Backend::exception_return`]); a thread switch carries it along
//!    ([`Backend::thread_switch`]). This is what the Linux series does, and a saved register is ordinary memory.
//! 4. Or windows are [gates](Backend#gates), with interrupts off: then neither an exception nor a thread switch restores an open window.
//!
//! No function of this crate writes a caller-chosen value to the register: values are made only from contexts
//! and from saved states, each used once, and every writer is inlined, so that no callable gadget exists.
//!
//! The crate has no dependencies, needs no allocator, and all its arithmetic is `const` and runs on any host.
//!
//! # Example
//!
//! ```
//! use kpkeys::{Backend, Guard, context, null::Null};
//!
//! let backend = Null::new();
//! // SAFETY: the only guard of this CPU, and nothing but stores to tables below.
//! let guard: Guard<'_, _, context::PageTables> = unsafe { Guard::enter(&backend) };
//! let window = guard.window();      // pass `&window` to whatever stores
//! # let _ = window;
//! drop(guard);                      // protected again
//! ```
#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod backend;
pub mod context;
pub mod encoding;
#[cfg(any(feature = "pan", feature = "smap", feature = "ttbr0"))]
pub mod flagged;
mod guard;
pub mod guarded;
mod key;
pub mod keyed;
#[cfg(feature = "mock")]
pub mod mock;
#[cfg(all(target_arch = "x86_64", any(feature = "mock", feature = "pks", feature = "smap")))]
mod msr;
pub mod null;
#[cfg(feature = "pan")]
pub mod pan;
#[cfg(feature = "pks")]
pub mod pks;
#[cfg(feature = "pku")]
pub mod pku;
#[cfg(feature = "poe")]
pub mod poe;
#[cfg(feature = "smap")]
pub mod smap;
#[cfg(feature = "ttbr0")]
pub mod ttbr0;

pub use backend::{Backend, Saved, Scheme};
pub use context::Context;
pub use guard::{Guard, Window};
pub use key::{Access, AccessMap, Pkey};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
