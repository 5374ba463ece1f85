//! What is refused, and why. Whatever is refused here is refused before anything is stored.

use core::fmt;

use aarch64_paging::MapError;
use aarch64_paging::descriptor::{PhysicalAddress, VirtualAddress};
use aarch64_paging::paging::MemoryRegion;

/// Why something was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// An address of the layout, or a root, is not a multiple of the page size.
    Misaligned(usize),
    /// The table memory has no pages, or reaches past the end of its addresses.
    NoSuchMemory,
    /// The backend stores through an alias, and the layout has none.
    NoAlias,
    /// The alias is not in the upper half, where E0PD keeps EL0 out of it, or it overlaps the linear map's addresses of the table memory.
    AliasMisplaced(VirtualAddress),
    /// The table memory has fewer free pages than the call may need. Nothing was changed.
    OutOfTables {
        /// Pages the call may need.
        needed: usize,
        /// Pages that are free.
        free: usize,
    },
    /// The call would map, unmap or change what table memory is mapped by. The linear map of it is made with the memory around it, its
    /// alias by [`map_alias`](crate::Tables::map_alias), and nothing else may map it.
    TableMemory(MemoryRegion),
    /// The wrapped crate would subtract past zero: a block that is there has these flags, and the physical address asked for lies below
    /// the offset into it.
    BelowBlock(PhysicalAddress),
    /// An entry refers to a table that is not in the table memory.
    ForeignTable(PhysicalAddress),
    /// Protection was asked for while no tables map all table memory read-only (or keyed) in the linear map: map it by
    /// [`map_range`](crate::Tables::map_range).
    LinearMapMissing,
    /// Protection was asked for while no tables have the alias: map it by [`map_alias`](crate::Tables::map_alias).
    AliasMissing,
    /// Protection was asked for by a CPU whose register lets page tables be written: initialise the backend there, and close its windows.
    CpuOpen,
    /// Protection was asked for while this CPU can still store here outside of windows: the tables that say otherwise are not active.
    StillWritable(VirtualAddress),
    /// Protection was asked for while this CPU cannot reach the alias: the tables that have it are not active.
    AliasNotActive(VirtualAddress),
    /// The existing table is outside the memory that the linear map is said to have.
    OutsideLinearMap(PhysicalAddress),
    /// The existing table is reached through itself: recursive tables cannot be copied.
    Recursive(PhysicalAddress),
    /// The existing entry restricts all that is below it (APTable, XNTable, PXNTable), which the wrapped crate has no way to say.
    TableAttributes(VirtualAddress),
    /// The existing entry is not valid and not empty: its meaning is somebody's own.
    UnknownEntry(VirtualAddress),
    /// The wrapped crate's own refusal.
    Map(MapError),
}

impl From<MapError> for Error {
    fn from(error: MapError) -> Self {
        Error::Map(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Misaligned(address) => {
                write!(f, "{address:#x} is not a multiple of the page size")
            }
            Error::NoSuchMemory => {
                f.write_str("the table memory is empty or reaches past the last address")
            }
            Error::NoAlias => f.write_str(
                "this backend stores through an alias: give the layout an address for it",
            ),
            Error::AliasMisplaced(va) => {
                write!(f, "the alias at {va} must be in the upper half, apart from the linear map")
            }
            Error::OutOfTables { needed, free } => {
                write!(f, "up to {needed} tables are needed and {free} pages are free for them")
            }
            Error::TableMemory(region) => write!(f, "{region} maps, or would map, table memory"),
            Error::BelowBlock(pa) => {
                write!(f, "a block there has these flags, and {pa} lies below the offset into it")
            }
            Error::ForeignTable(pa) => {
                write!(f, "an entry refers to a table at {pa}, outside the table memory")
            }
            Error::LinearMapMissing => {
                f.write_str("no tables map all table memory in the linear map: map it first")
            }
            Error::AliasMissing => f.write_str("no tables have the alias: map it first"),
            Error::CpuOpen => f.write_str(
                "this CPU lets page tables be written: initialise the backend, and close windows",
            ),
            Error::StillWritable(va) => {
                write!(f, "{va} can be written outside of windows: activate the tables first")
            }
            Error::AliasNotActive(va) => {
                write!(f, "the alias at {va} cannot be reached: activate the tables first")
            }
            Error::OutsideLinearMap(pa) => write!(f, "the table at {pa} is outside the linear map"),
            Error::Recursive(pa) => write!(f, "the table at {pa} is reached through itself"),
            Error::TableAttributes(va) => {
                write!(f, "the entry of a table at {va} restricts all below it")
            }
            Error::UnknownEntry(va) => {
                write!(f, "the entry at {va} is not valid and not empty")
            }
            Error::Map(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Error::Map(error) => Some(error),
            _ => None,
        }
    }
}
