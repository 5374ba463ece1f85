//! Protected data of one's own: credentials that can be read by everybody and written in a context of their own, by `kpkeys` alone.
//!
//! The library has no store for such data yet, page tables aside: [`Guarded`] is one, as small as it can be. What it needs is a page that holds nothing else, with a
//! key of its own in the leaf that maps it. Here `kpkeys-pgtable` sets that; a kernel with other page tables sets it there.

use std::error::Error;
use std::ptr::NonNull;

use kpkeys::{Access, AccessMap, Backend, Context, Guard, Pkey, context};
use kpkeys_examples::{Example, boot, this_cpu};
use kpkeys_hosted::mmu::Fault;
use kpkeys_mm::Kernel;
use kpkeys_pgtable::{Frames, Machine, Mode, PAGE_SIZE, PhysAddr};

/// Credentials may be written, page tables may not.
struct Credentials;

impl Context for Credentials {
    const ACCESS: AccessMap = AccessMap::PROTECTED.with(Pkey::WRITE_RARELY, Access::ReadWrite);
}

/// A value in a page of its own that only context [`Credentials`] can write. Loads are plain.
struct Guarded<'m, B: Backend, T> {
    value: NonNull<T>,
    backend: &'m B,
}

impl<'m, B: Backend, T: Copy> Guarded<'m, B, T> {
    /// # Safety
    ///
    /// The page is mapped with the key, for as long as this lives, and is used for nothing else; no window is open on any CPU that writes.
    unsafe fn new(page: NonNull<u8>, backend: &'m B, value: T) -> Self {
        const { assert!(size_of::<T>() <= PAGE_SIZE as usize) };
        let mut guarded = Guarded { value: page.cast(), backend };
        guarded.set(value);
        guarded
    }

    fn get(&self) -> T {
        // SAFETY: `new` stored a value, in a page that is this one's; `set` takes `&mut`.
        unsafe { self.value.read() }
    }

    fn set(&mut self, value: T) {
        // SAFETY: no other guard is open on this CPU (contract of `new`), and nothing but this store happens in it.
        let guard: Guard<'_, _, Credentials> = unsafe { Guard::enter(self.backend) };
        // SAFETY: the page is this value's, and may be written in this context.
        unsafe { self.value.write(value) };
        drop(guard);
    }
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
    let cred = unsafe { Guarded::new(machine.data(page), backend, NOBODY) };
    assert_eq!(become_root(&kernel, page), Ok(()));
    assert_eq!(cred.get(), Cred { user: 0, group: 0 });
    println!("without a key: the store made nobody root");

    kernel.paging().set_memory_pkey(page, 1, Pkey::WRITE_RARELY)?;
    // SAFETY: the frame is ours, and carries the key.
    let mut cred = unsafe { Guarded::new(machine.data(page), backend, NOBODY) };
    let blocked = Err(Fault::Key(Pkey::WRITE_RARELY));
    assert_eq!(become_root(&kernel, page), blocked);
    assert_eq!(cred.get(), NOBODY);
    cred.set(Cred { user: 1000, group: 1000 });
    assert_eq!(cred.get().user, 1000);

    // Contexts do not open each other's data.
    // SAFETY: the only guard of this CPU; what is stored in it is what must fault.
    let guard: Guard<'_, _, context::PageTables> = unsafe { Guard::enter(backend) };
    let in_window = become_root(&kernel, page);
    drop(guard);
    assert_eq!(in_window, blocked, "a window for page tables does not open credentials");
    let root = machine.memory().linear_address(kernel.paging().kernel().frame());
    // SAFETY: as above.
    let guard: Guard<'_, _, Credentials> = unsafe { Guard::enter(backend) };
    let to_table = this_cpu(&kernel, None).store(root, 0);
    drop(guard);
    assert_eq!(to_table, Err(Fault::Key(Pkey::PAGE_TABLES)));
    println!("with a key: the store faulted: {blocked:?}");
    Ok(())
}
