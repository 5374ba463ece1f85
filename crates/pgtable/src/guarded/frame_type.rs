//! What a frame can be.

use core::fmt;

use crate::addr::Level;
use crate::section::Space;

/// Whose translations a table holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// An address space's.
    User = 0,
    /// The kernel's half, but for the two below.
    Kernel = 1,
    /// The linear map's. Such tables are never freed.
    Linear = 2,
    /// The alias's, that page tables are stored through. Never freed either.
    Alias = 3,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::User, Kind::Kernel, Kind::Linear, Kind::Alias];

    /// The kind of a root's own table.
    pub(crate) const fn of_root(space: Space) -> Kind {
        match space {
            Space::User => Kind::User,
            Space::Kernel | Space::Linear => Kind::Kernel,
            Space::Alias => Kind::Alias,
        }
    }
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameType {
    /// Free, or data of programs, or of the kernel since it runs, and mapped by no entry but the linear map's.
    Data,
    /// Data that an entry maps, or has mapped since the tables were last swept.
    Mapped,
    /// A page-table page: the level of its entries, whose they are, and whether it is in use: linked into another table, or, at
    /// the root's, one that may be loaded.
    Table {
        /// The level of its entries.
        level: Level,
        /// Whose translations it holds.
        kind: Kind,
        /// Whether it is linked, or may be loaded.
        linked: bool,
    },
    /// Protected, and waiting to become a page-table page.
    Spare,
    /// The same for a table of an address space, below its root, where these have a key of their own: it carries that one.
    SpareUser,
    /// A table that the kernel was started on: protected, and never to be linked or loaded again.
    Early,
    /// The kernel's code.
    Text,
    /// The kernel's constants.
    Constants,
    /// The kernel's own since its start: its variables, heap and stacks, and what it keeps of each frame.
    KernelData,
    /// Protected as page tables are: what this code believes, and what settled during the kernel's start.
    Guarded,
    /// Inside the range of memory, and no RAM.
    NotRam,
}

/// The word of [`FrameType::Data`]: memory that was never typed is data. The word of data that was mapped has above the type's bits the number of the
/// sweep before which that was.
pub(super) const DATA: u32 = 0;
/// How many bits of a word are the type's.
pub(super) const TYPE_BITS: u32 = 10;
const TYPE: u32 = (1 << TYPE_BITS) - 1;
const KIND_SHIFT: u32 = 7;
const KIND: u32 = 3 << KIND_SHIFT;
const LINKED: u32 = 1 << 9;
const TABLE: u32 = 1;

impl FrameType {
    /// A table that is not in use.
    pub(crate) const fn unlinked(level: Level, kind: Kind) -> FrameType {
        FrameType::Table { level, kind, linked: false }
    }

    /// A table that is.
    pub(crate) const fn linked(level: Level, kind: Kind) -> FrameType {
        FrameType::Table { level, kind, linked: true }
    }

    /// Whether such a frame is data, mapped or not.
    pub const fn is_data(self) -> bool {
        matches!(self, FrameType::Data | FrameType::Mapped)
    }

    /// Whether such a frame is protected once protection is on.
    pub(crate) const fn is_protected(self) -> bool {
        use FrameType::{Early, Guarded, Spare, SpareUser, Table};
        matches!(self, Table { .. } | Spare | SpareUser | Early | Guarded)
    }

    /// The type as it is kept.
    pub(super) const fn word(self) -> u32 {
        match self {
            FrameType::Data | FrameType::Mapped => DATA,
            FrameType::Table { level, kind, linked } => {
                TABLE
                    | (level as u32) << 4
                    | (kind as u32) << KIND_SHIFT
                    | if linked { LINKED } else { 0 }
            }
            FrameType::Spare => 2,
            FrameType::Early => 3,
            FrameType::Text => 4,
            FrameType::Constants => 5,
            FrameType::Guarded => 6,
            FrameType::NotRam => 7,
            FrameType::KernelData => 8,
            FrameType::SpareUser => 9,
        }
    }

    /// Whether a word is that of a linked table of a level, of the kind that sections of a space store to: the kernel's do not reach the linear map's tables and the
    /// alias's, since no sweep looks for leaves there. The linear map's section links tables of the kernel's half besides.
    #[inline(always)]
    pub(super) const fn is_table_word(word: u32, level: Level, space: Space) -> bool {
        match space {
            Space::User => word == FrameType::linked(level, Kind::User).word(),
            Space::Kernel => word == FrameType::linked(level, Kind::Kernel).word(),
            Space::Linear | Space::Alias => {
                word & !KIND == FrameType::linked(level, Kind::User).word() && word & KIND != 0
            }
        }
    }

    /// Whether a word is that of data, mapped or not.
    #[inline(always)]
    pub(super) const fn is_data_word(word: u32) -> bool {
        word & TYPE == DATA
    }

    /// What a word says, but for whether data is mapped. One that no type has is taken for what allows nothing.
    pub(super) fn of_word(word: u32) -> FrameType {
        const LEVELS: [Level; 8] = {
            use Level::{Pgd, Pmd, Pml5, Pte, Pud};
            [Pte, Pmd, Pud, Pgd, Pml5, Pml5, Pml5, Pml5]
        };
        match word & 0xf {
            0 => FrameType::Data,
            TABLE => FrameType::Table {
                level: LEVELS[(word >> 4) as usize & 7],
                kind: Kind::ALL[(word >> KIND_SHIFT) as usize & 3],
                linked: word & LINKED != 0,
            },
            2 => FrameType::Spare,
            3 => FrameType::Early,
            4 => FrameType::Text,
            5 => FrameType::Constants,
            6 => FrameType::Guarded,
            8 => FrameType::KernelData,
            9 => FrameType::SpareUser,
            _ => FrameType::NotRam,
        }
    }
}

impl fmt::Display for FrameType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameType::Data => f.write_str("data"),
            FrameType::Mapped => f.write_str("data that may be mapped"),
            FrameType::Table { level, kind, linked } => {
                let linked = if *linked { "linked" } else { "unlinked" };
                write!(f, "{linked} {level:?} table ({kind:?})")
            }
            FrameType::Spare => f.write_str("spare table"),
            FrameType::SpareUser => f.write_str("spare table with the key of address spaces"),
            FrameType::Early => f.write_str("early table"),
            FrameType::Text => f.write_str("kernel text"),
            FrameType::Constants => f.write_str("kernel constants"),
            FrameType::KernelData => f.write_str("the kernel's own data"),
            FrameType::Guarded => f.write_str("guarded data"),
            FrameType::NotRam => f.write_str("not RAM"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn every_type_has_a_word_of_its_own() {
        use FrameType::{
            Constants, Data, Early, Guarded, KernelData, NotRam, Spare, SpareUser, Text,
        };
        let mut all = Vec::from([
            Data, Spare, SpareUser, Early, Text, Constants, KernelData, Guarded, NotRam,
        ]);
        for level in Level::ALL {
            for kind in Kind::ALL {
                all.extend([FrameType::unlinked(level, kind), FrameType::linked(level, kind)]);
            }
        }
        for (i, of) in all.iter().enumerate() {
            assert_eq!(FrameType::of_word(of.word()), *of);
            assert!(all[..i].iter().all(|other| other.word() != of.word()), "{of}");
        }
        for of in &all {
            for level in Level::ALL {
                for (space, kinds) in [
                    (Space::User, &[Kind::User][..]),
                    (Space::Kernel, &[Kind::Kernel]),
                    (Space::Linear, &[Kind::Kernel, Kind::Linear, Kind::Alias]),
                    (Space::Alias, &[Kind::Kernel, Kind::Linear, Kind::Alias]),
                ] {
                    let is = matches!(of, FrameType::Table { level: of, kind, linked: true }
                        if *of == level && kinds.contains(kind));
                    let found = FrameType::is_table_word(of.word(), level, space);
                    assert_eq!(found, is, "{of} {level:?} {space:?}");
                }
            }
        }
        assert_eq!(FrameType::of_word(0xf), NotRam, "what is not known allows nothing");
    }
}
