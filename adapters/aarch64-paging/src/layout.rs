//! Where table memory is, and what its mappings must be.
//!
//! Table memory is one contiguous piece of RAM that nothing but tables lives in. It is mapped twice at most: in the linear map, as the
//! memory around it but for what protects it, and by the alias, where the backend needs one.

use core::ops::Range;

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress, VirtualAddress};
use aarch64_paging::paging::{MemoryRegion, PAGE_SIZE};
use kpkeys::{Pkey, Scheme};

use crate::Error;

/// Where table memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Its first byte. A multiple of 2 MiB, like the size, lets blocks map it.
    pub start: PhysicalAddress,
    /// Its size. Each table is a page.
    pub pages: usize,
    /// Where the linear map has it.
    pub linear: VirtualAddress,
    /// Where its alias is to be, for backends that store through one: in the upper half, at addresses used for nothing else.
    pub alias: Option<VirtualAddress>,
}

/// POIndex of a leaf, bits 62:60, with the key of page tables.
const KEY: El1Attributes =
    El1Attributes::from_bits_retain((Pkey::PAGE_TABLES.number() as usize) << 60);
const KEY_FIELD: El1Attributes = El1Attributes::from_bits_retain(7 << 60);
/// Bits that a protected leaf must not have: EL0 has no business there, and with DBM the walker itself would make it writable.
const NEVER: El1Attributes = El1Attributes::USER.union(El1Attributes::DBM).union(KEY_FIELD);
const NO_CODE: El1Attributes = El1Attributes::PXN.union(El1Attributes::UXN);

impl Layout {
    /// # Errors
    ///
    /// What is wrong with it, for a backend of this scheme.
    pub(crate) fn check(&self, scheme: Scheme) -> Result<(), Error> {
        let alias = self.alias.unwrap_or(VirtualAddress(0));
        for address in [self.start.0, self.linear.0, alias.0] {
            if !address.is_multiple_of(PAGE_SIZE) {
                return Err(Error::Misaligned(address));
            }
        }
        let bytes = self.pages.checked_mul(PAGE_SIZE).filter(|&bytes| bytes > 0);
        let ends = bytes.map(|bytes| [self.start.0, self.linear.0].map(|a| a.checked_add(bytes)));
        let Some([Some(end), Some(_)]) = ends else { return Err(Error::NoSuchMemory) };
        if end > 1 << 48 {
            return Err(Error::NoSuchMemory);
        }
        match (scheme, self.alias) {
            (Scheme::Keys, _) => Ok(()),
            (Scheme::Alias, None) => Err(Error::NoAlias),
            (Scheme::Alias, Some(alias)) => self.check_alias(alias),
        }
    }

    fn check_alias(&self, alias: VirtualAddress) -> Result<(), Error> {
        let in_upper_half = alias.0 >> 63 == 1 && alias.0.checked_add(self.bytes()).is_some();
        match in_upper_half && alias.0.abs_diff(self.linear.0) >= self.bytes() {
            true => Ok(()),
            false => Err(Error::AliasMisplaced(alias)),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.pages * PAGE_SIZE
    }

    /// Its addresses in the linear map.
    pub fn linear_region(&self) -> MemoryRegion {
        MemoryRegion::new(self.linear.0, self.linear.0 + self.bytes())
    }

    /// Its addresses in the alias.
    pub fn alias_region(&self) -> Option<MemoryRegion> {
        let alias = self.alias?;
        Some(MemoryRegion::new(alias.0, alias.0 + self.bytes()))
    }

    /// The number of the page, if it is one of these.
    pub(crate) fn page(&self, pa: PhysicalAddress) -> Option<usize> {
        let offset = pa.0.checked_sub(self.start.0)?;
        (offset < self.bytes() && offset.is_multiple_of(PAGE_SIZE)).then_some(offset / PAGE_SIZE)
    }

    pub(crate) fn address(&self, page: usize) -> PhysicalAddress {
        self.start + page * PAGE_SIZE
    }

    /// Whether the frames that `region` would map are table memory in part.
    pub(crate) fn has_frames_of(&self, region: &MemoryRegion, pa: PhysicalAddress) -> bool {
        let end = pa.0.saturating_add(region.len());
        pa.0 < self.start.0 + self.bytes() && self.start.0 < end
    }

    /// Whether `pa` is what the linear map has at the start of `region`.
    pub(crate) fn is_linear(&self, region: &MemoryRegion, pa: PhysicalAddress) -> bool {
        region.start().0.wrapping_sub(pa.0) == self.linear.0.wrapping_sub(self.start.0)
    }

    pub(crate) fn overlaps_alias(&self, region: &MemoryRegion) -> bool {
        self.alias_region().is_some_and(|alias| overlap(&alias, region).is_some())
    }
}

/// The addresses that both have.
pub(crate) fn overlap(a: &MemoryRegion, b: &MemoryRegion) -> Option<Range<usize>> {
    let both = a.start().0.max(b.start().0)..a.end().0.min(b.end().0);
    (both.start < both.end).then_some(both)
}

/// A leaf of the linear map, as it must be where it maps table memory.
pub(crate) fn protected(flags: El1Attributes, scheme: Scheme) -> El1Attributes {
    let bare = (flags - NEVER) | NO_CODE;
    match scheme {
        Scheme::Keys => (bare - El1Attributes::READ_ONLY) | KEY,
        Scheme::Alias => bare | El1Attributes::READ_ONLY,
    }
}

/// A leaf of the alias, of memory of this kind: as EL0's data, which PAN keeps the kernel out of.
pub(crate) fn aliased(memory: El1Attributes) -> El1Attributes {
    let open = memory - NEVER - El1Attributes::READ_ONLY;
    open | NO_CODE | El1Attributes::USER | El1Attributes::VALID | El1Attributes::ACCESSED
}
