    # From PVH's entry (32-bit, paging off) to `kernel_main` in 64-bit mode, on tables that map the first GiB one to one; and a store that may fault.
    .set PRESENT_WRITABLE, 0x3
    .set PRESENT_WRITABLE_BLOCK, 0x83

    # XEN_ELFNOTE_PHYS32_ENTRY: name size, descriptor size, type, name, descriptor.
    .section .note.xen, "a", @note
    .align 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_start

    .text
    .code32
    .global pvh_start
pvh_start:
    movl $boot_stack_top, %esp
    movl $(boot_p3 + PRESENT_WRITABLE), boot_p4
    movl $(boot_p2 + PRESENT_WRITABLE), boot_p3
    movl $PRESENT_WRITABLE_BLOCK, %eax
    xorl %ecx, %ecx
1:  movl %eax, boot_p2(, %ecx, 8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $512, %ecx
    jne  1b

    movl %cr4, %eax
    orl  $(1 << 5), %eax                # PAE
    movl %eax, %cr4
    movl $boot_p4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              # EFER: LME, NXE
    rdmsr
    orl  $(1 << 8 | 1 << 11), %eax
    wrmsr
    movl %cr0, %eax
    orl  $(1 << 31 | 1 << 16 | 1), %eax # PG, WP, PE
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmpl $0x08, $start_64

    .code64
start_64:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    call kernel_main
    ud2

    # u64 store_or_fault(u64 *address, u64 value): 0, or the error code of the page fault.
    .global store_or_fault, page_fault
store_or_fault:
    xorl %eax, %eax
store_here:
    movq %rsi, (%rdi)
store_done:
    ret

    # On the stack: the error code, then the address of the instruction. The CPU leaves AC as it was; what is returned to has it clear.
page_fault:
    clac
    cmpq $store_here, 8(%rsp)
    jne  1f
    popq %rax
    movq $store_done, (%rsp)
    iretq
1:  movq (%rsp), %rdi
    movq 8(%rsp), %rsi
    movq %cr2, %rdx
    andq $-16, %rsp
    call unexpected_fault
    ud2

    .section .rodata.boot, "a"
    .align 8
boot_gdt:
    .quad 0
    .quad 0x00209a0000000000            # 0x08: 64-bit code
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

    .section .bss.boot, "aw", @nobits
    .align 4096
boot_p4: .skip 4096
boot_p3: .skip 4096
boot_p2: .skip 4096
    .skip 65536
boot_stack_top:
