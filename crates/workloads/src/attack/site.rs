//! What an attack needs that only the kernel below it has.

use alloc::string::String;

use super::target::Platform;
use kpkeys_mm::{AddressSpace, Kernel};
use kpkeys_pgtable::{Machine, PhysAddr, VirtAddr};

/// A kind of store. Each writes back what it reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Store {
    /// One byte.
    Byte,
    /// Eight bytes.
    Word,
    /// Sixty-four bytes by a copy routine.
    Bulk,
    /// An atomic addition of zero.
    ReadModifyWrite,
}

/// What is attacked, by the address it is read at and the one it is written at.
///
/// They differ where page tables are protected by an alias: it cannot even be read outside of windows, while the linear map always
/// has them readable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Aim {
    /// Where what is written back is read.
    pub read: VirtAddr,
    /// Where it is written.
    pub write: VirtAddr,
}

impl Aim {
    /// One address for both.
    pub const fn at(address: VirtAddr) -> Self {
        Aim { read: address, write: address }
    }

    /// The same, further on.
    pub const fn offset(self, bytes: u64) -> Self {
        Aim { read: VirtAddr(self.read.0 + bytes), write: VirtAddr(self.write.0 + bytes) }
    }

    /// A place in a page of memory, by its address in the linear map.
    pub fn linear<M: Machine>(kernel: &Kernel<M>, page: PhysAddr, offset: u64) -> Self {
        Self::at(kernel.machine().memory().linear_address(page).offset(offset))
    }

    /// The same, written where the page-table code writes it in a window: through the page's alias if it has one.
    pub fn of_table<M: Machine>(kernel: &Kernel<M>, page: PhysAddr, offset: u64) -> Self {
        let linear = Self::linear(kernel, page, offset);
        match alias_of(kernel, page) {
            Some(alias) => Aim { write: alias.offset(offset), ..linear },
            None => linear,
        }
    }
}

/// The alias of a page, if it has one: page-table pages alone do.
pub fn alias_of<M: Machine>(kernel: &Kernel<M>, page: PhysAddr) -> Option<VirtAddr> {
    let paging = kernel.paging();
    let alias = paging.alias_of(page)?;
    paging.walk(paging.alias_root(), alias).map(|_| alias)
}

/// Where code can be made to run while the caller is in the middle of something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// An interrupt handler on this CPU.
    Interrupt,
    /// An NMI handler on this CPU (arm64: the nearest there is).
    Nmi,
    /// Another CPU.
    OtherCpu,
    /// Another thread on this CPU, switched to by preemption.
    OtherThread,
    /// A page-fault handler on this CPU.
    PageFault,
    /// A page-fault handler inside an interrupt handler on this CPU.
    NestedFault,
    /// The handler of an asynchronous error on this CPU.
    AsyncError,
}

/// Where a suspended context keeps its protection register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SavedIn {
    /// The frame of an exception.
    Frame,
    /// The structure of a suspended thread.
    Thread,
}

/// A fault that stopped a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The error code (x86-64) or syndrome (arm64).
    pub code: u64,
    /// The address.
    pub address: u64,
    /// Whether hardware says that the protection under test refused it: the key; or, with an alias, that the linear map has the
    /// page read-only, PAN, or E0PD.
    pub by_protection: bool,
}

/// A running kernel, from an attacker's side.
pub trait Site<M: Machine>: Sync {
    /// An address of the kernel image, in its data.
    fn image_address(&self) -> VirtAddr;

    /// An address of the kernel image, in its code.
    fn text_address(&self) -> VirtAddr;

    /// A page of a device's registers, if one is mapped.
    fn device(&self) -> Option<PhysAddr>;

    /// The root of the tables the kernel was started on.
    fn early_table(&self) -> PhysAddr;

    /// A page-table page inside the kernel image.
    fn static_table(&self) -> PhysAddr;

    /// Where a structure of the machine is, if this one has it.
    fn platform(&self, platform: Platform) -> Option<VirtAddr>;

    /// Reads and writes back.
    ///
    /// # Errors
    ///
    /// The fault that stopped it.
    fn store(&self, store: Store, aim: Aim) -> Result<(), Fault>;

    /// Reads a word, and writes it back as a copy to a program does: with a program's permissions, and the address space with this
    /// root loaded.
    ///
    /// # Errors
    ///
    /// The fault that stopped it.
    fn copy_to_user(&self, root: PhysAddr, aim: Aim) -> Result<(), Fault>;

    /// Reads a word, and has a program in this address space write it back, in user mode.
    ///
    /// # Errors
    ///
    /// Why no program could be run. The inner one is the fault that stopped it.
    fn store_from_program(
        &self,
        space: &mut AddressSpace<'_, M>,
        aim: Aim,
    ) -> Result<Result<(), Fault>, String>;

    /// Whether [`run_in`](Self::run_in) knows this place.
    fn has(&self, place: Place) -> bool;

    /// Runs `f` once in another place while the caller waits in the middle of what it does. Returns false if that place cannot be got to
    /// from here, tried for a while: interrupts are off.
    fn run_in(&self, place: Place, f: &(dyn Fn() + Sync)) -> bool;

    /// Runs `f` with a protection register that was restored from memory, after that memory was overwritten with the value that
    /// allows everything.
    ///
    /// # Errors
    ///
    /// Why the memory could not be overwritten.
    fn with_forged_register(&self, saved_in: SavedIn, f: &(dyn Fn() + Sync)) -> Result<(), String>;

    /// Copies the root table to a page of data, has the scheduler load the copy, and returns whether a CPU did.
    ///
    /// # Errors
    ///
    /// Why it could not be tried.
    fn load_copy_of_root(&self, root: PhysAddr, copy: PhysAddr) -> Result<bool, String>;

    /// Has the scheduler load this page as a thread's root, and returns whether a CPU did. The page must be a root that the kernel can run on.
    ///
    /// # Errors
    ///
    /// Why it could not be tried.
    fn load_root(&self, root: PhysAddr) -> Result<bool, String>;

    /// Writes a word of ordinary memory.
    ///
    /// # Errors
    ///
    /// Why it could not be written.
    fn overwrite(&self, at: VirtAddr, value: u64) -> Result<(), String>;
}
