//! The first instructions: from the Linux Image header, and from PSCI's `CPU_ON`, to Rust with the MMU on.
//!
//! The boot protocol (Linux, `Documentation/arch/arm64/booting.rst`) enters at the first byte with the MMU off, the physical
//! address of the device tree in X0, at EL2 or EL1, anywhere in memory on a multiple of 2 MiB. Other CPUs start at
//! `other_start` in the same state, with their number in X0. Everything here is position-independent until the MMU is
//! on.
//!
//! How long pages are, and what that makes of the tables here, is `granule`'s.
//!
//! The *boot tables* map the image at its address and one to one, and the device tree's surroundings one to one; the boot CPU
//! adds RAM once it knows it (`boot_tables`). They are writable and executable, which is why they live only until
//! `early_tables` has taken over; afterwards `retire_boot_tables` wipes them.
//!
//! Their entries are not global, as are the early tables': each set has an address space identifier of its own, so that no two sets
//! of translations that differ in size or permission are ever current together (`root`).

use super::super::control::{MAIR, SCTLR, SCTLR_MMU_OFF};
use super::super::granule::{
    self, BLOCK_SHIFT, ENTRIES, Format, GRANULE, IMAGE_FLAGS, LEAF_BYTES, LEAF_IS_PAGE,
    LEAF_TABLES, TCR,
};
use super::super::layout::IMAGE;
use super::super::root::BOOT_ASID;
use core::arch::global_asm;
use kpkeys_pgtable::{Format as _, VirtAddr};

/// Places of the image's entries in the tables above its leaves.
const ABOVE_LEAF: [usize; 2] = granule::above_leaf(VirtAddr(IMAGE));

/// Written where nothing but relative addresses is known.
static TOO_OLD: [u8; GRANULE.refusal.len()] = match GRANULE.refusal.as_bytes().first_chunk() {
    Some(text) => *text,
    None => unreachable!(),
};

global_asm!(
    r#"
    .set PAGE, {page}
    // Descriptor of a block: valid, normal memory, inner shareable, accessed, not global.
    .set NORMAL_BLOCK, 1 | (3 << 8) | (1 << 10) | (1 << 11)
    .set TABLE, 3

    .section .text.boot, "ax"
    .global image_header
image_header:
    b     boot_start
    .long 0
    .quad 0                         // offset from a multiple of 2 MiB
    .quad image_size                // bytes needed from there, zero-initialised ones included
    .quad {image_flags}             // little-endian, the size of pages, anywhere in memory
    .quad 0, 0, 0
    .ascii "ARM\x64"
    .long 0

boot_start:
    mov   x20, x0                   // the device tree, physical
    mrs   x22, currentel
    bl    leave_el2
    mrs   x0, id_aa64mmfr0_el1
    ubfx  x0, x0, #{granule_field}, #4
    cmp   x0, #{granule_absent}
    b.eq  too_old

    // With the MMU off stores go past the caches: no line of the tables may be in one.
    adrp  x0, boot_tables_start
    adrp  x1, image_bss_start
    bl    invalidate
    mov   x2, x0
1:  stp   xzr, xzr, [x2], #16
    cmp   x2, x1
    b.lo  1b

    // The image at its own address.
    adrp  x21, image_header
    adrp  x3, boot_high_middle
    add   x4, x3, #TABLE
    adrp  x5, boot_high_root
    ldr   x9, ={root_index} * 8
    str   x4, [x5, x9]
    adrp  x6, boot_high_leaves
    add   x4, x6, #TABLE
    ldr   x9, ={middle_index} * 8
    add   x3, x3, x9
    mov   x9, #{leaf_tables}
    ldr   x10, =PAGE
2:  str   x4, [x3], #8
    add   x4, x4, x10
    subs  x9, x9, #1
    b.ne  2b
    adrp  x7, image_end
    mov   x8, #NORMAL_BLOCK
    orr   x8, x8, #{leaf_is_page} | 1
    orr   x8, x8, x21
    ldr   x9, ={leaf_bytes}
2:  str   x8, [x6], #8
    add   x8, x8, x9
    cmp   x8, x7
    b.lo  2b

    // One to one: the image, and the device tree.
    adrp  x3, boot_low_blocks
    add   x4, x3, #TABLE
    adrp  x5, boot_low_root
    str   x4, [x5]
    mov   x1, x21
    mov   x12, #1
    lsl   x12, x12, #{block_shift}
2:  mov   x0, x1
    bl    map_one_to_one
    add   x1, x1, x12
    cmp   x1, x7
    b.lo  2b
    mov   x0, x7
    bl    map_one_to_one
    mov   x0, x20
    bl    map_one_to_one
    add   x0, x20, #0x200000        // the longest device tree the protocol allows
    bl    map_one_to_one
    adrp  x0, boot_tables_start
    adrp  x1, image_bss_start
    bl    invalidate

    bl    enable_mmu
    ldr   x8, =boot_high
    br    x8
boot_high:
    adrp  x0, image_bss_start
    adrp  x1, image_bss_end
3:  stp   xzr, xzr, [x0], #16
    cmp   x0, x1
    b.lo  3b
    adrp  x8, boot_stack_top
    add   sp, x8, :lo12:boot_stack_top
    mov   x29, xzr
    mov   x30, xzr
    mov   x0, x20
    mov   x1, x21
    mov   x2, x22
    b     {boot_cpu}

    // PSCI's CPU_ON: X0 is the CPU's number.
    .global other_start
other_start:
    mov   x20, x0
    bl    leave_el2
    bl    enable_mmu
    ldr   x8, =other_high
    br    x8
other_high:
    adrp  x8, {starting_stack}
    ldr   x8, [x8, :lo12:{starting_stack}]
    mov   sp, x8
    mov   x29, xzr
    mov   x30, xzr
    mov   x0, x20
    b     {other_cpu}

    // Maps the block around the address in X0, if the table at X3 reaches it. Uses X9 to X11.
map_one_to_one:
    lsr   x9, x0, #{block_shift}
    ldr   x10, ={entries}
    cmp   x9, x10
    b.hs  4f
    lsl   x10, x9, #{block_shift}
    mov   x11, #NORMAL_BLOCK
    orr   x10, x10, x11
    str   x10, [x3, x9, lsl #3]
4:  ret

    // Drops the cache lines of X0..X1. Uses X9 to X11.
invalidate:
    mrs   x9, ctr_el0
    ubfx  x9, x9, #16, #4           // DminLine: log2 of words
    mov   x10, #4
    lsl   x10, x10, x9
    mov   x11, x0
5:  dc    ivac, x11
    add   x11, x11, x10
    cmp   x11, x1
    b.lo  5b
    dsb   sy
    ret

    // Goes on at X30 at EL1, MMU off, whether this is EL2 or EL1. At EL2 nothing of EL1's is to be trapped
    // (Arm ARM, the registers by name). Uses X9 to X11.
leave_el2:
    ldr   x10, ={sctlr_off}
    msr   sctlr_el1, x10
    mrs   x9, currentel
    cmp   x9, #(2 << 2)
    b.ne  8f

    mov   x9, #(3 << 40)            // HCR_EL2.API and APK: pointer authentication is EL1's
    orr   x9, x9, #(1 << 31)        // RW: EL1 is AArch64
    orr   x9, x9, #(1 << 5)         // AMO: SErrors are EL2's, which passes them on (`error`)
    msr   hcr_el2, x9
    mov   x9, #3                    // EL1 may read the counter and use the timer
    msr   cnthctl_el2, x9
    msr   cntvoff_el2, xzr
    mov   x9, #0x33ff               // no floating-point traps; the rest is reserved as one
    msr   cptr_el2, x9
    msr   hstr_el2, xzr
    msr   vttbr_el2, xzr
    adr   x9, el2_vectors
    msr   vbar_el2, x9
    mrs   x9, midr_el1
    msr   vpidr_el2, x9
    mrs   x9, mpidr_el1
    msr   vmpidr_el2, x9

    mrs   x9, id_aa64pfr0_el1       // GIC: system registers exist
    ubfx  x9, x9, #24, #4
    cbz   x9, 6f
    mrs   x9, S3_4_C12_C9_5         // ICC_SRE_EL2: SRE and Enable
    orr   x9, x9, #1
    orr   x9, x9, #8
    msr   S3_4_C12_C9_5, x9
    isb

    // What follows resets to unknown values: written whole.
6:  mrs   x9, S3_0_C0_C7_3          // ID_AA64MMFR3_EL1
    mrs   x10, id_aa64mmfr1_el1
    ubfx  x10, x10, #40, #4         // HCX: HCRX_EL2 exists
    cbz   x10, 61f
    and   x10, x9, #0xf             // TCRX: TCR2_EL1 exists
    cmp   x10, #0
    cset  x10, ne
    lsl   x10, x10, #14             // TCR2En
    msr   S3_4_C1_C2_2, x10         // HCRX_EL2
61: mrs   x10, id_aa64mmfr0_el1
    ubfx  x10, x10, #56, #4         // FGT: EL2's fine-grained traps exist
    cbz   x10, 7f
    msr   S3_4_C1_C1_6, xzr         // HFGITR_EL2
    msr   S3_4_C3_C1_4, xzr         // HDFGRTR_EL2
    msr   S3_4_C3_C1_5, xzr         // HDFGWTR_EL2
    mov   x11, xzr
    ubfx  x10, x9, #8, #4           // S1PIE
    cbz   x10, 62f
    orr   x11, x11, #(3 << 57)      // nPIRE0_EL1, nPIR_EL1
62: ubfx  x10, x9, #16, #4          // S1POE
    cbz   x10, 63f
    orr   x11, x11, #(3 << 59)      // nPOR_EL0, nPOR_EL1
63: msr   S3_4_C1_C1_4, x11         // HFGRTR_EL2
    msr   S3_4_C1_C1_5, x11         // HFGWTR_EL2

7:  mov   x9, #0x3c5                // EL1 on its own stack pointer, everything masked
    msr   spsr_el2, x9
    msr   elr_el2, x30
    eret
8:  isb
    ret

    // Uses X8 to X13.
enable_mmu:
    ldr   x8, ={mair}
    msr   mair_el1, x8
    ldr   x8, ={tcr}
    mrs   x9, id_aa64mmfr0_el1
    and   x10, x9, #0xf             // PARange; more than 48 bits need another descriptor format
    mov   x11, #5
    cmp   x10, x11
    csel  x10, x10, x11, lo
    bfi   x8, x10, #32, #3          // IPS
    ubfx  x10, x9, #4, #4           // ASIDBits: 2 is 16 bits
    cmp   x10, #2
    cset  x10, eq
    bfi   x8, x10, #36, #1          // AS
    mrs   x9, id_aa64mmfr2_el1
    ubfx  x10, x9, #60, #4          // E0PD: EL0 faults on the kernel's half before any table is looked at
    cmp   x10, #0
    cset  x10, ne
    bfi   x8, x10, #56, #1          // E0PD1
    mrs   x9, id_aa64mmfr1_el1
    ubfx  x10, x9, #12, #4          // HPDS: table descriptors restrict nothing, which overlays require from before the MMU is on
    cbz   x10, 12f
    orr   x8, x8, #(3 << 41)        // HPD0, HPD1
12: msr   tcr_el1, x8
    mrs   x9, S3_0_C0_C7_3          // ID_AA64MMFR3_EL1
    and   x10, x9, #0xf             // TCRX
    cbz   x10, 13f
    msr   S3_0_C2_C0_3, xzr         // TCR2_EL1, some of whose fields act as soon as the MMU is on; it resets to an unknown value
13:
    adrp  x9, boot_low_root
    msr   ttbr0_el1, x9
    adrp  x9, boot_high_root
    mov   x10, #{boot_asid}
    bfi   x9, x10, #48, #16
    msr   ttbr1_el1, x9
    isb
    tlbi  vmalle1
    ic    iallu
    dsb   nsh
    isb
    ldr   x8, ={sctlr}
    msr   sctlr_el1, x8
    isb
    ret

    // All that EL2 does afterwards: every exception that EL1 makes it take, an HVC or an error, becomes a virtual SError of EL1's.
    .balign 2048
el2_vectors:
    .rept 16
    .balign 128
    msr   tpidr_el2, x0
    mrs   x0, hcr_el2
    orr   x0, x0, #(1 << 8)         // VSE
    msr   hcr_el2, x0
    mrs   x0, tpidr_el2
    eret
    .endr

    // No pages of this size: say so on the console of QEMU's `virt` board and leave with the status of a refused boot. Nothing
    // of Rust can run here.
too_old:
    adrp  x1, {too_old_text}
    add   x1, x1, :lo12:{too_old_text}
    mov   x2, #{board_console}
9:  ldrb  w3, [x1], #1
    cbz   w3, 10f
    str   w3, [x2]
    b     9b
10: adr   x1, too_old_exit
    mov   w0, #0x18                 // SYS_EXIT
    hlt   #0xf000
11: wfi
    b     11b
    .ltorg
    .balign 8
too_old_exit:
    .quad 0x20026, {refused}        // ADP_Stopped_ApplicationExit, status

    .section .boot_tables, "aw", @nobits
    .balign PAGE
boot_tables_start:
    .global boot_low_blocks, boot_empty
boot_low_root:    .skip PAGE
boot_low_blocks:  .skip PAGE
boot_high_root:   .skip PAGE
boot_high_middle: .skip PAGE
boot_high_leaves: .skip PAGE * {leaf_tables}
boot_empty:       .skip PAGE

    .section .bss.boot, "aw", @nobits
    .balign 16
    .skip 65536                     // what a device tree says is a large value, which moves over the stack
boot_stack_top:
    .text
"#,
    boot_cpu = sym super::boot_cpu,
    other_cpu = sym super::super::smp::other_cpu,
    starting_stack = sym crate::start::smp::STARTING_STACK,
    boot_asid = const BOOT_ASID,
    mair = const MAIR,
    tcr = const TCR,
    page = const Format::PAGE_SIZE,
    entries = const ENTRIES,
    block_shift = const BLOCK_SHIFT,
    leaf_bytes = const LEAF_BYTES,
    leaf_is_page = const LEAF_IS_PAGE,
    leaf_tables = const LEAF_TABLES,
    root_index = const ABOVE_LEAF[0],
    middle_index = const ABOVE_LEAF[1],
    image_flags = const IMAGE_FLAGS,
    granule_field = const GRANULE.field,
    granule_absent = const GRANULE.absent,
    sctlr = const SCTLR,
    sctlr_off = const SCTLR_MMU_OFF,
    board_console = const super::super::serial::BOARD_CONSOLE,
    too_old_text = sym TOO_OLD,
    refused = const super::super::exit::status(crate::exit::Exit::Refused),
);

// SAFETY: defined by the assembly above; only the addresses are used.
unsafe extern "C" {
    static other_start: u8;
    static mut boot_low_blocks: [u64; ENTRIES as usize];
    static boot_empty: u8;
}

/// The table of the blocks that are mapped one to one.
pub fn one_to_one_table() -> *mut u64 {
    (&raw mut boot_low_blocks).cast()
}

/// The page-table page that translates nothing: what `TTBR0_EL1` points to while no address space is loaded.
pub fn empty_table() -> u64 {
    &raw const boot_empty as u64
}

/// Where other CPUs start, as an address of the image.
pub fn other_cpus_entry() -> u64 {
    &raw const other_start as u64
}
