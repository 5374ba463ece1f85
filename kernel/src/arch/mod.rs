//! The architectures. Each folder offers the same modules; the rest of the kernel names only
//! those, through this one.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

/// A range of pages of this architecture's tables.
pub type PageRange = kpkeys_pgtable::PageRange<Format>;
/// What a TLB invalidation covers, in such tables.
pub type Flush = kpkeys_pgtable::Flush<Format>;
/// The memory that their linear map covers.
pub type Memory = kpkeys_pgtable::Memory<Format>;
/// Where the types of frames begin.
pub type Anchor = kpkeys_pgtable::guarded::Anchor<Format>;
