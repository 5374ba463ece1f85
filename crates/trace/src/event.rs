//! What a trace says: the events of a process tree's memory history, in one time order.
//!
//! An [`Entry`] is an [`Event`] with its time and the *task* (thread) that caused it. Tasks are
//! numbered in the order in which they appear and numbers are never reused, unlike process ids. Which
//! tasks share an address space follows from [`Event::Fork`] and [`Event::Exec`];
//! [`Spaces`](crate::Spaces) works it out.
//!
//! Addresses are page numbers: the bits below the page size do not reach a page table.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// A task (thread) of the recorded tree: its rank in order of appearance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub u32);

/// A run of pages, by page number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PageRange {
    /// Number of the first page: its address divided by the page size.
    pub first: u64,
    /// How many pages; at least one in a valid trace.
    pub count: u64,
}

impl PageRange {
    /// The pages from `first` to before `end`.
    pub fn between(first: u64, end: u64) -> Self {
        Self { first, count: end.saturating_sub(first) }
    }

    /// The first page after the range.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

bitflags! {
    /// What may be done with a mapping: Linux's PROT_ bits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub struct Protection: u8 {
        /// Readable.
        const READ = 1;
        /// Writable.
        const WRITE = 2;
        /// Executable.
        const EXECUTE = 4;
    }

    /// What kind of mapping an mmap makes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub struct MapFlags: u8 {
        /// Writes reach the file or the other processes (MAP_SHARED).
        const SHARED = 1;
        /// No file behind it (MAP_ANONYMOUS).
        const ANONYMOUS = 2;
        /// Placed at an address the caller chose, over what was there (MAP_FIXED).
        const FIXED = 4;
        /// Grows downwards on a fault just below it: a stack (MAP_GROWSDOWN).
        const GROWS_DOWN = 8;
        /// Every page is made present at once (MAP_POPULATE or MAP_LOCKED).
        const POPULATE = 16;
        /// Of huge pages (MAP_HUGETLB).
        const HUGE = 32;
        /// Made by execve, not by a call of the program.
        const BY_EXEC = 64;
    }

    /// How a page fault came about.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub struct FaultFlags: u8 {
        /// The access was a write. Without [`Kinds::FAULT_WRITES`](crate::Kinds::FAULT_WRITES) in the
        /// header, a missing flag says nothing.
        const WRITE = 1;
        /// The page was present and its protection refused the access: copy-on-write, mostly.
        const PROTECTION = 2;
        /// An instruction fetch.
        const INSTRUCTION = 4;
        /// The kernel itself accessed user memory, as in a copy to a user's buffer.
        const KERNEL = 8;
    }

    /// What the child of a fork, vfork or clone shares with its parent.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct ForkFlags: u8 {
        /// The address space itself, not a copy (CLONE_VM).
        const SHARES_SPACE = 1;
        /// Same process (CLONE_THREAD).
        const THREAD = 2;
        /// The parent waits until the child execs or exits (CLONE_VFORK).
        const VFORK = 4;
    }
}

/// An event, when it happened and who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Nanoseconds since the recording began, to the [resolution](crate::TICK_NS) of the format.
    pub time_ns: u64,
    /// The task that caused it. Of no meaning for [`Event::Lost`].
    pub task: TaskId,
    /// What happened.
    pub event: Event,
}

/// One thing that happened to the memory of the recorded tree. Calls that failed are not events.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A task appears whose parent is not in the trace: the command's first, or one whose fork was lost.
    Start {
        /// Its process id.
        pid: u32,
    },
    /// fork, vfork, clone or clone3: the entry's task is the parent.
    Fork {
        /// The new task.
        child: TaskId,
        /// Its process id.
        pid: u32,
        /// What it shares.
        flags: ForkFlags,
    },
    /// execve succeeded: a new, empty address space. The mappings that the kernel made in it follow as
    /// [`Event::Mmap`] with [`MapFlags::BY_EXEC`].
    Exec {
        /// The program's name as the kernel keeps it, at most 15 bytes.
        name: Vec<u8>,
    },
    /// mmap or shmat.
    Mmap {
        /// Where.
        range: PageRange,
        /// Access allowed.
        protection: Protection,
        /// Kind of mapping.
        flags: MapFlags,
    },
    /// munmap or shmdt.
    Munmap {
        /// What is no longer mapped.
        range: PageRange,
    },
    /// mremap: a mapping moved, grew or shrank, its pages with it.
    Mremap {
        /// Where it was.
        from: PageRange,
        /// Where it is.
        to: PageRange,
        /// The old range stays mapped, empty (MREMAP_DONTUNMAP).
        keeps_old: bool,
    },
    /// mprotect or pkey_mprotect.
    Mprotect {
        /// Where.
        range: PageRange,
        /// Access allowed from now on.
        protection: Protection,
    },
    /// brk: the resulting program break, in bytes. The first one in an address space only tells where
    /// the break is.
    Brk {
        /// The break as the kernel returned it.
        address: u64,
    },
    /// madvise, with advice that drops pages, makes them present or changes what a fork copies.
    Madvise {
        /// Where.
        range: PageRange,
        /// What was advised.
        advice: Advice,
    },
    /// Pages that the kernel made present without a fault of their own, such as a new program's arguments.
    Populate {
        /// Which.
        range: PageRange,
    },
    /// A page fault that was resolved.
    Fault {
        /// The page.
        page: u64,
        /// How it came about.
        flags: FaultFlags,
    },
    /// What the task cost; comes just before its [`Event::Exit`], or at the end of the recording.
    Times(Box<TaskTimes>),
    /// The task is gone. When it was the last one in its address space, so is that.
    Exit {
        /// As wait(2) reports it: exit code in the second byte, signal in the first; `None` where the
        /// recorder could not tell.
        status: Option<u32>,
    },
    /// Here the kernel dropped events because the recorder did not keep up.
    Lost {
        /// How many.
        count: u64,
    },
}

/// Linux's advice values that matter to page tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Advice {
    /// Drop the pages now (MADV_DONTNEED).
    DontNeed = 4,
    /// The kernel may drop the pages later (MADV_FREE).
    Free = 8,
    /// Drop the pages and their backing (MADV_REMOVE).
    Remove = 9,
    /// A fork does not copy the range (MADV_DONTFORK).
    DontFork = 10,
    /// A fork copies it again (MADV_DOFORK).
    DoFork = 11,
    /// Huge pages wanted (MADV_HUGEPAGE).
    HugePage = 14,
    /// No huge pages (MADV_NOHUGEPAGE).
    NoHugePage = 15,
    /// A fork's child sees zeroes (MADV_WIPEONFORK).
    WipeOnFork = 18,
    /// Undoes that (MADV_KEEPONFORK).
    KeepOnFork = 19,
    /// Make present for reading (MADV_POPULATE_READ).
    PopulateRead = 22,
    /// Make present for writing (MADV_POPULATE_WRITE).
    PopulateWrite = 23,
    /// Drop locked pages too (MADV_DONTNEED_LOCKED).
    DontNeedLocked = 24,
    /// Put into huge pages now (MADV_COLLAPSE).
    Collapse = 25,
    /// Drop the pages and let any access fault (MADV_GUARD_INSTALL).
    GuardInstall = 102,
    /// Undoes that (MADV_GUARD_REMOVE).
    GuardRemove = 103,
}

impl Advice {
    const ALL: [Self; 15] = [
        Self::DontNeed,
        Self::Free,
        Self::Remove,
        Self::DontFork,
        Self::DoFork,
        Self::HugePage,
        Self::NoHugePage,
        Self::WipeOnFork,
        Self::KeepOnFork,
        Self::PopulateRead,
        Self::PopulateWrite,
        Self::DontNeedLocked,
        Self::Collapse,
        Self::GuardInstall,
        Self::GuardRemove,
    ];

    /// The advice with Linux's number `value`, where it is one a trace holds.
    pub fn from_linux(value: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|&advice| advice as u64 == value)
    }

    /// True when the pages are gone after it.
    pub fn drops_pages(self) -> bool {
        use Advice::{DontNeed, DontNeedLocked, GuardInstall, Remove};
        matches!(self, DontNeed | DontNeedLocked | GuardInstall | Remove)
    }

    /// True when every page is present after it.
    pub fn populates(self) -> bool {
        matches!(self, Self::PopulateRead | Self::PopulateWrite)
    }
}

/// What one task cost, as the kernel accounted it and as the recorder measured it.
///
/// The measured durations are CPU time where the header has
/// [`Kinds::CPU_DURATIONS`](crate::Kinds::CPU_DURATIONS). Elsewhere they are elapsed time: a task that lost
/// its CPU or waited for a disk meanwhile has that in them. Each contains the cost of recording it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskTimes {
    /// The kernel's own accounting, where it could be had.
    pub accounted: Option<Accounted>,
    /// Faults recorded.
    pub faults: u64,
    /// Time from the exception to its resolution, over all faults shorter than [`SLOW_FAULT_NS`].
    pub fault_ns: u64,
    /// Faults that took longer: they filled huge pages or, by elapsed time, waited for a disk, a lock or a CPU.
    pub slow_faults: u64,
    /// Time in those.
    pub slow_fault_ns: u64,
    /// Time inside mmap, munmap, mremap, mprotect, brk, madvise, shmat and shmdt.
    pub call_ns: u64,
    /// Time from the entry of fork, vfork or clone until the child existed.
    pub fork_ns: u64,
    /// Time inside successful execve calls.
    pub exec_ns: u64,
}

/// A fault longer than this is counted apart: resolving one takes a microsecond or so, clearing a
/// 2 MiB page some hundred.
pub const SLOW_FAULT_NS: u64 = 250_000;

/// The kernel's accounting of one task (taskstats), taken as its exit began: the freeing of its memory
/// is not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accounted {
    /// CPU time in user mode. Most kernels sample it at timer ticks, so that a short task often has
    /// none; only sums over many tasks mean something.
    pub user_ns: u64,
    /// CPU time in the kernel, sampled likewise.
    pub system_ns: u64,
    /// CPU time in either mode, exact.
    pub cpu_ns: u64,
    /// Faults without input or output, including those the kernel made on the task's behalf without an
    /// exception (these are not events).
    pub minor_faults: u64,
    /// Faults that waited for a disk.
    pub major_faults: u64,
}
