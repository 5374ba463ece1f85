//! Memory: pages to prepare things in, and what the firmware leaves when it is left.

use crate::error::Error;
use kpkeys_handover::ranges::{Addresses, Usable};
use uefi::boot::{self, AllocateType, MemoryType};
use uefi::mem::memory_map::{MemoryDescriptor, MemoryMap};
use uefi::runtime::{self, ResetType};
use uefi::{Status, println};

/// Bytes of a page of UEFI's, on every machine.
pub const PAGE: u64 = 4096;

/// Zeroed pages that are this program's, and the kernel's once it has been entered.
pub struct Pages {
    start: u64,
    len: usize,
}

impl Pages {
    /// So many bytes, rounded up, with their end at most at `limit`, where code may be if `kind` says so.
    pub fn new(
        what: &'static str,
        bytes: u64,
        limit: u64,
        kind: MemoryType,
    ) -> Result<Self, Error> {
        let count = bytes.div_ceil(PAGE).max(1) as usize;
        let at = boot::allocate_pages(AllocateType::MaxAddress(limit - 1), kind, count)
            .map_err(|error| Error::NoMemory(what, error.status()))?;
        let len = count * PAGE as usize;
        // SAFETY: the firmware has just given these pages to this program alone.
        unsafe { at.write_bytes(0, len) };
        Ok(Self { start: at.as_ptr() as u64, len })
    }

    /// Their addresses, the same physical and virtual: UEFI maps memory one to one.
    pub fn addresses(&self) -> Addresses {
        self.start..self.start + self.len as u64
    }

    /// What is in them.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `new` got these pages for this program alone and filled them; they are never given back.
        unsafe { core::slice::from_raw_parts_mut(self.start as *mut u8, self.len) }
    }
}

/// The memory that the firmware would leave if it were left now.
pub fn usable() -> Result<Usable, Error> {
    let map = boot::memory_map(MemoryType::LOADER_DATA)
        .map_err(|error| Error::NoMemory("the memory map", error.status()))?;
    Ok(Usable::new(map.entries().filter_map(left)))
}

/// Leaves the firmware. Should it have taken some of `promised` on the way, the machine is restarted: there is nobody left to complain to.
///
/// # Safety
///
/// Nothing of the firmware's may be in use: its protocols, its console, its heap.
pub unsafe fn leave_firmware(promised: &Usable) {
    // SAFETY: the caller's promise.
    let map = unsafe { boot::exit_boot_services(Some(MemoryType::LOADER_DATA)) };
    if !promised.is_within(map.entries().filter_map(left)) {
        runtime::reset(ResetType::COLD, Status::ABORTED, None);
    }
    // Giving it back would need the firmware.
    core::mem::forget(map);
}

/// Says what is about to be handed over, while somebody can read it.
pub fn tell(usable: &Usable) {
    println!("{} MiB of memory in {} pieces", usable.len() >> 20, usable.ranges().len());
}

/// The range of a descriptor that is the kernel's once the firmware has been left (UEFI 2.10, table 7.10).
fn left(descriptor: &MemoryDescriptor) -> Option<Addresses> {
    let kinds = [
        MemoryType::CONVENTIONAL,
        MemoryType::LOADER_CODE,
        MemoryType::LOADER_DATA,
        MemoryType::BOOT_SERVICES_CODE,
        MemoryType::BOOT_SERVICES_DATA,
    ];
    let end = descriptor.phys_start + descriptor.page_count * PAGE;
    kinds.contains(&descriptor.ty).then_some(descriptor.phys_start..end)
}
