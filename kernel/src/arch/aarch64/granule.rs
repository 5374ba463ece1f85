//! What the size of pages, which is chosen when the kernel is built, makes of registers and of the boot tables.
//!
//! | feature | pages | `TG0`, `TG1` | field of `ID_AA64MMFR0_EL1` | boot tables map memory by | and the image by |
//! |---|---|---|---|---|---|
//! | - | 4 KiB | 0, 2 | `TGran4`, bits 31:28, where 15 is "no" | 1 GiB | 2 MiB |
//! | `pages-16k` | 16 KiB | 2, 1 | `TGran16`, bits 23:20, where 0 is "no" | 32 MiB | 16 KiB |
//! | `pages-64k` | 64 KiB | 1, 3 | `TGran64`, bits 27:24, where 15 is "no" | 512 MiB | 64 KiB |
//!
//! Arm ARM (DDI 0487), D19, the registers by name. The image lies on a multiple of 2 MiB, so that larger blocks cannot map it.

use kpkeys_pgtable::{Format as _, Level, VirtAddr};

/// The format of the kernel's page tables.
#[cfg(not(any(feature = "pages-16k", feature = "pages-64k")))]
pub type Format = kpkeys_pgtable::entry::Aarch64;
/// The format of the kernel's page tables.
#[cfg(feature = "pages-16k")]
pub type Format = kpkeys_pgtable::entry::Aarch64_16K;
/// The format of the kernel's page tables.
#[cfg(feature = "pages-64k")]
pub type Format = kpkeys_pgtable::entry::Aarch64_64K;

macro_rules! refusal {
    ($pages:literal) => {
        concat!(
            "[    0.000] boot refused: this CPU has no ",
            $pages,
            " pages, for which this kernel was built; choose another, for instance `-cpu max`\n\0"
        )
    };
}

/// What there is to know of a size of pages.
pub struct Granule {
    /// `TCR_EL1.TG0` and `TG1`.
    tg: [u64; 2],
    /// Where `ID_AA64MMFR0_EL1` says whether the CPU has it, and what it says if not.
    pub field: u32,
    /// What that field is where the CPU does not have it.
    pub absent: u64,
    /// Bits 2:1 of the flags in the header of a Linux Image (`booting.rst`).
    image: u64,
    /// What is said on a CPU that does not have it, with a zero behind it.
    pub refusal: &'static str,
}

/// This build's.
pub const GRANULE: Granule = match Format::PAGE_SHIFT {
    12 => Granule { tg: [0, 2], field: 28, absent: 15, image: 1, refusal: refusal!("4 KiB") },
    14 => Granule { tg: [2, 1], field: 20, absent: 0, image: 2, refusal: refusal!("16 KiB") },
    16 => Granule { tg: [1, 3], field: 24, absent: 15, image: 3, refusal: refusal!("64 KiB") },
    _ => panic!("arm64 has pages of 4, 16 and 64 KiB"),
};

/// The header's flags: little-endian, these pages, anywhere in memory.
pub const IMAGE_FLAGS: u64 = GRANULE.image << 1 | 1 << 3;

/// `TCR_EL1` as the kernel starts on it: the width of both halves and the size of pages in them, walks cached and inner shareable, A1 (see `root`).
pub const TCR: u64 = {
    const WALKS: u64 = 0b11 << 12 | 0b01 << 10 | 0b01 << 8;
    const A1: u64 = 1 << 22;
    let size = 64 - Format::INPUT_BITS as u64;
    size | size << 16 | WALKS | WALKS << 16 | A1 | GRANULE.tg[0] << 14 | GRANULE.tg[1] << 30
};

/// Bits of an address within a block that is mapped one to one: the largest there is, which is in the second of two tables.
pub const BLOCK_SHIFT: u32 = Format::LARGEST_BLOCK.entry_bytes::<Format>().trailing_zeros();
/// Entries of a table.
pub const ENTRIES: u64 = Format::ENTRIES as u64;
/// What the image is mapped by, and the table above that of these leaves.
const LEAF: [Level; 2] = match Level::Pmd.entry_bytes::<Format>() == IMAGE_ALIGN {
    true => [Level::Pmd, Level::Pud],
    false => [Level::Pte, Level::Pmd],
};
/// What the image lies on a multiple of.
const IMAGE_ALIGN: u64 = 2 << 20;
/// No image is longer: `image.ld` sees to it.
const IMAGE_REACH: u64 = 128 << 20;
/// Bytes of a leaf that the boot tables map the image by.
pub const LEAF_BYTES: u64 = LEAF[0].entry_bytes::<Format>();
/// Tables of such leaves that the image takes at most.
pub const LEAF_TABLES: u64 = IMAGE_REACH.div_ceil(LEAF_BYTES * ENTRIES);
/// The descriptor's bit that makes a page of a leaf, at the lowest level.
pub const LEAF_IS_PAGE: u64 = if matches!(LEAF[0], Level::Pte) { 0b10 } else { 0 };

/// Where the entry for an address is in the tables above the leaves' for the image: the root, and the one below.
pub const fn above_leaf(address: VirtAddr) -> [usize; 2] {
    [address.index::<Format>(Format::ROOT), address.index::<Format>(LEAF[1])]
}
