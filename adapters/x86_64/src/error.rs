//! Why tables cannot be adopted, or a frame cannot become a table.

use core::fmt;

use x86_64::VirtAddr;
use x86_64::structures::paging::PhysFrame;

/// Why tables were not adopted. Nothing is protected then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AdoptError {
    /// The backend protects by an alias and the linear map has none ([`LinearMap::with_alias`](crate::LinearMap::with_alias)), or it has one
    /// and the backend does not.
    Scheme,
    /// The tables do not map this table at the address of its alias, or not so: writable and for programs to access by every entry of
    /// the path, never executable, not global.
    NoAlias {
        /// The table, or the frame that is to become one.
        table: PhysFrame,
        /// Where the alias should be.
        address: VirtAddr,
    },
    /// This root leads to the alias, and is not the kernel's: programs that run on it could write tables.
    AliasReachable {
        /// The root.
        root: PhysFrame,
    },
    /// A table has no address in the linear map, so it cannot be reached, and has nothing to put a key on.
    OutsideLinearMap {
        /// The table, or the frame that is to become one.
        table: PhysFrame,
    },
    /// The linear map does not map this table, or another frame at its address.
    NotMapped {
        /// The table.
        table: PhysFrame,
        /// Where it should be.
        address: VirtAddr,
    },
    /// An entry points to a table that the walk came through to reach it: the tables are recursive. The leaf that maps a table is then the
    /// entry above it, which the wrapped crate rewrites without a key.
    Recursive {
        /// The table that has the entry.
        table: PhysFrame,
        /// Which entry it is.
        index: u16,
    },
    /// A block of the linear map is not aligned to its size, or has the PAT bit set: it cannot be split into pages.
    Unaligned {
        /// Where it is mapped.
        address: VirtAddr,
    },
    /// The linear map carries another key here already.
    OtherKey {
        /// The table whose key it would be.
        table: PhysFrame,
    },
    /// Programs may access the linear map here. Supervisor keys bind no page that programs may access.
    UserAccessible {
        /// The table.
        table: PhysFrame,
    },
    /// A table can be written through another mapping, which carries no key. Unmap it, or make it read-only, and adopt then.
    WritableElsewhere {
        /// A frame of a table.
        table: PhysFrame,
        /// Where the other mapping begins.
        address: VirtAddr,
    },
    /// The allocator has no frame left for a table that splits a block of the linear map.
    OutOfFrames,
}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |frame: &PhysFrame| frame.start_address().as_u64();
        match self {
            AdoptError::Scheme => {
                f.write_str("the backend and the linear map disagree about an alias: one that protects by keys needs a map without, SMAP one with it")
            }
            AdoptError::NoAlias { table, address } => {
                write!(f, "the table at {:#x} should have its alias at {address:?}: writable, user-accessible, not executable, not global", at(table))
            }
            AdoptError::AliasReachable { root } => {
                write!(f, "the root at {:#x}, which is not the kernel's, leads to the alias of tables; clear those entries", at(root))
            }
            AdoptError::OutsideLinearMap { table } => {
                write!(f, "the table at {:#x} is not in the linear map; take tables from memory that it covers", at(table))
            }
            AdoptError::NotMapped { table, address } => {
                write!(f, "the linear map should have the table at {:#x} at {address:?} and has not", at(table))
            }
            AdoptError::Recursive { table, index } => {
                write!(f, "entry {index} of the table at {:#x} is recursive; clear it and use the linear map", at(table))
            }
            AdoptError::Unaligned { address } => {
                write!(f, "the linear map's block at {address:?} is not aligned to its size, or has PAT set, and cannot be split")
            }
            AdoptError::OtherKey { table } => {
                write!(f, "the linear map carries another key where the table at {:#x} is", at(table))
            }
            AdoptError::UserAccessible { table } => {
                write!(f, "programs may access the linear map where the table at {:#x} is, so no key binds it", at(table))
            }
            AdoptError::WritableElsewhere { table, address } => {
                write!(f, "the table at {:#x} can also be written through the mapping at {address:?}; unmap that first", at(table))
            }
            AdoptError::OutOfFrames => {
                f.write_str("no frame is left for a table that splits a block of the linear map")
            }
        }
    }
}

impl core::error::Error for AdoptError {}

/// The allocator has no frame left for a table, or gave one that cannot be protected: outside of the linear map, for instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfFrames;

impl fmt::Display for OutOfFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the allocator has no frame left that can be protected as a table")
    }
}

impl core::error::Error for OutOfFrames {}
