//! Several CPUs: each initialises its own register, and a window opens page tables to the CPU that opened it alone.

use std::error::Error;
use std::sync::Barrier;
use std::thread;

use kpkeys::context::PageTables;
use kpkeys::{Guard, Pkey};
use kpkeys_examples::{Example, boot, this_cpu};
use kpkeys_hosted::cpu::become_cpu;
use kpkeys_hosted::mmu::Fault;
use kpkeys_mm::Kernel;
use kpkeys_pgtable::{Attrs, Machine, Mode, PageRange, PhysAddr, VirtAddr};

/// Stores over the first entry of the kernel's root table, in the user's half, which is empty.
fn attack(kernel: &Kernel<Example>) -> Result<(), Fault> {
    let root = kernel.machine().memory().linear_address(kernel.paging().kernel().frame());
    this_cpu(kernel, None).store(root, 0)
}

/// Maps 64 pages of its own, as CPUs do at the same time: ranges that do not overlap need no lock of the caller's.
fn work(kernel: &Kernel<Example>, cpu: usize) -> Result<(), kpkeys_pgtable::Error> {
    let (paging, root) = (kernel.paging(), kernel.paging().kernel());
    let range = PageRange::new(VirtAddr(0xffff_d000_0000_0000 + ((cpu as u64) << 21)), 64)?;
    let registers = |page| PhysAddr(0xfee0_0000 + page as u64 * 0x1000);
    let section = paging.section(root);
    paging.map(&section, root, range, Attrs::DEVICE, registers)
}

fn main() -> Result<(), Box<dyn Error>> {
    let kernel = &boot(Mode::Fused, 3)?;
    let (opened, attacked) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|cpus| {
        // CPU 1 has a window open meanwhile. (By hand, which only page-table code should do: sections open their own.)
        let page_table_code = cpus.spawn(|| {
            become_cpu(1);
            kernel.machine().backend().reset();
            let result = work(kernel, 1);
            // SAFETY: the only window of this CPU; nothing is stored in it but by the attacker who shows that it is open.
            let guard: Guard<'_, _, PageTables> =
                unsafe { Guard::enter(kernel.machine().backend()) };
            opened.wait();
            let inside = attack(kernel);
            attacked.wait();
            drop(guard);
            result.map(|()| (inside, attack(kernel)))
        });
        let other = cpus.spawn(|| {
            become_cpu(2);
            kernel.machine().backend().reset();
            let result = work(kernel, 2);
            opened.wait();
            let meanwhile = attack(kernel);
            attacked.wait();
            result.map(|()| meanwhile)
        });
        let (inside, after) = page_table_code.join().expect("no panic")?;
        let meanwhile = other.join().expect("no panic")?;

        let fault = Err(Fault::Key(Pkey::PAGE_TABLES));
        assert_eq!((inside, after), (Ok(()), fault), "CPU 1: its own window, and after it");
        println!("CPU 1, in its window: open; after it: closed");
        assert_eq!(meanwhile, fault);
        println!("CPU 2, while CPU 1 had a window open: the store faulted: {meanwhile:?}");
        Ok(())
    })
}
