//! A static early table: page tables that a kernel's image brings along, which no allocator here knows of, and which stay page tables for ever.
//!
//! A CPU can still be made to start on them, or on a root that leads to them, so they are as worth attacking as those in use. A kernel names them before it
//! turns protection on.

use std::error::Error;

use kpkeys::Pkey;
use kpkeys_examples::{Example, build, this_cpu};
use kpkeys_hosted::mmu::Fault;
use kpkeys_mm::Kernel;
use kpkeys_pgtable::entry::X86_64;
use kpkeys_pgtable::{Attrs, Entry, Format, Frames, Level, Machine, Mode, PhysAddr};

/// As the first instructions of a kernel do: one table of 1 GiB blocks, filled by plain stores, long before there are windows.
fn fill_early_table(kernel: &Kernel<Example>, table: PhysAddr) {
    let entries = kernel.machine().data(table).cast::<Entry>();
    for gib in 0..4u64 {
        let block = X86_64::leaf(Level::Pud, PhysAddr(gib << 30), Attrs::KERNEL_DATA);
        // SAFETY: the frame was allocated for this table, which nothing else refers to yet, and has room for 512 entries.
        unsafe { entries.add(gib as usize).write(block.expect("an aligned frame and key 0")) };
    }
}

/// Stores over the early table's first entry, through the linear map.
fn attack(kernel: &Kernel<Example>, table: PhysAddr) -> Result<(), Fault> {
    let address = kernel.machine().memory().linear_address(table);
    this_cpu(kernel, None).store(address, 0)
}

fn main() -> Result<(), Box<dyn Error>> {
    let kernel = build(Mode::Fused, 1)?;
    // In a kernel the linker places them; `image.ld` says where they begin and end.
    let [forgotten, recorded] = [(); 2].map(|()| kernel.frames().allocate(0).expect("a frame"));
    fill_early_table(&kernel, forgotten);
    fill_early_table(&kernel, recorded);

    kernel.paging().record_early_ptps(recorded, 1)?;
    kernel.enable_protection()?;

    assert_eq!(attack(&kernel, forgotten), Ok(()));
    println!("forgotten: the store changed the early table");
    let blocked = attack(&kernel, recorded);
    assert_eq!(blocked, Err(Fault::Key(Pkey::PAGE_TABLES)));
    println!("recorded: the store faulted: {blocked:?}");
    Ok(())
}
