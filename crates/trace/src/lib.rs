//! Traces: what a real program did to its address spaces, recorded on Linux and read back.
//!
//! A trace holds, for a command and every process it started, each mmap, munmap, mremap, mprotect, brk,
//! page-dropping madvise, fork, execve, exit and page fault, in one time order. It is what
//! `kpkeys bench --trace` replays on hardened page tables.
//!
//! - `record` runs a command and records it: by perf events where they are allowed, else by ptrace.
//! - [`TraceWriter`] and [`TraceReader`] are the file format, described byte by byte in
//!   `docs/src/traces.md`. A reader hands out only events that passed every check.

#![forbid(unsafe_op_in_unsafe_fn)]

mod caveats;
mod check;
mod codec;
mod error;
mod event;
mod frame;
mod gap;
mod header;
mod range_set;
mod reader;
pub mod record;
mod spaces;
mod summary;
mod varint;
mod writer;

pub use codec::TICK_NS;
pub use error::{Malformed, TraceError};
pub use event::{
    Accounted, Advice, Entry, Event, FaultFlags, ForkFlags, MapFlags, PageRange, Protection,
    SLOW_FAULT_NS, TaskId, TaskTimes,
};
pub use frame::VERSION;
pub use gap::{Gap, GapCause};
pub use header::{Arch, Header, Kinds, Method, Outcome, RunTimes, Trailer};
pub use reader::{Damage, TraceReader};
pub use spaces::{CopyPolicy, Replay, ReplayError, SpaceId, SpaceOp, Spaces, Step, replay};
pub use summary::{Costs, Counts, Summary};
pub use writer::TraceWriter;
