//! Small programs: a few instructions in an address space, without files or system calls but the one that ends them.

use crate::arch::root::RootTable;
use crate::arch::{self, layout, user::Start};
use crate::cpu::fault::Fault;
use crate::lock::IrqsOff;
use crate::memory::paging::{self, Bare};
use crate::sched;
use alloc::string::{String, ToString};
use core::fmt;
use core::ptr::NonNull;
use kpkeys_mm::{AddressSpace, MapFlags};
use kpkeys_pgtable::{Format, Machine, NoProbe, PageRange, VirtAddr};

/// An address space programs run in.
pub type Space = AddressSpace<'static, Bare<NoProbe>>;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By its own wish, with this value.
    Exit(u64),
    /// By an exception that nothing could be done about.
    Killed(Mistake),
}

/// What a program did that it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// An access to an address that is not mapped, or not for programs, or not in this way.
    PageFault(Fault),
    /// An instruction that does not exist, or is the kernel's alone.
    ForbiddenInstruction,
    /// Another exception.
    Other(&'static str),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(value) => write!(f, "exit with {value:#x}"),
            Self::Killed(Mistake::PageFault(fault)) => write!(f, "killed by a page fault: {fault}"),
            Self::Killed(Mistake::ForbiddenInstruction) => {
                f.write_str("killed by a forbidden instruction")
            }
            Self::Killed(Mistake::Other(exception)) => write!(f, "killed by {exception}"),
        }
    }
}

/// What a thread in user mode keeps for its exceptions.
pub struct Running {
    space: NonNull<Space>,
    end: Option<End>,
}

/// Puts a program's code at `at`, which must be free, in at most a page.
///
/// # Errors
///
/// What the memory manager says.
pub fn load<M: Machine>(
    space: &mut AddressSpace<'_, M>,
    at: VirtAddr,
    code: &[u8],
) -> Result<(), String> {
    let failed = |error: kpkeys_mm::Error| error.to_string();
    let page = PageRange::new(at, 1).map_err(|error| error.to_string())?;
    space.mmap(page, MapFlags { execute: true, ..MapFlags::DATA }).map_err(failed)?;
    for (number, bytes) in code.chunks(8).enumerate() {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        paging::user::write(space, at.offset(number as u64 * 8), u64::from_le_bytes(word))
            .map_err(failed)?;
    }
    let (level, _, entry) = space.kernel().paging().walk(space.root(), at).ok_or("no code")?;
    arch::user::publish_code(layout::linear(M::Format::frame(level, entry)), code.len());
    // Code is not writable once it runs.
    space.mprotect(page, false).map_err(failed)
}

/// Runs a program on the running thread until it ends.
pub fn run(space: &mut AddressSpace<'_, Bare<NoProbe>>, start: &Start) -> End {
    let thread = sched::current();
    let root = space.root().frame();
    // The lifetime is left out: this function keeps the borrow for as long as anything uses the pointer.
    let mut running = Running { space: NonNull::from(space).cast(), end: None };
    // SAFETY: the address space is borrowed until this function has put the kernel's root back.
    unsafe { thread.set_root(RootTable(root.0)) };
    thread.set_running(&raw mut running);
    {
        let _irqs_off = IrqsOff::new();
        // SAFETY: interrupts are off and the address space is loaded.
        unsafe { arch::user::enter(start, thread.kernel_stack_address()) };
    }
    thread.set_running(core::ptr::null_mut());
    // SAFETY: the kernel's own root lives for ever.
    unsafe { thread.set_root(RootTable::KERNEL) };
    running.end.expect("a program ends by `exit` or `kill`")
}

/// The program that the running thread is in the middle of ends. The caller returns to [`run`].
pub fn end(end: End) -> u64 {
    let thread = sched::current();
    // SAFETY: the thread was in user mode, so `run` waits below on its stack and owns the state.
    if let Some(running) = unsafe { thread.running().as_mut() } {
        running.end = Some(end);
    }
    // SAFETY: only this thread writes it.
    unsafe { *thread.kernel_stack_address() }
}

/// Handles a page fault of the running thread's program, interrupts on; false if the program is at fault.
pub fn fault(address: u64, write: bool) -> bool {
    let thread = sched::current();
    // SAFETY: as in `end`; `run` has borrowed the address space for it.
    let Some(running) = (unsafe { thread.running().as_mut() }) else { return false };
    // SAFETY: `run` holds the exclusive borrow this pointer was made from and does not use it meanwhile.
    let space = unsafe { running.space.as_mut() };
    space.fault(VirtAddr(address), write).is_ok()
}
