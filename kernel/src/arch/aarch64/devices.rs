//! The registers of devices, and where they are mapped: page by page from [`DEVICES`] up, in the order of registration.

use super::layout::DEVICES;
use crate::memory::boot::{PAGE_SIZE, PhysAddr, PhysRange};
use arrayvec::ArrayVec;

/// The console, the interrupt distributor, and the CPU interface or the ranges of redistributors.
const MAX_DEVICES: usize = 2 + kpkeys_devicetree::MAX_REDISTRIBUTOR_REGIONS;

static RANGES: spin::Once<ArrayVec<PhysRange, MAX_DEVICES>> = spin::Once::new();

/// Registers all devices, once, before any table maps them.
pub fn register(ranges: impl Iterator<Item = PhysRange>) {
    RANGES
        .call_once(|| ranges.map(|range| range.rounded_out(PAGE_SIZE)).take(MAX_DEVICES).collect());
}

/// Whether the registers of a page, by its number, are written during start alone: those of an interrupt controller that has system registers for
/// everything that comes later. (The first range is the console's, which is always written.)
pub fn is_settled(page: usize) -> bool {
    let of_console = RANGES.get().and_then(|ranges| ranges.first()).map_or(0, PhysRange::pages);
    super::gic::has_system_registers() && page >= of_console
}

/// Every page of device registers, in the order in which they are mapped.
pub fn pages() -> impl Iterator<Item = PhysAddr> {
    let ranges = RANGES.get().map_or(&[][..], |ranges| ranges.as_slice());
    ranges
        .iter()
        .flat_map(|range| (range.start.0..range.end.0).step_by(PAGE_SIZE as usize).map(PhysAddr))
}

/// Where the register at this physical address is mapped; `None` if no registered device has it.
pub fn address(phys: u64) -> Option<*mut u8> {
    let page = pages().position(|page| page.0 == phys / PAGE_SIZE * PAGE_SIZE)?;
    Some((DEVICES + page as u64 * PAGE_SIZE + phys % PAGE_SIZE) as *mut u8)
}
