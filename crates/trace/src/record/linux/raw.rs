//! What the two ways of observing (perf events and ptrace) have in common: raw observations, one per
//! thing the kernel reported, which [`assemble`](super::assemble) turns into a trace's events.

use crate::event::FaultFlags;
use crate::gap::GapCause;

/// One observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    /// On CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Process id of the task that caused it.
    pub pid: u32,
    /// Thread id of the task that caused it.
    pub tid: u32,
    /// What was seen.
    pub what: Seen,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// A page-fault exception began.
    FaultBegins { address: u64, flags: FaultFlags },
    /// A page fault was resolved.
    FaultEnds { address: u64 },
    /// A system call began.
    CallBegins { number: i64, arguments: [u64; 6] },
    /// A system call returned. `stack` is the user's stack pointer then, where known.
    CallEnds { number: i64, result: i64, stack: Option<u64>, foreign: bool },
    /// fork, vfork, clone or clone3 made a task.
    NewTask { child: u32, clone_flags: u64 },
    /// A new program's address space is in place.
    ExecBegins { name: Vec<u8> },
    /// The kernel made or changed a mapping.
    Mapped(RawMapping),
    /// The kernel made pages present.
    Populated { first: u64, pages: u64 },
    /// An address space was emptied.
    SpaceFreed,
    /// The task stopped running on a processor, or went on.
    Switched { out: bool },
    /// A process runs unseen from here on.
    Unseen { cause: GapCause, name: Vec<u8> },
    /// The task is gone.
    Gone { status: Option<u32> },
    /// The kernel dropped this many observations.
    Lost { count: u64 },
}

/// A mapping as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawMapping {
    pub start: u64,
    pub length: u64,
    /// PROT_ bits.
    pub protection: u32,
    /// MAP_ bits.
    pub flags: u32,
    /// No file behind it.
    pub anonymous: bool,
    /// The kernel calls it the stack.
    pub stack: bool,
}
