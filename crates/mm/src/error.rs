//! What can go wrong in memory management, with what.

use core::fmt;

use kpkeys_pgtable::VirtAddr;

/// Why a request was refused. Everything is as it was before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// No frame is left, or no heap.
    ///
    /// Frames of kernel mappings that [wait for a flush](crate::vmalloc) are not free. The allocations of kernel mappings, new address spaces, forks,
    /// faults and files purge and try again before they say this. Whoever takes frames from the [`Buddy`](crate::Buddy) itself, or moves a
    /// mapping, can do so by [`purge_vmalloc`](crate::Kernel::purge_vmalloc); about an eighth of all
    /// frames wait at most.
    OutOfMemory,
    /// The frame allocator is of other memory than the machine.
    OtherMemory,
    /// No range of kernel addresses is left that is large enough.
    OutOfAddresses(usize),
    /// The page tables refused.
    Tables(kpkeys_pgtable::Error),
    /// The range of so many pages overlaps an existing mapping, or lies outside the half it must lie in.
    Occupied(VirtAddr, usize),
    /// A page order other than 0 and 9, or a range not aligned to it.
    BadOrder(u8),
    /// The address belongs to no mapping.
    NotMapped(VirtAddr),
    /// The file has no page of this number.
    BehindEnd(usize),
    /// The mapping forbids the access.
    Forbidden(VirtAddr),
    /// A folio has as many references as can be counted.
    TooManyReferences,
}

impl From<kpkeys_pgtable::Error> for Error {
    fn from(error: kpkeys_pgtable::Error) -> Self {
        match error {
            kpkeys_pgtable::Error::OutOfMemory => Error::OutOfMemory,
            other => Error::Tables(other),
        }
    }
}

impl From<kpkeys_pgtable::addr::RangeError> for Error {
    fn from(error: kpkeys_pgtable::addr::RangeError) -> Self {
        Error::Tables(error.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::OutOfMemory => f.write_str("out of memory"),
            Error::OtherMemory => f.write_str("the frames are of other memory than the machine's"),
            Error::OutOfAddresses(pages) => write!(f, "no free range of {pages} kernel pages"),
            Error::Tables(error) => error.fmt(f),
            Error::Occupied(start, pages) => {
                write!(f, "{pages} pages at {start:?} overlap a mapping or leave the user half")
            }
            Error::BadOrder(order) => write!(
                f,
                "pages of order {order} cannot be mapped here: order 0, or 9 and aligned to 2 MiB"
            ),
            Error::NotMapped(va) => write!(f, "{va:?} is not mapped"),
            Error::BehindEnd(page) => write!(f, "page {page} lies behind the file's last one"),
            Error::Forbidden(va) => write!(f, "the mapping at {va:?} forbids the access"),
            Error::TooManyReferences => f.write_str("a folio has too many references"),
        }
    }
}

impl core::error::Error for Error {}
