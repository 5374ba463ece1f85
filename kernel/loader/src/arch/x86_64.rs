//! x86-64: by the PVH protocol, in 32-bit mode with paging off.
//!
//! The kernel is linked at a physical address where the firmware may have something until it is left. So its pieces are staged elsewhere, and the
//! last code of this program, which runs on after paging is off, copies them. That code, what it needs, and the start information lie in
//! pages below 4 GiB that the kernel's place does not reach.

use crate::error::Error;
use crate::memory::{self, PAGE, Pages};
use alloc::string::ToString;
use core::arch::global_asm;
use core::convert::Infallible;
use core::mem::offset_of;
use kpkeys_handover::medium::Machine;
use kpkeys_handover::pvh::Kernel;
use kpkeys_handover::ranges::{Addresses, Usable};
use kpkeys_handover::start_info;
use uefi::boot::MemoryType;
use uefi::system;
use uefi::table::cfg::ConfigTableEntry;

/// The kind of machine.
pub const MACHINE: Machine = Machine::X86_64;

/// 32-bit code reaches no further.
const LIMIT: u64 = 1 << 32;
/// As many ranges of memory as the kernel keeps.
const MAX_RANGES: usize = 64;
/// Where the kernel starts its other CPUs.
const START_PAGE: Addresses = 0x8000..0x9000;
/// More pieces than a kernel has.
const MAX_COPIES: usize = 8;

/// Starts the kernel.
pub fn start(file: &[u8], command_line: &str) -> Result<Infallible, Error> {
    let kernel = Kernel::parse(file).map_err(|error| Error::BadKernel(error.to_string()))?;
    if kernel.segments.len() > MAX_COPIES {
        return Err(Error::BadKernel("it has too many segments".to_string()));
    }
    let place = page_aligned(kernel.extent());
    let rsdp = root_pointer()?;
    let staged_len = kernel.segments.iter().map(|segment| segment.bytes.len() as u64).sum();
    let mut staged = beside(&place, "the kernel", staged_len, MemoryType::LOADER_DATA)?;
    let mut code = beside(&place, "the last code", 2 * PAGE, MemoryType::LOADER_CODE)?;
    let info_len = start_info::len(MAX_RANGES, command_line) as u64;
    let mut info = beside(&place, "the start information", info_len, MemoryType::LOADER_DATA)?;

    let usable = memory::usable()?.largest(MAX_RANGES);
    check(&usable, "where the kernel has its place", &place)?;
    check(&usable, "where the kernel starts other CPUs", &START_PAGE)?;
    memory::tell(&usable);
    let info_at = info.addresses().start as u32;
    let written = start_info::write(info_at, &usable, command_line, rsdp);
    info.bytes()[..written.len()].copy_from_slice(&written);
    let block = Block::new(&kernel, &mut staged, info_at);
    // SAFETY: the kernel's place is usable memory where nothing lies that the last code needs: `beside` has seen to it.
    unsafe { leave(&mut code, block, &usable) }
}

/// The root of ACPI's tables, of version 2 or later where there is one.
fn root_pointer() -> Result<u64, Error> {
    let kinds = [ConfigTableEntry::ACPI2_GUID, ConfigTableEntry::ACPI_GUID];
    let found = system::with_config_table(|tables| {
        kinds
            .iter()
            .find_map(|kind| tables.iter().find(|table| table.guid == *kind))
            .map(|table| table.address as u64)
    });
    match found {
        None => Err(Error::NoAcpi),
        Some(at) if at >= LIMIT => Err(Error::AcpiTooHigh(at)),
        Some(at) => Ok(at),
    }
}

fn page_aligned(range: Addresses) -> Addresses {
    range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE)
}

fn check(usable: &Usable, what: &'static str, range: &Addresses) -> Result<(), Error> {
    if usable.contains(range) { Ok(()) } else { Err(Error::Taken(what, range.clone())) }
}

/// Pages below 4 GiB outside of `place`. Firmware gives pages from the top, so the first are good unless memory is scarce; those that are not
/// stay taken until the firmware is left.
fn beside(
    place: &Addresses,
    what: &'static str,
    bytes: u64,
    kind: MemoryType,
) -> Result<Pages, Error> {
    let pages = Pages::new(what, bytes, LIMIT, kind)?;
    let got = pages.addresses();
    if got.start < place.end && place.start < got.end {
        return Pages::new(what, bytes, place.start, kind);
    }
    Ok(pages)
}

/// What the last code works by. It lies behind it in the same pages; all addresses are physical and below 4 GiB.
#[repr(C)]
struct Block {
    gdt: [u64; 3],
    gdt_limit: u16,
    gdt_base: [u16; 4],
    entry: u32,
    start_info: u32,
    count: u32,
    copies: [Copy; MAX_COPIES],
}

/// Bytes to be copied, and how many zeroes follow.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Copy {
    to: u32,
    from: u32,
    bytes: u32,
    zeroes: u32,
}

impl Block {
    /// Stages the pieces one behind the other.
    fn new(kernel: &Kernel<'_>, staged: &mut Pages, start_info: u32) -> Self {
        const CODE_32: u64 = 0x00cf_9a00_0000_ffff; // flat, to 4 GiB (Intel SDM vol. 3A, 3.4.5)
        const DATA_32: u64 = 0x00cf_9200_0000_ffff;
        let mut copies = [Copy::default(); MAX_COPIES];
        let (base, mut used) = (staged.addresses().start as u32, 0);
        for (copy, segment) in copies.iter_mut().zip(&kernel.segments) {
            let bytes = segment.bytes.len();
            staged.bytes()[used..used + bytes].copy_from_slice(segment.bytes);
            let (from, bytes_32) = (base + used as u32, bytes as u32);
            let zeroes = segment.in_memory - bytes_32;
            *copy = Copy { to: segment.address, from, bytes: bytes_32, zeroes };
            used += bytes;
        }
        Self {
            gdt: [0, CODE_32, DATA_32],
            gdt_limit: 3 * 8 - 1,
            gdt_base: [0; 4],
            entry: kernel.entry,
            start_info,
            count: kernel.segments.len() as u32,
            copies,
        }
    }
}

/// Copies the last code and its block into pages of their own, leaves the firmware, and goes there.
///
/// # Safety
///
/// The block's copies must go to memory that is usable and holds neither the code's pages nor what the block refers to.
unsafe fn leave(code: &mut Pages, mut block: Block, usable: &Usable) -> ! {
    let at = code.addresses().start;
    let block_at = at + PAGE;
    let base = block_at + offset_of!(Block, gdt) as u64;
    block.gdt_base = [0, 16, 32, 48].map(|shift| (base >> shift) as u16);
    let start = &raw const last_code;
    let len = &raw const last_code_end as usize - start as usize;
    assert!(len <= PAGE as usize && size_of::<Block>() <= PAGE as usize);
    // SAFETY: the symbols bracket the code below, which fits into the first of two pages of ours, as the block does into the second.
    unsafe {
        core::ptr::copy_nonoverlapping(start, at as *mut u8, len);
        (block_at as *mut Block).write(block);
    }
    // SAFETY: the code takes the block in RDI and never returns; UEFI maps the pages one to one, executable.
    let last: unsafe extern "sysv64" fn(*const Block) -> ! =
        unsafe { core::mem::transmute(at as *const ()) };
    // SAFETY: nothing of the firmware's is used from here on; the rest is the caller's promise.
    unsafe {
        memory::leave_firmware(usable);
        last(block_at as *const Block)
    }
}

// Leaving 64-bit mode: Intel SDM vol. 3A, 11.8.5.4. What must be clear before paging may be turned off, PCIDE and CET, is cleared first
// (vol. 2B, "MOV - Move to/from Control Registers"). Every address comes from the block, so it runs anywhere below 4 GiB.
global_asm!(
    r#"
    .text
    .global last_code, last_code_end
last_code:
    cli
    cld
    mov  ebx, edi
    lgdt [rdi + {GDT_LIMIT}]
    mov  rax, cr4
    and  rax, ~((1 << 17) | (1 << 23))
    mov  cr4, rax
    lea  rax, [rip + 2f]
    push 0x08
    push rax
    retfq

    .code32
2:  mov  eax, 0x10
    mov  ds, eax
    mov  es, eax
    mov  ss, eax
    mov  fs, eax
    mov  gs, eax
    mov  eax, cr0
    and  eax, 0x7fffffff
    mov  cr0, eax
    mov  ecx, 0xc0000080
    xor  eax, eax
    xor  edx, edx
    wrmsr
    mov  cr4, eax
    mov  eax, 0x11
    mov  cr0, eax

    mov  ebp, [ebx + {COUNT}]
    lea  edx, [ebx + {COPIES}]
3:  test ebp, ebp
    jz   4f
    mov  edi, [edx]
    mov  esi, [edx + 4]
    mov  ecx, [edx + 8]
    rep  movsb
    mov  ecx, [edx + 12]
    xor  eax, eax
    rep  stosb
    add  edx, 16
    dec  ebp
    jmp  3b

4:  mov  eax, [ebx + {ENTRY}]
    mov  ebx, [ebx + {START_INFO}]
    jmp  eax
last_code_end:
    .code64
"#,
    GDT_LIMIT = const offset_of!(Block, gdt_limit),
    COUNT = const offset_of!(Block, count),
    COPIES = const offset_of!(Block, copies),
    ENTRY = const offset_of!(Block, entry),
    START_INFO = const offset_of!(Block, start_info),
);

// SAFETY: defined by the assembly above; only the addresses are used.
unsafe extern "C" {
    static last_code: u8;
    static last_code_end: u8;
}
