//! The boot information of the PVH protocol: `hvm_start_info`, as laid out in Xen's public
//! header `arch-x86/hvm/start_info.h`. All addresses in it are physical and below 4 GiB,
//! where the boot tables map one to one.

use crate::memory::boot::PhysRange;
use core::{ffi::CStr, fmt};

/// First word of the structure: "xEn3" with the top bit of the "E" set.
const MAGIC: u32 = 0x336e_c578;
/// Memory map entries of this type are RAM (the types are those of ACPI's E820 map).
const TYPE_RAM: u32 = 1;

#[derive(Clone, Copy)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    /// This field and those below exist from version 1 on.
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
struct MemoryMapEntry {
    start: u64,
    len: u64,
    kind: u32,
    reserved: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Module {
    start: u64,
    len: u64,
    command_line: u64,
    reserved: u64,
}

/// What is wrong with the boot information.
#[derive(Debug)]
pub enum PvhError {
    /// The pointer in EBX does not lead to the structure; holds what was there.
    BadMagic(u32),
    /// Version 0 has no memory map.
    NoMemoryMap,
}

impl fmt::Display for PvhError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic(found) => write!(
                f,
                "the boot loader's start information begins with {found:#x} instead of {MAGIC:#x}; boot the kernel through the PVH protocol"
            ),
            Self::NoMemoryMap => f.write_str(
                "the boot loader gave no memory map (hvm_start_info version 0); version 1 is needed",
            ),
        }
    }
}

/// The boot information, checked.
pub struct BootInformation {
    info: StartInfo,
}

impl BootInformation {
    /// Checks the structure at physical address `start_info`.
    ///
    /// # Errors
    ///
    /// [`PvhError`] when it is not the structure or has no memory map.
    ///
    /// # Safety
    ///
    /// `start_info` must be what the loader passed in EBX, the boot tables must be in use,
    /// and nothing may have written to the loader's structures.
    pub unsafe fn read(start_info: u32) -> Result<Self, PvhError> {
        // SAFETY: PVH puts the structure below 4 GiB, mapped one to one, at no particular
        // alignment; a pointer elsewhere reads other mapped memory, which the check turns away.
        let info = unsafe { (start_info as usize as *const StartInfo).read_unaligned() };
        if info.magic != MAGIC {
            return Err(PvhError::BadMagic(info.magic));
        }
        if info.version < 1 || info.memory_map_entries == 0 {
            return Err(PvhError::NoMemoryMap);
        }
        Ok(Self { info })
    }

    /// The RAM ranges, in the loader's order.
    pub fn ram(&self) -> impl Iterator<Item = PhysRange> {
        let entries = self.info.memory_map as usize as *const MemoryMapEntry;
        (0..self.info.memory_map_entries as usize)
            // SAFETY: address and count come from the checked structure and describe an array
            // below 4 GiB, mapped one to one, at no particular alignment.
            .map(move |index| unsafe { entries.add(index).read_unaligned() })
            .filter(|entry| entry.kind == TYPE_RAM)
            .map(|entry| PhysRange::new(entry.start, entry.len))
    }

    /// The command line; empty when there is none. `None` when it is not UTF-8.
    pub fn command_line(&self) -> Option<&str> {
        if self.info.command_line == 0 {
            return Some("");
        }
        // SAFETY: a non-zero address is that of a NUL-terminated string below 4 GiB.
        let text = unsafe { CStr::from_ptr(self.info.command_line as usize as *const i8) };
        text.to_str().ok()
    }

    /// The first module, which is the initramfs.
    pub fn module(&self) -> Option<PhysRange> {
        if self.info.module_count == 0 {
            return None;
        }
        // SAFETY: with a count, the address is that of an array below 4 GiB, mapped one to one, at no particular alignment.
        let module = unsafe { (self.info.module_list as usize as *const Module).read_unaligned() };
        Some(PhysRange::new(module.start, module.len))
    }

    /// Physical address of ACPI's root pointer; zero when the loader knows none.
    pub fn rsdp(&self) -> u64 {
        self.info.rsdp
    }
}
