//! A page-fault path: a program touches pages that are not there, the handler makes them, and a fault that a key raised is never "handled".

use std::error::Error;

use kpkeys_examples::{Example, boot, table_of, this_cpu};
use kpkeys_hosted::mmu::{Fault, Privilege};
use kpkeys_mm::{AddressSpace, MapFlags};
use kpkeys_pgtable::entry::X86_64;
use kpkeys_pgtable::{Format, Mode, PageRange, VirtAddr};

/// What becomes of the CPU that faulted.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It goes on, and makes its access again.
    Retry,
    /// Somebody stored to a page table: what follows is the kernel's policy, and it is not to go on.
    Attack(VirtAddr),
    /// The program is at fault.
    Kill(kpkeys_mm::Error),
}

/// The handler. It runs outside any window - the first code of the exception entry saw to that - and opens those it needs by the operations that it calls.
fn handle(space: &mut AddressSpace<'_, Example>, fault: Fault, va: VirtAddr) -> Verdict {
    match fault {
        // x86-64: error code bit 5; arm64: the overlay bit of ESR. Not to be looked up, and not to be retried: it would fault for ever.
        Fault::Key(_) => Verdict::Attack(va),
        _ => space.fault(va, true).map_or_else(Verdict::Kill, |()| Verdict::Retry),
    }
}

/// A store, made again for as long as the handler says so.
fn store(space: &mut AddressSpace<'_, Example>, who: Privilege, va: VirtAddr) -> Option<Verdict> {
    loop {
        let root = space.root().frame();
        let cpu = this_cpu(space.kernel(), Some(root));
        match cpu.store_as(who, va, 7) {
            Ok(()) => return None,
            Err(fault) => match handle(space, fault, va) {
                Verdict::Retry => {}
                verdict => return Some(verdict),
            },
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    for mode in [Mode::Off, Mode::Fused] {
        let kernel = boot(mode, 1)?;
        let mut space = AddressSpace::new(&kernel)?;
        let heap = PageRange::new(VirtAddr(0x5555_4000_0000), 8)?;
        space.mmap(heap, MapFlags::DATA)?;

        for page in 0..8 {
            let touched =
                store(&mut space, Privilege::User, heap.start().offset_pages::<X86_64>(page));
            assert_eq!(touched, None, "the program goes on");
        }
        assert_eq!(space.mapped_pages(), 8);
        let beyond = VirtAddr(heap.start().0 + 8 * X86_64::PAGE_SIZE);
        let stray = store(&mut space, Privilege::User, beyond);
        assert_eq!(stray, Some(Verdict::Kill(kpkeys_mm::Error::NotMapped(beyond))));

        // The kernel is made to store to the table that translates the program's heap.
        let address = table_of(&space, heap.start()).ok_or("the heap has a table")?;
        let attack = store(&mut space, Privilege::Kernel, address);
        if mode == Mode::Off {
            assert_eq!(attack, None);
            println!("off: the store changed the program's page table");
            // It cannot be taken apart any more: what its tables say are frames is the attacker's choice.
            std::mem::forget(space);
        } else {
            assert_eq!(attack, Some(Verdict::Attack(address)));
            println!("fused: 8 faults handled, and the store faulted: {attack:?}");
        }
    }
    Ok(())
}
