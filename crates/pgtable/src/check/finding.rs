//! What the checker finds, and how it is said.

use core::fmt;

use kpkeys::Pkey;

use crate::addr::{Level, PhysAddr, VirtAddr};
use crate::entry::Entry;
use crate::guarded::FrameType;

/// One thing that is not as promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// A page-table page does not carry the key: any kernel store changes it.
    UnprotectedPtp {
        /// The page.
        frame: PhysAddr,
        /// The level of its entries.
        level: Level,
        /// What the linear map says: another key, or not mapped there.
        key: Option<Pkey>,
    },
    /// A page-table page, or one that waits in a pool, carries the key of the other page tables, where those of address spaces have one of their own.
    OthersKey {
        /// The page.
        frame: PhysAddr,
        /// The key that it carries.
        key: Pkey,
    },
    /// A page that waits in the pool to become a page-table page does not carry the key.
    UnprotectedSpare {
        /// The page.
        frame: PhysAddr,
        /// What the linear map says: another key, or not mapped there.
        key: Option<Pkey>,
    },
    /// A page-table page can be written through the linear map, where it is protected by an alias: any kernel store changes it.
    WritablePtp {
        /// The page.
        frame: PhysAddr,
        /// The level of its entries.
        level: Level,
    },
    /// A page that waits in the pool to become a page-table page can be written through the linear map.
    WritableSpare {
        /// The page.
        frame: PhysAddr,
    },
    /// The alias of a page-table page is missing, or is not what it must be: it can be reached outside windows, or maps another page.
    WrongAlias {
        /// The page.
        frame: PhysAddr,
        /// Where its alias should be.
        address: VirtAddr,
        /// What is there instead.
        entry: Entry,
    },
    /// There is an alias at the place of a page that is no page-table page: it can be written in windows.
    AliasedData {
        /// The page that is mapped there.
        frame: PhysAddr,
        /// The address of the alias.
        address: VirtAddr,
    },
    /// A page that is no page-table page carries the key: stores to it fault.
    KeyedData {
        /// The page.
        frame: PhysAddr,
    },
    /// A page-table page can be written through another address.
    WritableAlias {
        /// The page.
        frame: PhysAddr,
        /// The address it can be written through.
        address: VirtAddr,
    },
    /// A leaf of the linear map is not data of the kernel at its own address: it maps another frame, lets user mode in, or lets it be executed.
    WrongLinearLeaf {
        /// The first address that it translates.
        address: VirtAddr,
        /// The leaf.
        entry: Entry,
    },
    /// An entry points outside memory where a table should be.
    StrayTable {
        /// The address the entry helps to translate.
        address: VirtAddr,
        /// The entry.
        entry: Entry,
    },
    /// A page is linked as a table twice, at different places, or is linked and waits in the pool.
    SharedPtp {
        /// The page.
        frame: PhysAddr,
        /// The second address it was found for.
        address: VirtAddr,
    },
    /// A frame is not what its type says.
    WrongType {
        /// The frame.
        frame: PhysAddr,
        /// What its type says.
        says: FrameType,
        /// What it is: `None` if it is no table in use.
        is: Option<FrameType>,
    },
    /// A leaf outside the linear map and the alias maps a frame that it must not map so.
    ForbiddenLeaf {
        /// The frame.
        frame: PhysAddr,
        /// What it is by its type.
        is: FrameType,
        /// Where it is mapped.
        address: VirtAddr,
    },
    /// A leaf outside the linear map and the alias maps data that is said to be mapped by none: it may become a page-table page.
    UnmarkedLeaf {
        /// The frame.
        frame: PhysAddr,
        /// Where it is mapped.
        address: VirtAddr,
    },
    /// A root register or a thread holds what is no root of its kind that is in use.
    ForeignRoot {
        /// What it holds.
        root: PhysAddr,
        /// What that is by its type, where frames have one.
        is: Option<FrameType>,
    },
    /// An entry of a root in a half that is not the root's: hardware would follow it, and nobody here stored it.
    ForeignRootEntry {
        /// The root.
        root: PhysAddr,
        /// The index of the entry.
        index: usize,
        /// The entry.
        entry: Entry,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::UnprotectedPtp { frame, level, key: Some(key) } => {
                write!(f, "{level:?} table at {frame:?} carries key {}", key.number())
            }
            Finding::UnprotectedPtp { frame, level, key: None } => {
                write!(f, "{level:?} table at {frame:?} is not in the linear map")
            }
            Finding::UnprotectedSpare { frame, key: Some(key) } => {
                write!(f, "{frame:?} waits in the pool with key {}", key.number())
            }
            Finding::UnprotectedSpare { frame, key: None } => {
                write!(f, "{frame:?} waits in the pool and is not in the linear map")
            }
            Finding::OthersKey { frame, key } => {
                write!(f, "page-table page {frame:?} carries key {}, of other tables", key.number())
            }
            Finding::WritablePtp { frame, level } => {
                write!(f, "{level:?} table at {frame:?} is writable in the linear map")
            }
            Finding::WritableSpare { frame } => {
                write!(f, "{frame:?} waits in the pool and is writable in the linear map")
            }
            Finding::WrongAlias { frame, address, entry } => {
                write!(f, "page-table page {frame:?} has {entry:?} for its alias at {address:?}")
            }
            Finding::AliasedData { frame, address } => {
                write!(
                    f,
                    "{frame:?} has an alias at {address:?} that belongs to no page-table page"
                )
            }
            Finding::KeyedData { frame } => {
                write!(f, "{frame:?} carries the page-table key and is no page-table page")
            }
            Finding::WritableAlias { frame, address } => {
                write!(f, "page-table page {frame:?} is writable through {address:?}")
            }
            Finding::WrongLinearLeaf { address, entry } => {
                write!(
                    f,
                    "{entry:?} for {address:?} of the linear map is not kernel data of that address's frame"
                )
            }
            Finding::StrayTable { address, entry } => {
                write!(f, "{entry:?} for {address:?} points outside memory")
            }
            Finding::SharedPtp { frame, address } => {
                write!(f, "{frame:?} is linked again, for {address:?}")
            }
            Finding::WrongType { frame, says, is: Some(is) } => {
                write!(f, "{frame:?} is said to be {says}, and is {is}")
            }
            Finding::WrongType { frame, says, is: None } => {
                write!(f, "{frame:?} is said to be {says}, and no root leads to it")
            }
            Finding::ForbiddenLeaf { frame, is, address } => {
                write!(f, "{frame:?} is {is}, and must not be mapped as it is at {address:?}")
            }
            Finding::UnmarkedLeaf { frame, address } => {
                write!(f, "{frame:?} is mapped at {address:?}, and its type says that it is not")
            }
            Finding::ForeignRoot { root, is } => {
                write!(f, "{root:?} is held as a root and is none of its kind in use")?;
                is.map_or(Ok(()), |is| write!(f, ": it is {is}"))
            }
            Finding::ForeignRootEntry { root, index, entry } => {
                write!(f, "{entry:?} at index {index} of the root {root:?} is in the wrong half")
            }
        }
    }
}
