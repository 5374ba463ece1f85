//! Where things lie in the kernel half of the address space.
//!
//! | from | what |
//! |---|---|
//! | `0xffff_8880_0000_0000` | linear map: all RAM, 2 MiB blocks, never executable |
//! | `0xffff_b000_0000_0000` | alias of page-table pages, with backend `smap`; in root entries of its own, which programs' roots lack |
//! | `0xffff_ffff_8000_0000` | kernel image (see `image.ld`) |
//! | `0xffff_ffff_c000_0000` | device registers, uncached |
//! | `0xffff_ffff_e000_0000` | frame buffer, uncached, where the loader names one |
//!
//! With five levels of tables (feature `la57`) the first two lie where only those lead: the linear map from `0xff11_0000_0000_0000`, and the alias from
//! `0xffa0_0000_0000_0000`, in a root entry of its own, which are 256 TiB there.
//!
//! The linear map starts where Linux's does, so addresses in reports look familiar.

use crate::memory::boot::PhysAddr;

/// First address of the linear map.
pub const LINEAR_MAP: u64 =
    if cfg!(feature = "la57") { 0xff11_0000_0000_0000 } else { 0xffff_8880_0000_0000 };
/// First address of the alias: as much room as memory needs, up to 40 TiB above the linear map and 25 TiB below the vmalloc area.
const ALIAS: u64 =
    if cfg!(feature = "la57") { 0xffa0_0000_0000_0000 } else { 0xffff_b000_0000_0000 };
/// First address of the device mappings; the local APIC's page comes first.
pub const DEVICES: u64 = 0xffff_ffff_c000_0000;
/// First address of the frame buffer.
pub const SCREEN: u64 = 0xffff_ffff_e000_0000;

/// First address of the alias.
#[inline(always)]
pub const fn alias() -> u64 {
    ALIAS
}

/// The address at which the linear map has physical address `phys`.
pub const fn linear(phys: PhysAddr) -> *mut u8 {
    (LINEAR_MAP + phys.0) as *mut u8
}

/// Virtual minus physical address of the image (`image.ld`).
pub const fn image_offset() -> u64 {
    0xffff_ffff_8000_0000
}
