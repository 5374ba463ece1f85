//! The kernel's memory on its final page tables.
//!
//! [`start`] builds them from what boot memory has left: `kpkeys-mm` makes the linear map and owns the frames, `layout` adds the
//! image and the devices. Then every CPU moves to the new root, and protection is turned on, and verified on every CPU, before it is
//! claimed.
//!
//! # Locks, interrupts and preemption
//!
//! The locks of `kpkeys-pgtable` and `kpkeys-mm` are plain spinlocks. They are taken by threads with interrupts on, never in an interrupt
//! handler and never under an [`IrqLock`], with one exception: page-fault handlers of user code, which turn
//! interrupts on first. So
//!
//! - a CPU that waits for such a lock still answers shootdowns, whatever the holder waits for;
//! - a holder may be preempted; whoever waits for it on the same CPU is preempted in turn, and the scheduler is round-robin, so
//!   the holder goes on;
//! - a thread may be moved to another CPU between reading the CPU's number and using what belongs to it. Per-CPU lists have
//!   locks of their own for that reason: it costs locality, never correctness. An open window moves with its thread, since the
//!   protection register is carried.

use crate::arch::Memory;
pub mod later;
mod layout;
mod machine;
pub mod user;

use crate::arch::root::RootTable;
use crate::arch::{self, backend::Unusable};
use crate::cpu::calls;
use crate::lock::IrqLock;
use crate::memory::boot::{BootMemory, OutOfMemory, PAGE_SIZE, PhysAddr, PhysRange};
use crate::protection::interrupted;
use crate::start::early_tables;
use crate::start::image;
use crate::{cpu, protection, sched};
use alloc::boxed::Box;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use kpkeys::{Backend, Scheme};
use kpkeys_mm::{Buddy, FrameMeta, FrameTable, Kernel, Layout};
use kpkeys_pgtable::check::{self, Finding, Report, Scratch};
use kpkeys_pgtable::guarded::Kind;
use kpkeys_pgtable::section::Space;
use kpkeys_pgtable::{Config, Format, Level, Machine, NoProbe, Probe, Root, VirtAddr};

#[cfg(target_arch = "x86_64")]
pub use layout::write_device;
pub use machine::{Bare, types};

/// The kernel's memory, timed: the instance everything but counting runs uses.
pub type Memories = Kernel<Bare<NoProbe>>;

static MEMORIES: spin::Once<&'static Memories> = spin::Once::new();

/// Why the final tables could not be built, or protection not be turned on.
#[derive(Debug)]
pub enum StartError {
    /// No memory for the frame table.
    FrameTable(OutOfMemory),
    /// The memory manager refused.
    Memory(kpkeys_mm::Error),
    /// A CPU does not enforce what the backend promises.
    Cpu(cpu::CpuId, Unusable),
}

impl From<kpkeys_mm::Error> for StartError {
    fn from(error: kpkeys_mm::Error) -> Self {
        Self::Memory(error)
    }
}

impl From<kpkeys_pgtable::Error> for StartError {
    fn from(error: kpkeys_pgtable::Error) -> Self {
        Self::Memory(error.into())
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrameTable(error) => write!(f, "the frame table: {error}"),
            Self::Memory(error) => write!(f, "the page tables: {error}"),
            Self::Cpu(id, error) => write!(f, "CPU {id}: {error}"),
        }
    }
}

/// The kernel's memory.
///
/// # Panics
///
/// Before [`adopt`].
pub fn memories() -> &'static Memories {
    MEMORIES.get().expect("memory is started before anything that uses it")
}

/// Makes what [`start`] returned the kernel's memory.
pub fn adopt(memories: &'static Memories) {
    MEMORIES.call_once(|| memories);
}

/// Builds the final tables, moves every CPU to them, and turns protection on as `config` says.
///
/// # Errors
///
/// [`StartError`]; protection is not claimed then.
///
/// # Safety
///
/// Once, on the early tables, from a thread with interrupts on. Free boot memory must be unused; it is the frame allocator's from now on.
pub unsafe fn start<P: Probe + Default + 'static>(
    memory: &mut BootMemory,
    config: Config,
) -> Result<&'static Kernel<Bare<P>>, StartError> {
    // SAFETY: forwarded.
    let kernel = unsafe { build::<P>(memory, config) }?;
    let root = kernel.paging().kernel().frame();
    let programs = kernel.paging().programs_kernel_root().map(Root::frame);
    let window = kernel.paging().window_root().map(Root::frame);
    for target in cpu::online() {
        // SAFETY: the tables map the image, the devices and all RAM where the early ones do, and are never freed.
        calls::run_in_interrupt(target.id, &|| unsafe {
            arch::root::adopt(root, programs, window);
        });
    }
    verify_every_cpu()?;
    kernel.enable_protection()?;
    if config.mode.protects() {
        protection::now_protected();
        layout::close_devices(kernel)?;
    }
    Ok(kernel)
}

/// Whether a root register may be loaded with this for a thread: with the root of an address space that is in use. In modes that check
/// nothing, whatever a thread says.
pub fn may_be_loaded(root: PhysAddr) -> bool {
    types().is_none_or(|types| types.is_root(root, Kind::User))
}

/// Roots that threads named and that are none.
static FORGED_ROOTS: AtomicUsize = AtomicUsize::new(0);

/// Counts a root that [may not be loaded](may_be_loaded), and says so of the first.
#[cold]
pub fn refused_root(root: PhysAddr) {
    if FORGED_ROOTS.fetch_add(1, Ordering::Relaxed) == 0 {
        let is = types().map(|types| types.of(root));
        log::error!("refused to load {root:?} as a thread's root: it is {is:?}");
    }
}

/// Asks every CPU, in an interrupt, whether its backend is in force and closed.
///
/// # Errors
///
/// The first CPU that is not as it should be.
pub fn verify_every_cpu() -> Result<(), StartError> {
    for target in cpu::online() {
        let found = IrqLock::new(Ok(()));
        calls::run_in_interrupt(target.id, &|| *found.lock() = protection::selected().verify());
        let found = *found.lock();
        found.map_err(|unusable| StartError::Cpu(target.id, unusable))?;
    }
    Ok(())
}

/// Holds what every CPU has loaded, and what threads are said to have for a root, against what they must be, and says what is not. Returns how
/// much that is. (Control bits are looked at by `protection::control::verify`, at every tick.)
pub fn check_roots() -> usize {
    let mut held = Vec::new();
    for target in cpu::online() {
        let loaded = IrqLock::new(ArrayVec::<_, 4>::new());
        calls::run_in_interrupt(target.id, &|| {
            let mut loaded = loaded.lock();
            arch::root::loaded().for_each(|root| loaded.push(root));
            if let Some(thread) = sched::try_current() {
                loaded.extend(of_thread(thread.root()));
            }
        });
        held.extend(loaded.lock().iter().copied());
    }
    held.extend(sched::waiting_roots().into_iter().filter_map(of_thread));
    let wrong = held
        .into_iter()
        .filter_map(|(space, root)| check::check_root(memories().paging(), root, space));
    wrong.inspect(|finding| log::error!("checker: {finding}")).count()
}

/// The root of a thread that has an address space.
fn of_thread(root: RootTable) -> Option<(Space, PhysAddr)> {
    (root != RootTable::KERNEL).then_some((Space::User, PhysAddr(root.0)))
}

/// # Safety
///
/// As [`start`].
unsafe fn build<P: Probe + Default + 'static>(
    boot: &mut BootMemory,
    config: Config,
) -> Result<&'static Kernel<Bare<P>>, StartError> {
    if config.mode.protects()
        && let Some(unused) = arch::only_for_start()
    {
        boot.remove(unused);
    }
    let memory = covered(boot.ram());
    if let Some(later) = later::held_back() {
        boot.remove(later);
    }
    // SAFETY: forwarded.
    let table = unsafe { frame_table(boot, memory.pages) }.map_err(StartError::FrameTable)?;
    let frames = Buddy::new(memory, table, false, cpu::online().count(), || cpu::this().id.0);
    for free in boot.free() {
        // SAFETY: what boot memory has left is free, and this is its last user.
        unsafe { frames.add(memory.frame_number(free.start)..memory.frame_number(free.end)) };
    }
    let machine = Bare::new(memory, P::default());
    interrupted::settle(machine.to_alias());
    let kernel =
        on_large_stack(|| Kernel::new(machine, frames, config, Layout::standard()).map(Box::new))?;
    layout::complete(&kernel, boot.ram())?;
    let early = early_tables::page_table_pages().iter().copied();
    for pages in early.chain([image::boot_table_frames()]) {
        kernel.paging().record_early_ptps(pages.start, pages.pages())?;
    }
    let by_alias = config.mode.protects() && protection::backend().scheme() == Scheme::Alias;
    if by_alias && arch::backend::need_programs_root() {
        kernel.paging().make_programs_kernel_root()?;
    }
    let settled = image::settled_frames();
    kernel.paging().record_settled(settled.start, settled.pages())?;
    layout::type_kernel_data(&kernel, boot)?;
    Ok(Box::leak(kernel))
}

/// The memory that the linear map covers: from the start of RAM, rounded down so that blocks of any size line up, to its end.
fn covered(ram: &[PhysRange]) -> Memory {
    const LARGEST: Level = arch::Format::LARGEST_BLOCK;
    let ends = ram.iter().map(|range| range.rounded_in(PAGE_SIZE).end.0);
    let start = ram
        .first()
        .map_or(0, |first| first.rounded_out(LARGEST.entry_bytes::<arch::Format>()).start.0);
    Memory::new(
        PhysAddr(start),
        ((ends.max().unwrap_or(start) - start) / PAGE_SIZE) as usize,
        VirtAddr(arch::layout::linear(PhysAddr(start)) as u64),
    )
}

/// Per-frame metadata in memory of its own, since the heap is too small for it.
///
/// # Safety
///
/// As [`start`].
unsafe fn frame_table(boot: &mut BootMemory, frames: usize) -> Result<FrameTable, OutOfMemory> {
    let taken = boot.take((frames * size_of::<FrameMeta>()) as u64, PAGE_SIZE)?;
    let start = arch::layout::linear(taken.start);
    // SAFETY: the memory is ours alone from here on, mapped and page-aligned; metadata is made of atomic integers, for which zero
    // is a valid value.
    let table = unsafe {
        start.write_bytes(0, taken.len() as usize);
        core::slice::from_raw_parts(start.cast(), frames)
    };
    Ok(FrameTable::Boot(table))
}

/// Runs `f` on a stack from the heap: the page tables' state is one large value, which moves over the stack when it is made.
fn on_large_stack<R>(f: impl FnOnce() -> R) -> R {
    const BYTES: usize = 1 << 20;
    struct Call<F, R> {
        f: Option<F>,
        result: Option<R>,
    }
    extern "C" fn run<F: FnOnce() -> R, R>(call: *mut u8) {
        // SAFETY: `on_large_stack` passes its own `Call` of the same types and waits.
        let call = unsafe { &mut *call.cast::<Call<F, R>>() };
        call.result = call.f.take().map(|f| f());
    }
    fn trampoline<F: FnOnce() -> R, R>(_: &Call<F, R>) -> extern "C" fn(*mut u8) {
        run::<F, R>
    }
    let mut stack: Vec<u128> = Vec::with_capacity(BYTES / size_of::<u128>());
    let top = stack.as_mut_ptr() as usize + BYTES;
    let mut call = Call { f: Some(f), result: None };
    let function = trampoline(&call);
    // SAFETY: the stack is fresh, 16-byte aligned at both ends, and lives until the call has returned; `call` likewise.
    unsafe { arch::context::call_with_stack(top, function, (&raw mut call).cast()) };
    call.result.expect("the function was called")
}

/// Frames that are free, tables, or waiting to become tables: all there are, when nothing else is in use but the tables of
/// `users`. No table may change meanwhile.
pub fn accounted(users: &[&Root]) -> usize {
    let kernel = memories();
    // Unmaps that wait for a window hold frames.
    kernel.purge_vmalloc();
    kernel.paging().shrink();
    let report = check(kernel, users, |finding| log::error!("checker: {finding}"));
    kernel.frames().free_frames() + report.ptps + report.spare + report.state
}

/// Walks all tables and passes everything that is not as promised to `found`. No table may change meanwhile.
pub fn check<M: Machine>(
    kernel: &Kernel<M>,
    users: &[&Root],
    found: impl FnMut(Finding),
) -> Report {
    let mut bits = alloc::vec![0; Scratch::words(&kernel.machine().memory())];
    let report = check::check(kernel.paging(), users, Scratch::new(&mut bits), found);
    report.expect("the scratch memory has as many words as asked for")
}
