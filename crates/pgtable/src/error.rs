//! What can go wrong, with what.

use core::fmt;

use kpkeys::Pkey;

use crate::addr::{PhysAddr, RangeError, VirtAddr};
use crate::guarded::{FrameType, Violation};

/// Why an operation on page tables was refused. Mappings are as they were before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// No frame was left for a page-table page.
    OutOfMemory,
    /// The range is no range.
    Range(RangeError),
    /// The address already translates.
    AlreadyMapped(VirtAddr),
    /// The address is covered by a block or a contiguous run, where single pages were to be changed.
    MappedByBlock(VirtAddr),
    /// The format cannot express a leaf for this frame: misaligned, too large, or no such key.
    NotMappable(PhysAddr),
    /// The physical range is not all in the linear map.
    OutsideLinearMap(PhysAddr, usize),
    /// The format has no key of this number.
    KeyOutOfRange(Pkey),
    /// The record of early page-table pages is full: these pages would stay unprotected.
    EarlyRecordFull(PhysAddr),
    /// The mode allocates page-table pages one by one, which needs a linear map made of pages.
    NeedsPageMappedLinearMap,
    /// The protection register of the calling CPU lets page tables be written: its backend was not initialised, or a window is open.
    CpuOpen,
    /// The backend protects page tables by an alias: there are no keys to set.
    NoKeys(Pkey),
    /// The backend needs an alias, and the machine says no place for one, or this unusable one.
    AliasMisplaced(Option<VirtAddr>),
    /// The address is in the half of the address space that the root is not for.
    WrongHalf(VirtAddr),
    /// The operation has a section, a root and tables that are not of one another, by this address.
    Foreign(VirtAddr),
    /// The address is in the linear map or the alias, which this library changes by itself.
    OwnMap(VirtAddr),
    /// The tables that translate this address are never freed: they are the linear map's or the alias's.
    TablesStay(VirtAddr),
    /// A table that holds entries was to be freed: of this address, and perhaps of others.
    TableInUse(VirtAddr),
    /// Frames can be given a type only before protection is on.
    TooLate(PhysAddr),
    /// Nobody but this library says of frames that they are this.
    NotSaid(FrameType),
    /// The frames carry the page tables' key and are to keep it.
    Protected(PhysAddr),
    /// A frame is not what it was to be used as.
    Violation(Violation),
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Error::Violation(violation)
    }
}

impl From<RangeError> for Error {
    fn from(error: RangeError) -> Self {
        Error::Range(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::OutOfMemory => f.write_str("no frame is left for a page-table page"),
            Error::Range(error) => error.fmt(f),
            Error::AlreadyMapped(va) => write!(f, "{va:?} is already mapped"),
            Error::MappedByBlock(va) => write!(f, "{va:?} is mapped by a block; unmap or split the block first"),
            Error::NotMappable(pa) => write!(f, "{pa:?} cannot be mapped here: misaligned, too large, or a key the format lacks"),
            Error::OutsideLinearMap(pa, pages) => write!(f, "{pages} pages at {pa:?} are not all in the linear map"),
            Error::KeyOutOfRange(key) => write!(f, "this entry format has no key {}", key.number()),
            Error::EarlyRecordFull(pa) => {
                write!(f, "the record of early page-table pages is full, {pa:?} would stay unprotected")
            }
            Error::CpuOpen => f.write_str(
                "this CPU's protection register lets page tables be written: initialise the backend on each CPU, and turn protection on outside of windows (the book's chapter \"Exceptions and threads\")",
            ),
            Error::NoKeys(key) => {
                write!(f, "key {} cannot be set: this backend protects page tables by an alias, and nothing else", key.number())
            }
            Error::AliasMisplaced(None) => f.write_str("this backend needs an alias of memory, and the machine has no place for it"),
            Error::AliasMisplaced(Some(va)) => {
                write!(f, "no alias can start at {va:?}: it must be in the kernel's half (in the other if windows load a root for it), at a multiple of 1 GiB, apart from the linear map")
            }
            Error::WrongHalf(va) => write!(f, "{va:?} is not in the half of the address space that this root is for"),
            Error::Foreign(va) => {
                write!(f, "the section, the root and the tables for {va:?} are not of one another")
            }
            Error::OwnMap(va) => {
                write!(f, "{va:?} is in the linear map or the alias, which are not changed by operations on ranges")
            }
            Error::TablesStay(va) => {
                write!(f, "the tables that translate {va:?} are the linear map's or the alias's, and are never freed")
            }
            Error::TableInUse(va) => write!(f, "the table that translates {va:?} holds entries; unmap them before it is freed"),
            Error::TooLate(pa) => write!(f, "{pa:?} was to be given a type after protection was turned on"),
            Error::NotSaid(is) => write!(f, "frames cannot be said to be {is}"),
            Error::Protected(pa) => write!(f, "{pa:?} holds page tables, and keeps their key"),
            Error::Violation(violation) => violation.fmt(f),
            Error::NeedsPageMappedLinearMap => {
                f.write_str("page-table pages allocated one by one need a linear map made of pages; use a pool, or map by pages")
            }
        }
    }
}

impl core::error::Error for Error {}
