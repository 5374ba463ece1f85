//! The first instructions: from the PVH entry in 32-bit mode, and from the start-up
//! IPI in 16-bit mode, to Rust in 64-bit mode.
//!
//! PVH (Xen's "x86/HVM direct boot ABI", which QEMU's `-kernel` implements) enters at
//! the address in the ELF note of type 18 with paging off, flat segments and the
//! physical address of the boot information in EBX. Both roads meet in
//! `enter_long_mode`, which switches to the *boot tables*: the first 4 GiB mapped one
//! to one, and again the first 1 GiB at the image's address. They are writable and
//! executable, which is why they live only until `early_tables` has taken over on the
//! boot CPU, and on each other CPU for the few instructions until it loads the same
//! tables. With feature `la57` they have one level more, and CR4.LA57 is set where CR4.PAE is. Afterwards `retire_boot_tables` wipes them.
//!
//! AT&T syntax, because 32-bit far jumps and `symbol - OFFSET` operands assemble
//! unambiguously in it.

use core::arch::global_asm;

/// Where the 16-bit code for the other CPUs is copied: a start-up IPI carries the number
/// of a page below 1 MiB (Intel SDM vol. 3A, 11.4.4 "MP Initialization Example").
pub const TRAMPOLINE_ADDRESS: u64 = 0x8000;

global_asm!(
    r#"
    .set LA57, {la57}
    .set OFFSET, 0xffffffff80000000
    .set CR0_PE, 1
    .set CR0_WP, 1 << 16
    .set CR0_PG, 1 << 31
    .set CR4_PAE, 1 << 5
    .set CR4_LA57, 1 << 12
    .set CPUID_LA57, 1 << 16
    .set MSR_EFER, 0xc0000080
    .set EFER_LME, 1 << 8
    .set EFER_NXE, 1 << 11
    .set CPUID_NX, 1 << 20
    .set CPUID_LM, 1 << 29
    .set PRESENT_WRITABLE, 3
    .set PRESENT_WRITABLE_BLOCK, 0x83

    # XEN_ELFNOTE_PHYS32_ENTRY: name size, descriptor size, type, name, descriptor.
    .section .note.xen, "a", @note
    .align 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_start - OFFSET

    .section .text.boot, "ax"
    .code32
    .global pvh_start
pvh_start:
    cld
    movl $(boot_stack_top - OFFSET), %esp
    movl %ebx, %ebp                     # CPUID clobbers EBX

    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb   too_old
    movl $0x80000001, %eax
    cpuid
    andl $(CPUID_LM | CPUID_NX), %edx
    cmpl $(CPUID_LM | CPUID_NX), %edx
    jne  too_old
    .if LA57
    xorl %eax, %eax
    cpuid
    movl $(no_la57_text - OFFSET), %esi
    cmpl $7, %eax
    jb   refuse
    movl $7, %eax
    xorl %ecx, %ecx
    cpuid
    testl $CPUID_LA57, %ecx
    jz   refuse
    .endif

    # Four page directories, one after the other, map 0..4 GiB in 2 MiB blocks.
    movl $(boot_pd - OFFSET), %edi
    movl $PRESENT_WRITABLE_BLOCK, %eax
    xorl %edx, %edx
1:  movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $8, %edi
    addl $0x200000, %eax
    jnc  1b

    movl $(boot_pd - OFFSET + PRESENT_WRITABLE), %eax
    movl %eax, boot_pdpt_high - OFFSET + 510 * 8
    movl $(boot_pdpt_low - OFFSET), %edi
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop 2b
    movl $(boot_pdpt_low - OFFSET + PRESENT_WRITABLE), boot_pml4 - OFFSET
    movl $(boot_pdpt_high - OFFSET + PRESENT_WRITABLE), boot_pml4 - OFFSET + 511 * 8
    .if LA57
    movl $(boot_pml4 - OFFSET + PRESENT_WRITABLE), %eax
    movl %eax, boot_pml5 - OFFSET
    movl %eax, boot_pml5 - OFFSET + 511 * 8
    .endif

    call enter_long_mode
    ljmpl $0x08, $(boot_cpu_64 - OFFSET)

    # Long mode without paging structures of our own choice yet: Intel SDM vol. 3A,
    # 11.8.5 "Initializing IA-32e Mode".
enter_long_mode:
    movl %cr4, %eax
    .if LA57
    # Here, since it cannot change once long mode is active (SDM vol. 3A, 2.5).
    orl  $(CR4_PAE | CR4_LA57), %eax
    movl %eax, %cr4
    movl $(boot_pml5 - OFFSET), %eax
    .else
    orl  $CR4_PAE, %eax
    movl %eax, %cr4
    movl $(boot_pml4 - OFFSET), %eax
    .endif
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    rdmsr
    orl  $(EFER_LME | EFER_NXE), %eax
    wrmsr
    movl %cr0, %eax
    orl  $(CR0_PG | CR0_WP | CR0_PE), %eax
    movl %eax, %cr0
    lgdt boot_gdt_pointer - OFFSET
    ret

    # No 64-bit mode or no no-execute: say so on COM1 and leave with the status of a
    # refused boot. Nothing of Rust can run here.
too_old:
    movl $(too_old_text - OFFSET), %esi
refuse:
    movw $0x3f8, %dx
3:  lodsb
    testb %al, %al
    jz   4f
    outb %al, %dx
    jmp  3b
4:  movl ${refused}, %eax
    movw ${exit_port}, %dx
    outl %eax, %dx
5:  hlt
    jmp  5b

    .code64
boot_cpu_64:
    movabs $boot_cpu_high, %rax
    jmp  *%rax
boot_cpu_high:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movabs $boot_stack_top, %rsp
    movl %ebp, %edi                     # hvm_start_info, physical
    xorl %ebp, %ebp
    call {boot_cpu}
    ud2

other_cpu_64:
    movabs $other_cpu_high, %rax
    jmp  *%rax
other_cpu_high:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movq {starting_stack}(%rip), %rsp
    movl {starting_cpu}(%rip), %edi
    movq {starting_root}(%rip), %rax
    movq %rax, %cr3
    xorl %ebp, %ebp
    call {other_cpu}
    ud2

    # Copied to TRAMPOLINE_ADDRESS; runs with CS.base = TRAMPOLINE_ADDRESS, so every
    # address in it is relative to trampoline_start.
    .code16
    .global trampoline_start, trampoline_end
trampoline_start:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt_pointer - trampoline_start
    movl %cr0, %eax
    orl  $CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $0x10, $(other_cpu_32 - OFFSET)
    .align 8
trampoline_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt - OFFSET
trampoline_end:

    .code32
other_cpu_32:
    movw $0x18, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    # Only one CPU starts at a time, and the boot CPU has long left this stack.
    movl $(boot_stack_top - OFFSET), %esp
    call enter_long_mode
    ljmpl $0x08, $(other_cpu_64 - OFFSET)

    .section .rodata.boot, "a"
    .align 8
boot_gdt:
    .quad 0
    .quad 0x00209a0000000000            # 0x08: 64-bit code
    .quad 0x00cf9a000000ffff            # 0x10: 32-bit code, flat
    .quad 0x00cf92000000ffff            # 0x18: 32-bit data, flat
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt - OFFSET
too_old_text:
    .asciz "[    0.000] boot refused: this CPU has no 64-bit mode or no no-execute bit; choose another, for instance `-cpu max`\n"
    .if LA57
no_la57_text:
    .asciz "[    0.000] boot refused: this CPU has no five-level tables (LA57), for which this kernel was built; choose another, for instance `-cpu max`\n"
    .endif

    .section .boot_tables, "aw", @nobits
    .align 4096
boot_pml4:      .skip 4096
boot_pdpt_low:  .skip 4096
boot_pdpt_high: .skip 4096
boot_pd:        .skip 4 * 4096
    .if LA57
boot_pml5:      .skip 4096
    .endif

    .section .bss.boot, "aw", @nobits
    .align 16
    # What `boot_cpu` finds is on it, more than 16 KiB.
    .skip 32768
boot_stack_top:
    .code64
    .text
"#,
    la57 = const cfg!(feature = "la57") as u8,
    refused = const crate::exit::Exit::Refused as u32,
    exit_port = const super::super::exit::EXIT_PORT,
    boot_cpu = sym super::boot_cpu,
    other_cpu = sym super::super::smp::other_cpu,
    starting_stack = sym crate::start::smp::STARTING_STACK,
    starting_cpu = sym super::super::smp::STARTING_CPU,
    starting_root = sym crate::start::early_tables::ROOT,
    options(att_syntax)
);

/// Copies the 16-bit code to the linear-map address of [`TRAMPOLINE_ADDRESS`].
///
/// # Safety
///
/// `to` must be writable RAM that nobody uses.
pub unsafe fn copy_trampoline(to: *mut u8) {
    let start = &raw const trampoline_start;
    let len = &raw const trampoline_end as usize - start as usize;
    // SAFETY: the symbols bracket the code above; the caller answers for `to`.
    unsafe { core::ptr::copy_nonoverlapping(start, to, len) };
}

/// Wipes what [`copy_trampoline`] wrote.
///
/// # Safety
///
/// As there, and no CPU may be on its way through it.
pub unsafe fn wipe_trampoline(at: *mut u8) {
    let len = &raw const trampoline_end as usize - &raw const trampoline_start as usize;
    // SAFETY: the caller's promise.
    unsafe { core::ptr::write_bytes(at, 0, len) };
}

// SAFETY: defined by the assembly above; only the addresses are used.
unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}
