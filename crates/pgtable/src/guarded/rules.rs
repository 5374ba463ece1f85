//! Which leaf may map which frame, and what is said of one that may not.
//!
//! | leaf | frames it may map |
//! |---|---|
//! | in an address space | data |
//! | the kernel's, for programs | none |
//! | the kernel's, writable and executable | none |
//! | the kernel's, writable | data; the kernel's own data |
//! | the kernel's, executable | text |
//! | the kernel's, neither | RAM |
//! | the kernel's, as a device's registers or memory, not executable | what is no RAM |
//!
//! The linear map and the alias are exempt: what they map is what protection is made of, and only this crate stores there.

use core::cell::Cell;
use core::fmt;
use core::panic::Location;

use super::frame_type::FrameType;
use super::types::Types;
use crate::addr::{Level, PhysAddr, VirtAddr};
use crate::entry::{Entry, Format, MemoryType};
use crate::section::Space;

/// What becomes of a leaf that its frame's type does not admit. Asked for before there are types, and kept beside them.
///
/// What would make the types themselves wrong is refused in both: a frame that is not what it is said to be where it is to become something else, and
/// a store to what is no table in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Violations {
    /// It is refused, and reported.
    #[default]
    Enforce,
    /// It is stored, and reported: for bringing up a kernel, to see what enforcing would refuse. Protection ends at the first such store.
    Audit,
}

/// What a frame was to be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// To become this, from that.
    Change {
        /// What it was said to be.
        from: FrameType,
        /// What it was to become.
        to: FrameType,
    },
    /// To be stored to, as a table in use.
    Table {
        /// The level of its entries.
        level: Level,
        /// Whose: a program's, else the kernel's.
        user: bool,
    },
    /// To be stored to, as a root, in the half of the address space that it is not for.
    Half {
        /// Whose: a program's, else the kernel's.
        user: bool,
    },
    /// To be linked or unlinked by an entry that is something else by now.
    Entry,
    /// To be mapped by a leaf.
    Leaf {
        /// By a program's, else the kernel's.
        user: bool,
        /// For stores.
        write: bool,
        /// For instruction fetches.
        execute: bool,
        /// As memory, or as a device.
        memory: MemoryType,
    },
}

/// A store that does not fit the type of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The frame.
    pub frame: PhysAddr,
    /// What it is.
    pub is: FrameType,
    /// What it was to be used for.
    pub wanted: Use,
    /// Where the entry is that was to be stored, if it was about one.
    pub entry: Option<VirtAddr>,
    /// Who asked for it.
    pub by: &'static Location<'static>,
    /// Whether it was made all the same, since violations are [audited](Violations::Audit).
    pub stored: bool,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is {}", self.frame, self.is)?;
        match self.wanted {
            Use::Change { from, to } => write!(f, ", where {from} was to become {to}")?,
            Use::Table { level, user } => {
                let whose = if user { "a program's" } else { "the kernel's" };
                write!(f, " and was to be stored to as {whose} {level:?} table")?;
            }
            Use::Half { user } => {
                let whose = if user { "a program's" } else { "the kernel's" };
                write!(f, " and was to be stored to as {whose} root, in the other half")?;
            }
            Use::Entry => {
                f.write_str(" and was to be linked or unlinked where something else is by now")?;
            }
            Use::Leaf { user, write, execute, memory } => {
                let whose = if user { "a program" } else { "the kernel" };
                let rights = match (write, execute) {
                    (true, true) => " writable and executable",
                    (true, false) => " writable",
                    (false, true) => " executable",
                    (false, false) => " read-only",
                };
                let memory = match memory {
                    MemoryType::Normal => "",
                    MemoryType::WriteCombining => " write-combining",
                    MemoryType::Device => " as a device",
                };
                write!(f, " and was to be mapped{rights}{memory} for {whose}")?;
            }
        }
        if let Some(entry) = self.entry {
            write!(f, ", by the entry at {entry:?}")?;
        }
        write!(f, "; asked for at {}", self.by)?;
        if self.stored { f.write_str("; stored, as violations are audited") } else { Ok(()) }
    }
}

/// What an operation refused or audited last.
#[derive(Default)]
pub(crate) struct Noted {
    /// Apart from the rest, since nearly always this alone is looked at.
    any: Cell<bool>,
    last: Cell<Option<Violation>>,
}

impl Noted {
    pub(crate) fn note(&self, violation: Violation) {
        self.any.set(true);
        self.last.set(Some(violation));
    }

    /// Whether there is one.
    #[inline(always)]
    pub(crate) fn any(&self) -> bool {
        self.any.get()
    }

    /// It, to be forgotten.
    #[cold]
    pub(crate) fn take(&self) -> Option<Violation> {
        self.any.set(false);
        self.last.take()
    }
}

/// What leaves of one operation need, so that a run of them is judged once but for their frames.
#[derive(Clone, Copy)]
pub(crate) struct LeafRule {
    /// In an address space's tables.
    user: bool,
    /// For programs, in the kernel's tables.
    misplaced: bool,
    write: bool,
    execute: bool,
    memory: MemoryType,
    /// Whether leaves of this space are held against types.
    exempt: bool,
}

impl LeafRule {
    /// The rule for a leaf like this one, in tables of a space.
    #[inline(always)]
    pub(crate) fn of<F: Format>(space: Space, leaf: Entry) -> LeafRule {
        let attrs = F::attrs(leaf);
        LeafRule {
            user: space == Space::User,
            misplaced: attrs.user && space != Space::User,
            write: attrs.write,
            execute: attrs.execute,
            memory: attrs.memory,
            exempt: space == Space::Linear,
        }
    }

    /// Whether a leaf may map this frame.
    #[inline(always)]
    pub(crate) fn admits<F: Format>(self, types: &Types<F>, frame: PhysAddr) -> bool {
        (types.is_data(frame) && self.admits_data()) || self.admits_type(types.of(frame))
    }

    /// Whether a leaf may map data.
    #[inline(always)]
    pub(super) fn admits_data(self) -> bool {
        let is_memory = self.memory == MemoryType::Normal;
        self.exempt || is_memory && (self.user || !(self.execute || self.misplaced))
    }

    /// The first of `pages` frames that a leaf may not map.
    #[inline]
    pub(crate) fn first_refused<F: Format>(
        self,
        types: &Types<F>,
        first: PhysAddr,
        pages: usize,
    ) -> Option<PhysAddr> {
        (0..pages as u64)
            .map(|page| first.offset(page * F::PAGE_SIZE))
            .find(|&frame| !self.admits(types, frame))
    }

    /// Whether a leaf has no more permission than the one before it, and treats what it maps alike.
    #[inline(always)]
    pub(crate) fn only_takes<F: Format>(self, before: Entry, after: Entry) -> bool {
        let (was, is) = (F::attrs(before), F::attrs(after));
        // The bits of both that differ: the compiler sees that most changes touch none of these.
        let differs = F::attrs(Entry(before.0 ^ after.0));
        (was.write || !is.write)
            && (was.execute || !is.execute)
            && !differs.user
            && differs.memory == MemoryType::Normal
    }

    /// Whether a leaf may map a frame of this type.
    pub(super) fn admits_type(self, is: FrameType) -> bool {
        let as_device = self.memory != MemoryType::Normal;
        match (is, self.write, self.execute) {
            _ if self.exempt => true,
            // Registers are not cached, and RAM is not reached by two ways that do not know of each other.
            _ if as_device != (is == FrameType::NotRam) => false,
            _ if self.user => is.is_data(),
            _ if self.misplaced => false,
            (_, true, true) => false,
            (is, true, false) => is.is_data() || as_device || is == FrameType::KernelData,
            (is, false, true) => is == FrameType::Text,
            (_, false, false) => true,
        }
    }

    /// What is said of a frame that it does not admit.
    pub(crate) fn violation<F: Format>(
        self,
        types: &Types<F>,
        frame: PhysAddr,
        entry: Option<VirtAddr>,
        by: &'static Location<'static>,
    ) -> Violation {
        let user = self.user || self.misplaced;
        let LeafRule { write, execute, memory, .. } = self;
        let wanted = Use::Leaf { user, write, execute, memory };
        Violation { frame, is: types.of(frame), wanted, entry, by, stored: false }
    }
}
