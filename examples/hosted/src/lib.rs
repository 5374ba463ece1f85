//! What the examples share: a machine in this process, and a CPU of it that an attacker has.
//!
//! `bin/first_machine.rs` writes a machine of its own; the others take the one of `kpkeys-hosted`. Each ends by showing that protection
//! holds, after it showed that the same store succeeds where there is none, and exits with an error if it does not.

pub mod snippets;

use std::io;

use kpkeys::keyed::Register;
use kpkeys_hosted::boot::{self, Setup, Timed};
use kpkeys_hosted::mmu::Mmu;
use kpkeys_hosted::register::MockRegister;
use kpkeys_mm::{AddressSpace, Kernel};
use kpkeys_pgtable::entry::X86_64;
use kpkeys_pgtable::{Config, Format, Level, Machine, Mode, PhysAddr, VirtAddr};

/// The machine: x86-64 tables in an arena of this process's memory.
pub type Example = Timed<X86_64>;

/// 16 MiB.
const PAGES: usize = 4096;

/// A kernel's memory, linear map and all, before protection is turned on.
///
/// # Errors
///
/// The host has no memory for the arena.
pub fn build(mode: Mode, cpus: usize) -> io::Result<Kernel<Example>> {
    boot::build(setup(mode, cpus))
}

/// [`build`], and protection turned on.
///
/// # Errors
///
/// As [`build`].
pub fn boot(mode: Mode, cpus: usize) -> io::Result<Kernel<Example>> {
    boot::boot(setup(mode, cpus))
}

fn setup(mode: Mode, cpus: usize) -> Setup {
    Setup { pages: PAGES, cpus, config: Config::of(mode) }
}

/// The CPU that this thread plays, as an attacker has it: the kernel's tables are loaded, perhaps a program's too, and the protection register is what
/// it is at this moment.
pub fn this_cpu(kernel: &Kernel<Example>, user_root: Option<PhysAddr>) -> Mmu<'_, Example> {
    let register = MockRegister::detect().read();
    Mmu::new(kernel.machine(), kernel.paging().kernel().frame(), user_root, register)
}

/// The linear map's address of the table whose entry maps a page of a program: what an attacker is after.
pub fn table_of(space: &AddressSpace<'_, Example>, page: VirtAddr) -> Option<VirtAddr> {
    let (kernel, above) = (space.kernel(), Level::Pmd);
    let entry = kernel
        .paging()
        .find_table(space.root(), page, above)?
        .slot(page.index::<X86_64>(above))
        .load();
    let frame = X86_64::is_table(above, entry).then(|| X86_64::frame(above, entry))?;
    Some(kernel.machine().memory().linear_address(frame))
}
