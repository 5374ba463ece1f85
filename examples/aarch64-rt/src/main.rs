//! A kernel on crates that know nothing of kpkeys, with its page tables protected: `cargo run` boots it in QEMU.
//!
//! `aarch64-rt` starts it with a table in its image. One more crate and [`protect`] later, no store of the kernel reaches a table
//! outside of a window, which is then tried.
#![no_std]
#![no_main]

mod attack;

use core::fmt::Write;
use core::panic::PanicInfo;
use core::ptr::NonNull;

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress, VirtualAddress};
use aarch64_paging::paging::{Constraints, MemoryRegion, VaRange};
use aarch64_rt::{InitialPagetable, entry, initial_pagetable};
use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use arm_sysregs::el1::accessors::{read_tcr_el1, read_ttbr0_el1, write_tcr_el1};
use arm_sysregs::el1::registers::TcrEl1;
use kpkeys::pan::Pan;
use kpkeys_aarch64_paging::{Error, Existing, Layout, Pool, Tables};

use attack::attack;

const UART: *mut PL011Registers = 0x0900_0000 as _;

const DEVICE: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ATTRIBUTE_INDEX_0)
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::UXN);
const MEMORY: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ATTRIBUTE_INDEX_1)
    .union(El1Attributes::INNER_SHAREABLE)
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::NON_GLOBAL)
    .union(El1Attributes::UXN);

initial_pagetable!({
    let mut identity = [0; 512];
    identity[0] = DEVICE.bits();
    identity[1] = MEMORY.bits() | 0x4000_0000;
    InitialPagetable(identity)
});

const ALIAS: usize = 0xffff_ffc0_4400_0000;
/// Tables live in 2 MiB of RAM, which the identity map is the linear map of.
const TABLES: Layout = Layout {
    start: PhysicalAddress(0x4400_0000),
    pages: 512,
    linear: VirtualAddress(0x4400_0000),
    alias: Some(VirtualAddress(ALIAS)),
};
const RAM: core::ops::Range<PhysicalAddress> =
    PhysicalAddress(0x4000_0000)..PhysicalAddress(0x4800_0000);
/// The bit of an entry that software may use as it likes: to change it breaks nothing.
const MARK: u64 = El1Attributes::SWFLAG_0.bits() as u64;

/// Moves the kernel onto tables that only windows can change. One copy of the tables there are, and an alias in the upper half.
fn protect(pool: &Pool<Pan>) -> Result<(Tables<'_, Pan>, Tables<'_, Pan>), Error> {
    let root = PhysicalAddress(read_ttbr0_el1().bits() as usize & !0xfff);
    let existing = Existing { root, level: 1, half: VaRange::Lower, linear_memory: RAM };
    // SAFETY: `aarch64-rt` made the table, which the identity map has and this, the only CPU, does not change.
    let lower = unsafe { Tables::adopt(pool, &existing, 1)? };
    let mut upper = Tables::new(pool, 1, 1, VaRange::Upper)?;
    upper.map_alias(MEMORY)?;
    // SAFETY: refused, since this CPU does not use them yet.
    assert!(matches!(unsafe { pool.protect() }, Err(Error::StillWritable(_))));
    // SAFETY: the lower half maps what it did before, but for table memory, which nothing but `pool` uses, and as another ASID, since
    // blocks became smaller. The upper half was not translated until now: as the lower, 39 bits of 4 KiB pages.
    unsafe {
        upper.activate();
        let tcr = read_tcr_el1() - TcrEl1::EPD1;
        let tcr = tcr.with_t1sz(64 - 39).with_tg1(2).with_sh1(3).with_orgn1(1).with_irgn1(1);
        write_tcr_el1(tcr);
        lower.activate();
        core::arch::asm!("isb", "tlbi vmalle1", "dsb nsh", "isb", options(nostack));
        pool.protect()?;
    }
    Ok((lower, upper))
}

/// A page of RAM at an address of its own, by the calls the kernel always had, and a store there.
fn use_tables(tables: &mut Tables<'_, Pan>) -> Result<u64, Error> {
    let (va, pa) = (0x20_0000_0000, PhysicalAddress(0x4600_0000));
    let page = MemoryRegion::new(va, va + 0x1000);
    let flags = MEMORY | El1Attributes::PXN;
    tables.map_range(&page, pa, flags, Constraints::empty())?;
    // SAFETY: the page was just mapped, writable, to a frame that nothing else uses, which the identity map has as well.
    let read = unsafe {
        (va as *mut u64).write_volatile(0x1234);
        (pa.0 as *const u64).read_volatile()
    };
    tables.unmap_range(&page)?;
    Ok(read)
}

/// The kernel: attacks the table it started with, protects itself, and attacks what it has now.
fn run(log: &mut Uart<'_>) -> Result<(), &'static str> {
    let mut try_store = |what: &str, unprivileged, address: usize, word: usize| {
        let outcome = attack(unprivileged, address, word as *const u64, MARK);
        let _ = writeln!(log, "{what} ({address:#x}): {outcome}");
    };
    let first_root = read_ttbr0_el1().bits() as usize & !0xfff;
    try_store("before: STR to the live root", false, first_root, first_root);

    // SAFETY: EL1, interrupts masked since reset, and there is no user memory.
    let pan = unsafe { Pan::init() }.map_err(|_| "this CPU has no PAN or no E0PD")?;
    // SAFETY: RAM that nothing else uses; the identity map has it and all tables; the only CPU has just initialised PAN.
    let pool = unsafe { Pool::new(TABLES, pan) }.map_err(|_| "no table memory")?;
    let (mut lower, _upper) = protect(&pool).map_err(|_| "the tables cannot be protected")?;

    let root = lower.root_address().0;
    let alias = root - TABLES.linear.0 + ALIAS;
    let unused = TABLES.linear.0 + (TABLES.pages - 1) * 0x1000;
    try_store("after: STR to the live root", false, root, root);
    try_store("after: STR to its alias", false, alias, root);
    try_store("after: STTR to its alias", true, alias, root);
    try_store("after: STR to unused table memory", false, unused, unused);
    match use_tables(&mut lower) {
        Ok(0x1234) => Ok(()),
        _ => Err("the tables cannot be used"),
    }
}

entry!(main);
fn main(_: u64, _: u64, _: u64, _: u64) -> ! {
    // SAFETY: the UART's registers, mapped by the identity map; the only reference to them.
    let mut log = Uart::new(unsafe { UniqueMmioPointer::new(NonNull::new_unchecked(UART)) });
    let passed = run(&mut log);
    let _ = writeln!(log, "{}", passed.err().unwrap_or("protected"));
    semihosting::process::exit(i32::from(passed.is_err()))
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    semihosting::process::exit(2)
}
