//! A user address space: mapped, forked, written, unmapped; every table of both processes is protected at each step, and the checker walks them all.

use std::error::Error;

use kpkeys::Pkey;
use kpkeys_examples::{Example, boot, table_of, this_cpu};
use kpkeys_hosted::mmu::{Fault, Privilege};
use kpkeys_mm::{AddressSpace, Kernel, MapFlags};
use kpkeys_pgtable::check::{Scratch, check};
use kpkeys_pgtable::entry::X86_64;
use kpkeys_pgtable::{Machine, Mode, PageRange, PhysAddr, VirtAddr};

type Space<'k> = AddressSpace<'k, Example>;

/// How many page tables there are; none of them, and nothing else, is unlike what protection promises.
fn checked(kernel: &Kernel<Example>, spaces: &[&Space<'_>]) -> Result<usize, Box<dyn Error>> {
    let roots: Vec<_> = spaces.iter().map(|space| space.root()).collect();
    let mut bits = vec![0; Scratch::words(&kernel.machine().memory())];
    let mut findings = Vec::new();
    let scratch = Scratch::new(&mut bits);
    let report = check(kernel.paging(), &roots, scratch, |finding| findings.push(finding));
    let report = report.ok_or("scratch memory of the size that the checker asks for")?;
    assert_eq!(findings, [], "the checker finds nothing");
    Ok(report.ptps)
}

/// Where a program's page is, and what the kernel's store to the table that says so comes to.
fn attack(
    space: &Space<'_>,
    va: VirtAddr,
) -> Result<(PhysAddr, Result<(), Fault>), Box<dyn Error>> {
    let kernel = space.kernel();
    let frame = kernel.paging().translate(space.root(), va).ok_or("a page that is mapped")?;
    let address = table_of(space, va).ok_or("its table")?;
    Ok((frame, this_cpu(kernel, None).store(address, 0)))
}

/// A program whose heap is all there.
fn program(
    kernel: &Kernel<Example>,
    heap: PageRange<X86_64>,
) -> Result<Space<'_>, kpkeys_mm::Error> {
    let mut space = AddressSpace::new(kernel)?;
    space.mmap(heap, MapFlags::DATA)?;
    space.populate(heap)?;
    Ok(space)
}

fn main() -> Result<(), Box<dyn Error>> {
    let heap = PageRange::new(VirtAddr(0x5555_4000_0000), 512)?;
    let open = boot(Mode::Off, 1)?;
    let victim = program(&open, heap)?;
    assert_eq!(attack(&victim, heap.start())?.1, Ok(()));
    println!("off: the store changed the program's table");
    // It cannot be taken apart any more: what its tables say are frames is the attacker's choice.
    std::mem::forget(victim);

    let kernel = boot(Mode::Fused, 1)?;
    let mut parent = program(&kernel, heap)?;
    let alone = checked(&kernel, &[&parent])?;

    // Both share every page read-only until one of them writes.
    let mut child = parent.fork()?;
    let both = checked(&kernel, &[&parent, &child])?;
    println!("{alone} page tables before the fork, {both} after it, all protected");
    let root = child.root().frame();
    let write = || this_cpu(&kernel, Some(root)).store_as(Privilege::User, heap.start(), 1);
    assert!(matches!(write(), Err(Fault::Permission(_))), "shared pages are read-only");
    child.fault(heap.start(), true)?;
    assert_eq!(write(), Ok(()));

    let blocked = Err(Fault::Key(Pkey::PAGE_TABLES));
    let (of_parent, to_parent) = attack(&parent, heap.start())?;
    let (of_child, to_child) = attack(&child, heap.start())?;
    assert_ne!(of_parent, of_child, "the child has a copy");
    assert_eq!((to_parent, to_child), (blocked, blocked));

    child.munmap(heap)?;
    drop(child);
    // A table that was freed waits in the pool with its key: a stale pointer to it still faults.
    assert_eq!(checked(&kernel, &[&parent])?, alone);
    println!("both processes' tables: the store faulted: {blocked:?}");
    Ok(())
}
