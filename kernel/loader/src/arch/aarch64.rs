//! arm64: as a Linux Image, MMU off, with a device tree (Linux, `Documentation/arch/arm64/booting.rst`).
//!
//! The kernel may lie anywhere, so it is put into pages of this program's at once, and stays there. With the MMU off the caches are passed by:
//! whatever is fetched or read then must be in memory, so it is cleaned to the point of coherency first.

use crate::error::Error;
use crate::memory::{self, Pages};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::arch::{asm, naked_asm};
use core::convert::Infallible;
use kpkeys_handover::acpi::Description;
use kpkeys_handover::described;
use kpkeys_handover::image::{ALIGN, Image};
use kpkeys_handover::medium::Machine;
use kpkeys_handover::ranges::Addresses;
use kpkeys_handover::tree;
use uefi::boot::MemoryType;
use uefi::table::cfg::ConfigTableEntry;
use uefi::{Guid, guid, println, system};

/// The kind of machine.
pub const MACHINE: Machine = Machine::Aarch64;

/// Where the firmware has a device tree (UEFI 2.10, 4.6.1.3).
const DEVICE_TREE: Guid = guid!("b1b621d5-f19c-41a5-830b-d9152c69aae0");
/// What the kernel's first tables reach.
const REACH: u64 = 510 << 30;

/// Starts the kernel.
pub fn start(file: &[u8], command_line: &str) -> Result<Infallible, Error> {
    let image = Image::parse(file).map_err(|error| Error::BadKernel(error.to_string()))?;
    let firmwares = firmware_tree()?;
    let room = image.offset + image.size + ALIGN;
    let mut pages = Pages::new("the kernel", room, REACH, MemoryType::LOADER_DATA)?;
    let aligned = pages.addresses().start.next_multiple_of(ALIGN) + image.offset;
    let at = (aligned - pages.addresses().start) as usize;
    pages.bytes()[at..at + file.len()].copy_from_slice(file);
    let mut for_tree =
        Pages::new("the device tree", tree::MAX_LEN as u64, REACH, MemoryType::LOADER_DATA)?;

    let usable = memory::usable()?.largest(tree::MAX_RANGES);
    memory::tell(&usable);
    let blob = tree::edited(&firmwares, &usable, command_line).map_err(Error::BadTree)?;
    for_tree.bytes()[..blob.len()].copy_from_slice(&blob);
    // SAFETY: nothing of the firmware's is used from here on, and image and tree are whole and in memory.
    unsafe {
        memory::leave_firmware(&usable);
        clean(&pages.addresses());
        clean(&for_tree.addresses());
        enter(for_tree.addresses().start, aligned)
    }
}

/// The firmware's device tree, or one made of its ACPI tables.
fn firmware_tree() -> Result<Vec<u8>, Error> {
    let (tree, acpi) = system::with_config_table(|tables| {
        let find = |kind: Guid| tables.iter().find(|table| table.guid == kind);
        let address = |kind| find(kind).map(|table| table.address).filter(|at| !at.is_null());
        (address(DEVICE_TREE), address(ConfigTableEntry::ACPI2_GUID))
    });
    match (tree, acpi) {
        (Some(tree), _) => copied(tree.cast()),
        (None, Some(root)) => {
            println!("no device tree: the machine is read from ACPI's tables");
            let machine = Description::read(root as u64, acpi_bytes).map_err(Error::Acpi)?;
            described::tree(&machine).map_err(Error::BadTree)
        }
        (None, None) => Err(Error::NoTree),
    }
}

/// The firmware's tree, which begins here.
fn copied(at: *const u8) -> Result<Vec<u8>, Error> {
    // SAFETY: the firmware says that a device tree is there, which begins with a header that says how long it is; it is not written as long as the
    // firmware is there.
    let tree = unsafe {
        let header = at.cast::<[u8; 8]>().read_unaligned();
        let len = tree::len(header).ok_or(Error::BadTree(tree::Error::NotATree))?;
        core::slice::from_raw_parts(at, len)
    };
    Ok(tree.to_vec())
}

/// Bytes of ACPI's tables, which are read where firmware says that they are. UEFI maps all memory one to one.
fn acpi_bytes<'a>(at: u64, len: usize) -> Option<&'a [u8]> {
    at.checked_add(len as u64)?;
    // SAFETY: the firmware's root pointer, the root table and the tables' headers say that a table of this length is there; nobody writes it as long as
    // the firmware is there.
    (at != 0).then(|| unsafe { core::slice::from_raw_parts(at as *const u8, len) })
}

/// Writes to memory what caches have of these addresses, and drops it there (Arm ARM, D7.5.9 "Data cache maintenance").
///
/// # Safety
///
/// They must be mapped.
unsafe fn clean(range: &Addresses) {
    let size: u64;
    // SAFETY: a register that says how the caches are made, with no effect.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) size, options(nomem, nostack)) };
    let line = 4 << (size >> 16 & 0xf); // DminLine: log2 of words
    for at in (range.start / line * line..range.end).step_by(line as usize) {
        // SAFETY: the caller's promise; the content stays what it is.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}

/// Turns MMU and caches off and enters the kernel, at whichever of EL2 and EL1 the firmware runs.
///
/// # Safety
///
/// The firmware must have been left, and what is at both addresses be clean.
#[unsafe(naked)]
unsafe extern "C" fn enter(tree: u64, kernel: u64) -> ! {
    naked_asm!(
        "msr  daifset, #0xf",
        // These instructions are fetched from memory in a moment. They are fewer than two of the smallest lines apart.
        "adr  x2, 1f",
        "adr  x3, 9f",
        "bic  x2, x2, #63",
        "0:",
        "dc   civac, x2",
        "add  x2, x2, #16",
        "cmp  x2, x3",
        "b.ls 0b",
        "dsb  sy",
        "mov  x5, #0x1005", // M, C, I
        "mrs  x4, currentel",
        "cmp  x4, #(2 << 2)",
        "b.eq 2f",
        "1:",
        "mrs  x4, sctlr_el1",
        "bic  x4, x4, x5",
        "msr  sctlr_el1, x4",
        "b    3f",
        "2:",
        "mrs  x4, sctlr_el2",
        "bic  x4, x4, x5",
        "msr  sctlr_el2, x4",
        "3:",
        "isb",
        "ic   iallu",
        "dsb  sy",
        "isb",
        "mov  x4, x1",
        "mov  x1, xzr",
        "mov  x2, xzr",
        "mov  x3, xzr",
        "br   x4",
        "9:",
    )
}
