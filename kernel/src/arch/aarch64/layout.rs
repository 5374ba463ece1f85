//! Where things lie in the kernel half of the address space.
//!
//! | from | what |
//! |---|---|
//! | `0x0000_4000_0000_0000` | alias of page-table pages, with backend `ttbr0`: in windows alone |
//! | `0xffff_8880_0000_0000` | linear map: all RAM, never executable |
//! | `0xffff_b000_0000_0000` | alias of page-table pages, with backend `pan` |
//! | `0xffff_ffff_8000_0000` | kernel image (see `image.ld`) |
//! | `0xffff_ffff_c000_0000` | device registers |
//! | `0xffff_ffff_e000_0000` | frame buffer, uncached, where the loader names one |
//!
//! But for the first, the same addresses as on x86-64, all in the upper half of what `TTBR1_EL1` translates: kernel
//! addresses have bit 47 set on both architectures.

use crate::memory::boot::PhysAddr;
use crate::protection;
use core::sync::atomic::{AtomicU64, Ordering};
use kpkeys::Backend;

/// First address of the linear map.
pub const LINEAR_MAP: u64 = 0xffff_8880_0000_0000;
/// First address of the alias: as much room as memory needs, up to 40 TiB above the linear map and 25 TiB below the vmalloc area.
const ALIAS: u64 = 0xffff_b000_0000_0000;
/// The same where it is translated in windows alone: in the half that programs have otherwise, with 64 TiB of room.
const ALIAS_IN_WINDOWS: u64 = 0x0000_4000_0000_0000;
/// First address of the device mappings; see `devices`.
pub const DEVICES: u64 = 0xffff_ffff_c000_0000;
/// First address of the frame buffer.
pub const SCREEN: u64 = 0xffff_ffff_e000_0000;
/// Where the image is linked.
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// First address of the alias, with the selected backend.
#[inline(always)]
pub fn alias() -> u64 {
    if protection::backend().has_window_root() { ALIAS_IN_WINDOWS } else { ALIAS }
}

/// Whether an address is the alias's, and it is translated in windows alone.
pub fn is_alias_of_windows(address: u64) -> bool {
    protection::backend().has_window_root() && address >> 47 == 0 && address >= ALIAS_IN_WINDOWS
}

/// The address at which the linear map has physical address `phys`.
pub const fn linear(phys: PhysAddr) -> *mut u8 {
    (LINEAR_MAP + phys.0) as *mut u8
}

#[unsafe(link_section = ".settled")]
static IMAGE_OFFSET: AtomicU64 = AtomicU64::new(0);

/// Virtual minus physical address of the image, whose place in memory is the loader's choice.
pub fn image_offset() -> u64 {
    IMAGE_OFFSET.load(Ordering::Relaxed)
}

/// Remembers where the loader put the image, once, before anything asks.
pub fn set_image_start(phys: PhysAddr) {
    IMAGE_OFFSET.store(IMAGE - phys.0, Ordering::Relaxed);
}
