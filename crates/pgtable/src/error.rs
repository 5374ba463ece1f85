//! What can go wrong, with what.

use core::fmt;

use kpkeys::Pkey;

use crate::addr::{PhysAddr, RangeError, VirtAddr};

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
    /// The backend protects page tables by an alias: there are no keys to set.
    NoKeys(Pkey),
    /// The backend needs an alias, and the machine says no place for one, or this unusable one.
    AliasMisplaced(Option<VirtAddr>),
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
            Error::NoKeys(key) => {
                write!(f, "key {} cannot be set: this backend protects page tables by an alias, and nothing else", key.number())
            }
            Error::AliasMisplaced(None) => f.write_str("this backend needs an alias of memory, and the machine has no place for it"),
            Error::AliasMisplaced(Some(va)) => {
                write!(f, "no alias can start at {va:?}: it must be in the kernel's half, at a multiple of 1 GiB, apart from the linear map")
            }
            Error::NeedsPageMappedLinearMap => {
                f.write_str("page-table pages allocated one by one need a linear map made of pages; use a pool, or map by pages")
            }
        }
    }
}

impl core::error::Error for Error {}
