//! An attack of one's own: not a stray store, but ordinary memory changed so that the page-table code itself does the attacker's work.
//!
//! The attacker changes a frame number in some list - ordinary kernel data, which nothing protects - and waits until the kernel maps what the list says. Where page
//! tables are merely write-protected it thereby gets a writable mapping of one that no key covers. Mode `fused` knows what each frame is, and refuses.
//!
//! To try another attack, write another function from a kernel to an [`Outcome`]. It counts if it succeeds where nothing protects.

use std::error::Error;

use kpkeys_examples::{Example, boot, this_cpu};
use kpkeys_hosted::mmu::Fault;
use kpkeys_mm::Kernel;
use kpkeys_pgtable::entry::X86_64;
use kpkeys_pgtable::{Attrs, Frames, Level, Mode, PageRange, PhysAddr, VirtAddr};

/// What an attack came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// A page table has the attacker's value in it.
    Succeeded,
    /// The page-table code refused to be used.
    Refused(kpkeys_pgtable::Error),
    /// The store faulted.
    Faulted(Fault),
}

/// A value that is in no table.
const EVIL: u64 = 0x0bad_0bad_0bad_0bad;

/// A list of frames that the kernel is about to map, with the kernel's own root table written into it.
fn map_a_table_as_data(kernel: &Kernel<Example>) -> Outcome {
    let (paging, root) = (kernel.paging(), kernel.paging().kernel());
    let mut frames: [PhysAddr; 2] =
        core::array::from_fn(|_| paging.frames().allocate(0).expect("there is memory"));
    frames[1] = root.frame(); // the attacker's store, to ordinary memory

    let range = PageRange::new(VirtAddr(0xffff_d000_0000_0000), 2).expect("two pages");
    let section = paging.section(root);
    if let Err(error) = paging.map(&section, root, range, Attrs::KERNEL_DATA, |page| frames[page]) {
        return Outcome::Refused(error);
    }
    drop(section);
    // Past the end of a buffer in the page before, say, into the first entry of the root table.
    if let Err(fault) = this_cpu(kernel, None).store(range.start().offset_pages::<X86_64>(1), EVIL)
    {
        return Outcome::Faulted(fault);
    }
    let table = paging.find_table(root, range.start(), Level::Pgd).expect("the root");
    assert_eq!(table.slot(0).load().0, EVIL);
    Outcome::Succeeded
}

fn main() -> Result<(), Box<dyn Error>> {
    for mode in Mode::ALL {
        let outcome = map_a_table_as_data(&boot(mode, 1)?);
        println!("{:<10} {outcome:?}", mode.name());
        // What is promised: every mode but `off` stops stray stores; this one is `fused`'s to stop.
        match mode {
            Mode::Fused => {
                assert!(matches!(outcome, Outcome::Refused(kpkeys_pgtable::Error::Violation(_))))
            }
            _ => assert_eq!(outcome, Outcome::Succeeded, "{}", mode.name()),
        }
    }
    println!("an attack that write protection does not stop was refused by fused");
    Ok(())
}
