//! Which tables have a key in common, where those of address spaces have one of their own.

use kpkeys::Pkey;

use crate::addr::Level;
use crate::guarded::{FrameType, Kind};

/// Tables that have a key in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// The kernel's, the linear map's, and every root: that of an address space may hold the kernel's half. Where there is one key, all.
    Kernel,
    /// Those of address spaces below the root, where they have a key of their own.
    User,
}

impl Class {
    /// The class of a table of a level and a kind, where there are two.
    #[inline(always)]
    pub(crate) const fn of(level: Level, kind: Kind) -> Class {
        match (level, kind) {
            (Level::Pgd, _) | (_, Kind::Kernel | Kind::Linear | Kind::Alias) => Class::Kernel,
            (_, Kind::User) => Class::User,
        }
    }

    /// The class of a frame that is protected, by its type.
    pub(crate) const fn of_type(is: FrameType) -> Class {
        match is {
            FrameType::Table { level, kind, .. } => Class::of(level, kind),
            FrameType::SpareUser => Class::User,
            _ => Class::Kernel,
        }
    }

    /// The key of its pages, spare or in use.
    pub(crate) const fn key(self) -> Pkey {
        match self {
            Class::Kernel => Pkey::PAGE_TABLES,
            Class::User => Pkey::USER_TABLES,
        }
    }

    /// What its pages are while they wait.
    #[inline(always)]
    pub(crate) const fn spare(self) -> FrameType {
        match self {
            Class::Kernel => FrameType::Spare,
            Class::User => FrameType::SpareUser,
        }
    }
}
