//! What an attack needs that only the kernel below it has.

use alloc::string::String;

use kpkeys_pgtable::{PhysAddr, VirtAddr};

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
    /// Whether hardware says that the protection under test refused it: the key, or PAN.
    pub by_protection: bool,
}

/// A running kernel, from an attacker's side.
pub trait Site: Sync {
    /// An address of the kernel image, in its data.
    fn image_address(&self) -> VirtAddr;

    /// The root of the tables the kernel was started on.
    fn early_table(&self) -> PhysAddr;

    /// A page-table page inside the kernel image.
    fn static_table(&self) -> PhysAddr;

    /// Reads and writes back.
    ///
    /// # Errors
    ///
    /// The fault that stopped it.
    fn store(&self, store: Store, at: VirtAddr) -> Result<(), Fault>;

    /// Reads and writes back a word at a user address of the address space with this root, as a copy to a program does.
    ///
    /// # Errors
    ///
    /// The fault that stopped it.
    fn store_in_user_space(&self, root: PhysAddr, at: VirtAddr) -> Result<(), Fault>;

    /// Whether [`run_in`](Self::run_in) knows this place.
    fn has(&self, place: Place) -> bool;

    /// Runs `f` once in another place while the caller waits in the middle of what it does.
    fn run_in(&self, place: Place, f: &(dyn Fn() + Sync));

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
}
