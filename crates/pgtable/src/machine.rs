//! What the library needs from the machine below it: a kernel on hardware, or a model of one in a process.

use core::marker::PhantomData;
use core::ptr::NonNull;

use kpkeys::Backend;

use crate::addr::{PageRange, PhysAddr, VirtAddr};
use crate::entry::Format;
use crate::guarded::{Anchor, Violation, Violations};

/// The physical memory that the linear map covers: one range, mapped from `linear` up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory<F: Format> {
    /// First physical address, a multiple of 1 GiB so that blocks of any size line up.
    pub start: PhysAddr,
    /// Size in pages.
    pub pages: usize,
    /// Where the linear map puts `start`.
    pub linear: VirtAddr,
    format: PhantomData<F>,
}

impl<F: Format> Memory<F> {
    /// `pages` pages from `start`, which the linear map has from `linear` up.
    pub const fn new(start: PhysAddr, pages: usize, linear: VirtAddr) -> Self {
        Memory { start, pages, linear, format: PhantomData }
    }

    /// Whether `pages` pages from `pa` all lie in this memory.
    #[inline(always)]
    pub const fn contains(&self, pa: PhysAddr, pages: usize) -> bool {
        if pa.0 < self.start.0 {
            return false;
        }
        let first = (pa.0 - self.start.0) / F::PAGE_SIZE;
        first <= self.pages as u64 && pages as u64 <= self.pages as u64 - first
    }

    /// The number of the frame that holds `pa`, counted from `start`.
    #[inline(always)]
    pub const fn frame_number(&self, pa: PhysAddr) -> usize {
        (pa.0.wrapping_sub(self.start.0) / F::PAGE_SIZE) as usize
    }

    /// The frame with this number.
    #[inline(always)]
    pub const fn frame(&self, number: usize) -> PhysAddr {
        PhysAddr(self.start.0 + number as u64 * F::PAGE_SIZE)
    }

    /// The linear map's address of `pa`, which must be in this memory.
    #[inline(always)]
    pub const fn linear_address(&self, pa: PhysAddr) -> VirtAddr {
        VirtAddr(self.linear.0 + (pa.0 - self.start.0))
    }
}

/// What a TLB invalidation covers. Every CPU is meant, always, and the flush is complete when the call returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush<F: Format> {
    /// Kernel translations of a range.
    Kernel(PageRange<F>),
    /// All kernel translations.
    AllKernel,
    /// User translations of a range, in the address space with this root.
    User(PhysAddr, PageRange<F>),
    /// All user translations of the address space with this root, tables included.
    AddressSpace(PhysAddr),
    /// All translations, the kernel's and those of every address space, living or dead.
    All,
}

/// What is counted: the costs of protection that do not depend on how fast a machine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Event {
    /// A write of the protection register.
    Switch,
    /// A context-synchronising barrier: after a switch, or for valid kernel entries.
    Barrier,
    /// A window was opened by a switch.
    WindowOpened,
    /// A window was closed.
    WindowClosed,
    /// A store to a PTE.
    EntryStore,
    /// A store to an entry above the last level.
    UpperStore,
    /// A store to the linear map's own tables.
    LinearStore,
    /// A page-table page was allocated.
    PtpAllocated,
    /// A page-table page was freed.
    PtpFreed,
    /// The protection of a range of the linear map was changed: its key, or whether it is read-only and has an alias.
    KeyChange,
    /// A TLB flush was requested.
    TlbFlush,
    /// A window was opened for tables with a key of their own, all others closed. It is one of those [opened](Self::WindowOpened).
    UserWindowOpened,
}

impl Event {
    /// How many kinds of event there are.
    pub const COUNT: usize = Event::UserWindowOpened as usize + 1;
}

/// Receives events. A probe is a type parameter of the machine, so the build that is timed has no trace of it.
pub trait Probe: Sync {
    /// `times` events of this kind happened on the calling CPU.
    #[inline(always)]
    fn count(&self, event: Event, times: u64) {
        let _ = (event, times);
    }

    /// A gate begins on the calling CPU: interrupts are off from here on.
    #[inline(always)]
    fn gate_begins(&self) {}

    /// It is over: interrupts are turned on again.
    #[inline(always)]
    fn gate_ends(&self) {}
}

/// Counts nothing and costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProbe;

impl Probe for NoProbe {}

/// The machine below the page tables.
///
/// # Safety
///
/// The implementor promises:
///
/// - *tables*: for every frame of [`memory`](Self::memory), [`table`](Self::table) returns an address, aligned to a page and valid
///   for as long as the machine lives, through which the bytes of the frame, one page, can be read at any time, and written whenever the
///   frame is not protected or, by [`Scheme::Keys`](kpkeys::Scheme::Keys), this CPU has a window open. By
///   [`Scheme::Alias`](kpkeys::Scheme::Alias) a frame that has its alias entry can be read and written, while this CPU has a
///   window open, through the address [`to_alias`](Self::to_alias) further on;
/// - *data*: [`data`](Self::data) does the same for frames that are not protected; the two may be the same address;
/// - *barriers, flushes and waiting for gates* do what their documentation says on every CPU before they return;
/// - *flags*: where [`WALKERS_SET_FLAGS`](Self::WALKERS_SET_FLAGS) is false, no CPU changes entries of tables by itself;
/// - *cpu*: [`cpu`](Self::cpu) is below [`cpus`](Self::cpus), and no two CPUs share a number.
pub unsafe trait Machine: Sync + Sized {
    /// The entry format of the tables.
    type Format: Format;
    /// How windows are opened and closed.
    type Backend: Backend;
    /// Where events go.
    type Probe: Probe;

    /// Whether CPUs may set young and dirty flags in entries by themselves (x86-64: always; arm64: with `TCR_EL1.HA`). Where they
    /// never do, every store to a table is a plain one.
    const WALKERS_SET_FLAGS: bool = true;

    /// The backend of the calling CPU.
    fn backend(&self) -> &Self::Backend;

    /// The probe.
    fn probe(&self) -> &Self::Probe;

    /// The memory that the linear map covers.
    fn memory(&self) -> Memory<Self::Format>;

    /// The linear-map address of a frame that holds a table. `frame` is page-aligned and in [`memory`](Self::memory).
    fn table(&self, frame: PhysAddr) -> NonNull<u8>;

    /// The linear-map address of a frame that holds data. `frame` is page-aligned and in [`memory`](Self::memory). It is another one than a
    /// [`table`](Self::table)'s in a model alone.
    #[inline(always)]
    fn data(&self, frame: PhysAddr) -> NonNull<u8> {
        self.table(frame)
    }

    /// Where the alias of memory starts, which [`Scheme::Alias`](kpkeys::Scheme::Alias) needs: the second mapping of page-table
    /// pages, which they are stored through. A range as large as memory in the kernel's half, at a multiple of 1 GiB, that
    /// nothing else is mapped in; on x86-64 at a multiple of what a root entry translates (512 GiB; 256 TiB with five levels), and nothing else up to the next one behind it. With a backend whose
    /// windows load a root, in the other half ([`Paging::window_root`](crate::Paging::window_root)).
    #[inline(always)]
    fn alias(&self) -> Option<VirtAddr> {
        None
    }

    /// What to add, wrapping, to an address in a [`table`](Self::table) to get to its alias. A model may have its alias elsewhere than at
    /// the address that its tables give it.
    #[inline(always)]
    fn to_alias(&self) -> usize {
        self.alias().map_or(0, |alias| alias.0.wrapping_sub(self.memory().linear.0) as usize)
    }

    /// The address itself, on a machine whose MMU translates kernel addresses by these tables; `None` in a model.
    #[inline(always)]
    fn direct(&self, va: VirtAddr) -> Option<NonNull<u8>> {
        let _ = va;
        None
    }

    /// Where the types of frames begin, in modes that check. It is filled when page tables are built, and a kernel keeps it where it is
    /// read-only from then on: whoever can change it decides what is a page table.
    fn anchor(&self) -> &Anchor<Self::Format>;

    /// What becomes of leaves that their frames' types do not admit. Asked once, when the types are made; the answer lies in the [`anchor`](Self::anchor).
    fn violations(&self) -> Violations {
        Violations::Enforce
    }

    /// A store was refused, or is [audited](Violations::Audit): to be counted and logged. Called with the window closed; what one window
    /// met last is reported, if there was more. Callers of the operation may hold locks, so that this must neither wait for one of theirs nor change page tables.
    #[cold]
    fn report(&self, violation: &Violation) {
        let _ = violation;
    }

    /// Whether windows are gates whatever a section says: asked before anything that would keep one open longer. A kernel answers from memory that
    /// is read-only since it started.
    #[inline(always)]
    fn has_gates(&self) -> bool {
        false
    }

    /// Turns interrupts off on this CPU and returns whether they were on. A gate, which is what a window of mode `fused` is, is
    /// open only while they are off. A model has none.
    #[inline(always)]
    fn interrupts_off(&self) -> bool {
        false
    }

    /// Turns interrupts on again, where [`interrupts_off`](Self::interrupts_off) found them on.
    #[inline(always)]
    fn interrupts_on(&self) {}

    /// Makes stored valid kernel entries visible to table walks and synchronises this CPU (arm64: DSB ISHST, ISB). Also
    /// makes an earlier register write effective. Called only where the format wants it.
    fn entry_barrier(&self);

    /// Invalidates translations on every CPU. Also makes entries stored before, valid ones too, visible to table walks, and
    /// synchronises this CPU, as [`entry_barrier`](Self::entry_barrier) does.
    fn flush_tlb(&self, flush: Flush<Self::Format>);

    /// Waits until every other CPU has been outside of any gate at some moment since the call, and orders what it then does after what this
    /// CPU stored before: an interrupt to each, which a gate holds back. Returns false if the machine has no such means: then
    /// memory that was ever mapped cannot become a page table in modes that check.
    ///
    /// By default a machine has it if it has one CPU.
    #[inline]
    fn wait_for_gates(&self) -> bool {
        self.cpus() == 1
    }

    /// The number of the calling CPU.
    fn cpu(&self) -> usize;

    /// How many CPUs there are.
    fn cpus(&self) -> usize;
}

/// Where frames for page-table pages come from: naturally aligned blocks of `1 << order` frames.
pub trait Frames: Sync {
    /// A block, its contents undefined, or `None` if there is none.
    fn allocate(&self, order: u8) -> Option<PhysAddr>;

    /// Takes back a block that [`allocate`](Self::allocate) returned, with the same order.
    ///
    /// # Safety
    ///
    /// Nothing refers to the block any more: no table, no TLB, no owner.
    unsafe fn release(&self, block: PhysAddr, order: u8);
}
