//! What the boot tables map one to one, in the largest blocks there are, besides what the entry code put there.

use super::entry;
use crate::arch::aarch64::granule::{BLOCK_SHIFT, ENTRIES};
use crate::arch::entry_barrier;
use crate::memory::boot::PhysRange;
use core::fmt;
use kpkeys_devicetree::HEADER_LEN;

const BLOCK: u64 = 1 << BLOCK_SHIFT;
/// One table of blocks reaches so far: 512 GiB, or 64 GiB with pages of 16 KiB, or 4 TiB with pages of 64 KiB.
const REACH: u64 = ENTRIES * BLOCK;

/// Valid block, accessed, not global.
const VALID: u64 = 1 | 1 << 10 | 1 << 11;
const INNER_SHAREABLE: u64 = 0b11 << 8;
/// The second attribute of `control::MAIR`, and never executable.
const DEVICE: u64 = 1 << 2 | 1 << 53 | 1 << 54;

/// Why there is no device tree to read.
#[derive(Debug)]
pub enum NoDeviceTree {
    /// What the loader passed is not an address a device tree may have.
    BadAddress(u64),
    /// What is there is not a device tree, or too long for one.
    BadBlob(u64, kpkeys_devicetree::Error),
}

impl fmt::Display for NoDeviceTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadAddress(address) => write!(
                f,
                "the boot loader passed {address:#x} for the address of a device tree; start the kernel as a Linux Image"
            ),
            Self::BadBlob(address, error) => {
                write!(f, "no device tree at {address:#x}, where the boot loader says: {error}")
            }
        }
    }
}

/// The device tree blob at this physical address, as long as it says it is.
///
/// # Errors
///
/// [`NoDeviceTree`].
///
/// # Safety
///
/// The boot tables must be in use, and nobody may write to the blob.
pub unsafe fn device_tree(address: u64) -> Result<&'static [u8], NoDeviceTree> {
    const ALIGN: u64 = 8;
    if address == 0 || !address.is_multiple_of(ALIGN) || address >= REACH - 2 * BLOCK {
        return Err(NoDeviceTree::BadAddress(address));
    }
    // SAFETY: the entry code has mapped the address and 2 MiB behind it as memory; reading what is not there gives some value, which
    // the magic number turns away.
    let header = unsafe { &*(address as *const [u8; HEADER_LEN]) };
    let len = kpkeys_devicetree::blob_len(header)
        .map_err(|error| NoDeviceTree::BadBlob(address, error))?;
    // SAFETY: `blob_len` is at most the 2 MiB that are mapped.
    Ok(unsafe { core::slice::from_raw_parts(address as *const u8, len) })
}

/// Maps RAM; what lies beyond the table's reach is not needed before the early tables are in use.
///
/// # Safety
///
/// The range must be RAM, and the boot tables in use.
pub unsafe fn map_ram(range: PhysRange) {
    let blocks = range.rounded_out(BLOCK);
    for start in (blocks.start.0..blocks.end.0.min(REACH)).step_by(BLOCK as usize) {
        // SAFETY: forwarded.
        unsafe { map(start, VALID | INNER_SHAREABLE) };
    }
}

/// Maps the registers of a device, unless their block is mapped as RAM.
///
/// # Safety
///
/// The boot tables must be in use.
pub unsafe fn map_device(address: u64) {
    if address < REACH {
        // SAFETY: device memory is not read by speculation.
        unsafe { map(address / BLOCK * BLOCK, VALID | DEVICE) };
    }
}

/// # Safety
///
/// The boot tables must be in use; what is there must be mapped as it is.
unsafe fn map(start: u64, attributes: u64) {
    // SAFETY: the table has an entry for each block within its reach and is written by this CPU alone, while no other runs.
    unsafe {
        let slot = entry::one_to_one_table().add((start / BLOCK) as usize);
        if slot.read_volatile() == 0 {
            slot.write_volatile(start | attributes);
        }
    }
    entry_barrier();
}
