//! Memory that is added once the kernel runs, as a module that is plugged in is: what the word `later` of the command line holds back.
//!
//! Until then it is no RAM: the linear map covers its addresses and maps none of them.

use super::{Memories, StartError};
use crate::lock::IrqLock;
use crate::memory::boot::{BootMemory, PhysAddr, PhysRange, RAM_UNIT};

/// What is held back still.
static HELD_BACK: IrqLock<Option<PhysRange>> = IrqLock::new(None);

/// Holds back so many MiB, from the end of what is free.
///
/// # Errors
///
/// How many MiB can be held back at most, if these are more.
pub fn hold_back(memory: &BootMemory, mib: u64) -> Result<(), u64> {
    let last = memory.free().last().map(|free| free.rounded_in(RAM_UNIT));
    let most = last.map_or(0, |free| free.len() >> 20);
    match last {
        _ if mib == 0 => Ok(()),
        // The rest is for the kernel's tables.
        Some(free) if mib <= most / 2 => {
            let range = PhysRange { start: PhysAddr(free.end.0 - (mib << 20)), end: free.end };
            *HELD_BACK.lock() = Some(range.rounded_out(RAM_UNIT));
            Ok(())
        }
        _ => Err(most / 2),
    }
}

/// What is held back still.
pub fn held_back() -> Option<PhysRange> {
    *HELD_BACK.lock()
}

/// Adds 2 MiB of what is held back, so that no block of the linear map is cut; returns how many pages, or `None` if nothing is left.
///
/// # Errors
///
/// Why it could not be added.
pub fn add_block(kernel: &Memories) -> Result<Option<usize>, StartError> {
    let block = {
        let mut held = HELD_BACK.lock();
        let Some(range) = held.filter(|range| !range.is_empty()) else { return Ok(None) };
        let block = PhysRange::new(range.start.0, RAM_UNIT);
        *held = Some(PhysRange { start: block.end, ..range });
        block
    };
    // SAFETY: the boot loader said that it is RAM, and it was held back from everybody: taken from the list just now, from nobody else.
    unsafe { kernel.add_memory(block.start, block.pages()) }?;
    Ok(Some(block.pages()))
}
