//! What happens to address spaces: the steps that a trace comes to, apart from who makes them and when.
//!
//! They can be serialised, for whoever carries them out where there are no traces; all but [`SpaceOp::TaskEnded`], which changes nothing.

use alloc::boxed::Box;

use serde::{Deserialize, Serialize};

use crate::event::{FaultFlags, MapFlags, PageRange, Protection, TaskTimes};

/// An address space: its rank in order of appearance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SpaceId(pub u32);

/// What can happen to an address space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SpaceOp {
    /// It comes into being, empty.
    Create,
    /// It comes into being as a copy-on-write copy.
    CopyOf(SpaceId),
    /// Pages are mapped, in place of what was mapped there.
    Map {
        /// Where.
        range: PageRange,
        /// Access allowed.
        protection: Protection,
        /// Kind of mapping.
        flags: MapFlags,
    },
    /// Pages are no longer mapped.
    Unmap(PageRange),
    /// A mapping moves with its pages; a longer one grows, a shorter one loses its end.
    Move {
        /// Where it was.
        from: PageRange,
        /// Where it is.
        to: PageRange,
        /// The old range stays mapped, without pages.
        keeps_old: bool,
    },
    /// The allowed access changes.
    Protect {
        /// Where.
        range: PageRange,
        /// Access allowed from now on.
        protection: Protection,
    },
    /// Pages are dropped, the mapping stays.
    Discard(PageRange),
    /// Pages are not in use and may be taken back; they stay present until somebody does.
    MarkUnused(PageRange),
    /// Pages become present without a fault each.
    Populate(PageRange),
    /// What later copies do with a range changes.
    OnCopy {
        /// Where.
        range: PageRange,
        /// What they do.
        policy: CopyPolicy,
    },
    /// A page fault.
    Fault {
        /// The page.
        page: u64,
        /// How it came about.
        flags: FaultFlags,
    },
    /// Its last task is gone, and it with everything in it.
    Destroy,
    /// A task that used it is gone; what it cost. The last, since what is skipped has no number in some formats.
    #[serde(skip)]
    TaskEnded(Box<TaskTimes>),
}

/// What a fork does with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyPolicy {
    /// Copies it, copy-on-write.
    Copy,
    /// The child has nothing there.
    Skip,
    /// The child has empty pages there.
    Wipe,
}
