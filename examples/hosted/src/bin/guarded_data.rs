//! Protected data of one's own: credentials that can be read by everybody and written in a context of their own, by `kpkeys` alone.
//!
//! What [`Guarded`] needs is a page that holds nothing else, with the key in the leaf that maps it. Here `kpkeys-pgtable` sets that; a kernel with other page tables
//! sets it there.

use std::error::Error;

use kpkeys::guarded::{Guarded, Key, Writing};
use kpkeys::{Guard, Pkey, context};
use kpkeys_examples::{Example, boot, this_cpu};
use kpkeys_hosted::mmu::Fault;
use kpkeys_mm::Kernel;
use kpkeys_pgtable::{Frames, Machine, Mode, PhysAddr};

/// The key of credentials.
struct Credentials;

impl Key for Credentials {
    const PKEY: Pkey = Pkey::WRITE_RARELY;
}

/// Who a thread acts for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cred {
    user: u32,
    group: u32,
}

const NOBODY: Cred = Cred { user: 65534, group: 65534 };
const ROOT: u64 = 0;

/// The classic: `cred->uid = 0`.
fn become_root(kernel: &Kernel<Example>, page: PhysAddr) -> Result<(), Fault> {
    this_cpu(kernel, None).store(kernel.machine().memory().linear_address(page), ROOT)
}

fn main() -> Result<(), Box<dyn Error>> {
    let kernel = boot(Mode::Fused, 1)?;
    let (machine, backend) = (kernel.machine(), kernel.machine().backend());
    let page = kernel.frames().allocate(0).ok_or("a frame")?;

    // SAFETY: the frame is ours; it carries no key yet, which protects it from nobody.
    let cred: Guarded<Cred, Credentials> =
        unsafe { Guarded::new(machine.data(page).cast(), backend, NOBODY) };
    assert_eq!(become_root(&kernel, page), Ok(()));
    assert_eq!(*cred, Cred { user: 0, group: 0 });
    println!("without a key: the store made nobody root");

    kernel.paging().set_memory_pkey(page, 1, Pkey::WRITE_RARELY)?;
    // SAFETY: the frame is ours, and carries the key.
    let mut cred: Guarded<Cred, Credentials> =
        unsafe { Guarded::new(machine.data(page).cast(), backend, NOBODY) };
    let blocked = Err(Fault::Key(Pkey::WRITE_RARELY));
    assert_eq!(become_root(&kernel, page), blocked);
    assert_eq!(*cred, NOBODY);
    cred.set(backend, Cred { user: 1000, group: 1000 });
    assert_eq!(cred.user, 1000);

    // Contexts do not open each other's data.
    // SAFETY: the only guard of this CPU; what is stored in it is what must fault.
    let guard: Guard<'_, _, context::PageTables> = unsafe { Guard::enter(backend) };
    let in_window = become_root(&kernel, page);
    drop(guard);
    assert_eq!(in_window, blocked, "a window for page tables does not open credentials");
    let root = machine.memory().linear_address(kernel.paging().kernel().frame());
    // SAFETY: as above.
    let guard: Guard<'_, _, Writing<Credentials>> = unsafe { Guard::enter(backend) };
    let to_table = this_cpu(&kernel, None).store(root, 0);
    drop(guard);
    assert_eq!(to_table, Err(Fault::Key(Pkey::PAGE_TABLES)));
    println!("with a key: the store faulted: {blocked:?}");
    Ok(())
}
