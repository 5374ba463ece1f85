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
    /// The largest leaf there is in the second of two tables.
    pub block: Level,
    /// What the image is mapped by.
    leaf: Level,
    /// Tables of such leaves that the image takes at most.
    pub leaf_tables: u64,
    /// What is said on a CPU that does not have it, with a zero behind it.
    pub refusal: &'static str,
}

/// This build's.
pub const GRANULE: Granule = match Format::PAGE_SHIFT {
    12 => Granule {
        tg: [0, 2],
        field: 28,
        absent: 15,
        image: 1,
        block: Level::Pud,
        leaf: Level::Pmd,
        leaf_tables: 1,
        refusal: refusal!("4 KiB"),
    },
    14 => Granule {
        tg: [2, 1],
        field: 20,
        absent: 0,
        image: 2,
        block: Level::Pmd,
        leaf: Level::Pte,
        leaf_tables: 2,
        refusal: refusal!("16 KiB"),
    },
    16 => Granule {
        tg: [1, 3],
        field: 24,
        absent: 15,
        image: 3,
        block: Level::Pmd,
        leaf: Level::Pte,
        leaf_tables: 1,
        refusal: refusal!("64 KiB"),
    },
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

/// Bits of an address within a block that is mapped one to one.
pub const BLOCK_SHIFT: u32 = GRANULE.block.entry_bytes::<Format>().trailing_zeros();
/// Entries of a table.
pub const ENTRIES: u64 = Format::PAGE_SIZE / 8;
/// Bytes of a leaf that the boot tables map the image by.
pub const LEAF_BYTES: u64 = GRANULE.leaf.entry_bytes::<Format>();
/// The descriptor's bit that makes a page of a leaf, at the lowest level.
pub const LEAF_IS_PAGE: u64 = if matches!(GRANULE.leaf, Level::Pte) { 0b10 } else { 0 };

/// Where the entry for an address is in the tables above the leaves' for the image: the root, and the one below.
pub const fn above_leaf(address: VirtAddr) -> [usize; 2] {
    let middle = match GRANULE.leaf {
        Level::Pte => Level::Pmd,
        _ => Level::Pud,
    };
    [address.index::<Format>(Format::ROOT), address.index::<Format>(middle)]
}
