//! Replay: a recorded program's memory history, carried out again on hardened page tables.
//!
//! | module | concept |
//! |---|---|
//! | `history` | a trace as steps in memory, and what it says about its own costs |
//! | [`steps`] | the steps alone, for a kernel that has no traces |
//! | [`stage`] | what one step does to an address space |
//! | [`replayer`] | the steps in order, on one thread |
//! | `threads` | the steps on several threads, in the order that each address space saw |
//!
//! Memory management is executed: address spaces, mappings, faults as they came, copy-on-write, tear-down at exec and exit. What
//! the program did between two events is not, and neither is anything else a kernel does. What a trace does not say is filled
//! in thus:
//!
//! - *Files.* A trace does not name them. All file mappings lie in one file whose pages are in memory, so that a read maps a
//!   page that is there and a private write copies it, and no two mappings join that were made apart.
//! - *Contents.* Pages hold zeroes. They are cleared and copied as any others.
//! - *Kernel mappings of user memory* and pages it makes present without a fault are missing, as in the trace.
//!
//! Without the feature `std`, which is a default, traces cannot be read, and steps are replayed on one thread.

#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(feature = "std")]
pub mod history;
pub mod replayer;
pub mod stage;
pub mod steps;
#[cfg(feature = "std")]
pub mod threads;

#[cfg(feature = "std")]
pub use history::{History, HistoryError};
pub use replayer::Replayer;
pub use stage::{Setting, Stage, Tally};
pub use steps::{DecodeError, Steps};
#[cfg(feature = "std")]
pub use threads::replay_on;
