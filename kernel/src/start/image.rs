//! The kernel image's own layout, from the architecture's linker script, and who may do what with it.

use crate::arch::layout::{image_offset, linear};
use crate::cpu::stack;
use crate::memory::boot::{PAGE_SIZE, PhysAddr, PhysRange};
use kpkeys_pgtable::Attrs;

/// What the kernel may do with a region of its image. Nothing is writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Code.
    ReadExecute,
    /// Constants.
    Read,
    /// Variables and stacks.
    ReadWrite,
    /// Variables until start is over, then constants.
    Settling,
}

impl Access {
    /// What a page of such a region is mapped with, during start or once that is over and what has settled is to be kept.
    pub const fn attrs(self, settled: bool) -> Attrs {
        let data = Attrs::KERNEL_DATA;
        match self {
            Self::ReadExecute => Attrs { execute: true, ..data.read_only() },
            Self::Read => data.read_only(),
            Self::Settling if settled => data.read_only(),
            Self::ReadWrite | Self::Settling => data,
        }
    }
}

/// A piece of the image: where it is, how long, and its access. Whole pages.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// What it holds, for messages.
    pub name: &'static str,
    /// First virtual address.
    pub virt: u64,
    /// Bytes.
    pub len: u64,
    /// Permission.
    pub access: Access,
}

impl Region {
    /// Where the region lies in memory.
    pub fn phys(&self) -> PhysRange {
        PhysRange { start: phys(self.virt), end: phys(self.virt + self.len) }
    }
}

/// Every mapped region of the image. Gaps stay unmapped: the end of the last read-only
/// block, and the guard page below each stack.
pub fn regions() -> impl Iterator<Item = Region> {
    let region = |name, bounds: (u64, u64), access| Region {
        name,
        virt: bounds.0,
        len: bounds.1 - bounds.0,
        access,
    };
    let parts = [
        region("text", text(), Access::ReadExecute),
        region("rodata", rodata(), Access::Read),
        region("data", data(), Access::ReadWrite),
        region("settled", settled(), Access::Settling),
        region("boot tables", boot_tables(), Access::Read),
        region("bss", bss(), Access::ReadWrite),
    ];
    let stacks = stack::all().map(move |stack| {
        let bounds = (stack.bottom() as u64, stack.top() as u64);
        region("stack", bounds, Access::ReadWrite)
    });
    parts.into_iter().chain(stacks)
}

/// Where an address of the image lies in memory.
pub fn phys(virt: u64) -> PhysAddr {
    PhysAddr(virt.wrapping_sub(image_offset()))
}

/// The frames the image occupies, unmapped gaps included, once it is known how many stacks there are.
pub fn frames() -> PhysRange {
    let (start, end) = (bound(&raw const image_start), stack::end() as u64);
    PhysRange { start: phys(start), end: phys(end) }
}

/// The frames of text and read-only data, in whole 2 MiB blocks: the linear map keeps
/// them read-only.
pub fn read_only_frames() -> PhysRange {
    PhysRange { start: frames().start, end: phys(data().0) }
}

/// First and last-but-one address of the code.
pub fn text() -> (u64, u64) {
    (bound(&raw const image_text_start), bound(&raw const image_text_end))
}

/// Bounds of the constants.
pub fn rodata() -> (u64, u64) {
    (bound(&raw const image_text_end), bound(&raw const image_rodata_end))
}

/// Bounds of what settles during start: see `settled`.
pub fn settled() -> (u64, u64) {
    (bound(&raw const image_data_end), bound(&raw const image_settled_end))
}

/// Bounds of the page tables of the first instructions.
pub fn boot_tables() -> (u64, u64) {
    (bound(&raw const image_settled_end), bound(&raw const image_bss_start))
}

/// Bounds of the variables that start as zero.
pub fn bss() -> (u64, u64) {
    (bound(&raw const image_bss_start), bound(&raw const image_bss_end))
}

/// Bounds of the variables that do not start as zero.
pub fn data() -> (u64, u64) {
    (bound(&raw const image_data_start), bound(&raw const image_data_end))
}

fn bound(symbol: *const u8) -> u64 {
    let address = symbol as u64;
    debug_assert!(address.is_multiple_of(PAGE_SIZE));
    address
}

// SAFETY: the linker script defines these symbols; only their addresses are used.
unsafe extern "C" {
    static image_start: u8;
    static image_text_start: u8;
    static image_text_end: u8;
    static image_rodata_end: u8;
    static image_data_start: u8;
    static image_data_end: u8;
    static image_settled_end: u8;
    static image_bss_start: u8;
    static image_bss_end: u8;
}

/// The frames of the boot tables: page-table pages inside the image.
pub fn boot_table_frames() -> PhysRange {
    let (start, end) = boot_tables();
    PhysRange { start: phys(start), end: phys(end) }
}

/// The frames of what settles during start.
pub fn settled_frames() -> PhysRange {
    let (start, end) = settled();
    PhysRange { start: phys(start), end: phys(end) }
}

/// Wipes the boot tables, which map memory writable and executable. The image maps them read-only, so this goes
/// through the linear map.
///
/// # Safety
///
/// No CPU may use them any more, and none may be started later.
pub unsafe fn retire_boot_tables() {
    let frames = boot_table_frames();
    // SAFETY: the pages are the image's own, and nobody's tables any more.
    unsafe { core::ptr::write_bytes(linear(frames.start), 0, frames.len() as usize) };
}
