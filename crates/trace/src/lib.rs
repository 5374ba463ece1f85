//! Traces: what a real program did to its address spaces, recorded on Linux and read back.
//!
//! A trace holds, for a command and every process it started, each mmap, munmap, mremap, mprotect, brk,
//! page-dropping madvise, fork, execve, exit and page fault, in one time order. It is what
//! `kpkeys bench --trace` replays on hardened page tables.
//!
//! - `record` runs a command and records it: by perf events where they are allowed, else by ptrace.
//! - [`TraceWriter`] and [`TraceReader`] are the file format, described byte by byte in
//!   `docs/src/traces.md`. A reader hands out only events that passed every check.
//!
//! Without the feature `std`, which is a default, there are only the words that traces are made of: [`Event`], [`SpaceOp`] and their parts.

#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_op_in_unsafe_fn)]

extern crate alloc;

#[cfg(feature = "std")]
mod caveats;
#[cfg(feature = "std")]
mod check;
#[cfg(feature = "std")]
mod codec;
#[cfg(feature = "std")]
mod error;
mod event;
#[cfg(feature = "std")]
mod frame;
#[cfg(feature = "std")]
mod gap;
#[cfg(feature = "std")]
mod header;
mod op;
#[cfg(feature = "std")]
mod range_set;
#[cfg(feature = "std")]
mod reader;
#[cfg(feature = "std")]
pub mod record;
#[cfg(feature = "std")]
mod spaces;
#[cfg(feature = "std")]
mod summary;
#[cfg(feature = "std")]
mod varint;
#[cfg(feature = "std")]
mod writer;

#[cfg(feature = "std")]
pub use codec::TICK_NS;
#[cfg(feature = "std")]
pub use error::{Malformed, TraceError};
pub use event::{
    Accounted, Advice, Entry, Event, FaultFlags, ForkFlags, MapFlags, PageRange, Protection,
    SLOW_FAULT_NS, TaskId, TaskTimes,
};
#[cfg(feature = "std")]
pub use frame::VERSION;
#[cfg(feature = "std")]
pub use gap::{Gap, GapCause};
#[cfg(feature = "std")]
pub use header::{Arch, Header, Kinds, Method, Outcome, RunTimes, Trailer};
pub use op::{CopyPolicy, SpaceId, SpaceOp};
#[cfg(feature = "std")]
pub use reader::{Damage, TraceReader};
#[cfg(feature = "std")]
pub use spaces::{Replay, ReplayError, Spaces, Step, replay};
#[cfg(feature = "std")]
pub use summary::{Costs, Counts, Summary};
#[cfg(feature = "std")]
pub use writer::TraceWriter;
