//! The first machine, of the book's chapter of this name: what a kernel writes to have its page tables protected, from nothing to an attack that is blocked.
//!
//! The chapter takes this file piece by piece, in its order.

// ANCHOR: uses
use std::alloc::{Layout, alloc_zeroed};
use std::error::Error;
use std::ptr::NonNull;
use std::sync::Mutex;

use kpkeys::Pkey;
use kpkeys::encoding::Pkrs;
use kpkeys::keyed::{Keyed, Register};
use kpkeys_hosted::mmu::{Fault, Mmu};
use kpkeys_hosted::register::MockRegister;
use kpkeys_pgtable::entry::X86_64;
use kpkeys_pgtable::guarded::Anchor;
use kpkeys_pgtable::{
    Attrs, Config, Flush, Format, Frames, Machine, Memory, Mode, NoProbe, PageRange, Paging,
    PhysAddr, VirtAddr,
};
// ANCHOR_END: uses

// ANCHOR: memory
/// What the linear map covers: 16 MiB of RAM from 4 GiB up, at an address in the kernel's half.
const MEMORY: Memory<X86_64> =
    Memory::new(PhysAddr(0x1_0000_0000), 4096, VirtAddr(0xffff_8880_0000_0000));

/// RAM: in a kernel it is there, here it is a piece of this process that is never given back.
fn ram() -> NonNull<u8> {
    let bytes = MEMORY.pages * X86_64::PAGE_SIZE as usize;
    let layout =
        Layout::from_size_align(bytes, X86_64::PAGE_SIZE as usize).expect("a sound layout");
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { alloc_zeroed(layout) }).expect("16 MiB")
}
// ANCHOR_END: memory

// ANCHOR: frames
/// The frame allocator: blocks in order, and those that came back first. Yours is better.
struct MyFrames {
    state: Mutex<(PhysAddr, Vec<(PhysAddr, u8)>)>,
}

impl MyFrames {
    fn new() -> Self {
        MyFrames { state: Mutex::new((MEMORY.start, Vec::new())) }
    }
}

impl Frames for MyFrames {
    fn allocate(&self, order: u8) -> Option<PhysAddr> {
        let (next, returned) = &mut *self.state.lock().ok()?;
        if let Some(index) = returned.iter().position(|&(_, size)| size == order) {
            return Some(returned.swap_remove(index).0);
        }
        let pages = 1 << order;
        let block = PhysAddr(next.0.next_multiple_of(pages as u64 * X86_64::PAGE_SIZE));
        if !MEMORY.contains(block, pages) {
            return None;
        }
        *next = block.offset(pages as u64 * X86_64::PAGE_SIZE);
        Some(block)
    }

    unsafe fn release(&self, block: PhysAddr, order: u8) {
        if let Ok(mut state) = self.state.lock() {
            state.1.push((block, order));
        }
    }
}
// ANCHOR_END: frames

// ANCHOR: machine
/// The protection register and how it spells keys. On hardware: `kpkeys::pks::Pks`, or `Poe`, or `Pan`.
type MyBackend = Keyed<MockRegister, Pkrs>;

struct MyMachine {
    ram: NonNull<u8>,
    backend: MyBackend,
    anchor: Anchor<X86_64>,
}

// SAFETY: the RAM is this machine's and is never given back.
unsafe impl Sync for MyMachine {}

impl MyMachine {
    fn new() -> Self {
        let backend = Keyed::new(MockRegister::detect());
        // Every managed key is read-only from here on. On hardware `Pks::init` does it, on each CPU.
        backend.reset();
        MyMachine { ram: ram(), backend, anchor: Anchor::new() }
    }
}

// SAFETY:
// - tables and data: every frame of `MEMORY` is in the RAM, which is page-aligned, readable, writable and never given back;
// - barriers and flushes: nothing walks these tables but code of this one CPU, so there is nothing to wait for;
// - cpu: there is one.
unsafe impl Machine for MyMachine {
    type Format = X86_64;
    type Backend = MyBackend;
    type Probe = NoProbe;

    fn backend(&self) -> &MyBackend {
        &self.backend
    }

    fn probe(&self) -> &NoProbe {
        &NoProbe
    }

    fn memory(&self) -> Memory<X86_64> {
        MEMORY
    }

    /// In a kernel: `MEMORY.linear_address(frame)` as a pointer.
    fn table(&self, frame: PhysAddr) -> NonNull<u8> {
        // SAFETY: the caller's promise is that the frame is in `MEMORY`, and so in the RAM.
        unsafe { self.ram.add((frame.0 - MEMORY.start.0) as usize) }
    }

    /// In a kernel: in a section of its image that becomes read-only when start is over.
    fn anchor(&self) -> &Anchor<X86_64> {
        &self.anchor
    }

    /// arm64: DSB ISHST, ISB.
    fn entry_barrier(&self) {}

    /// In a kernel: INVLPG or TLBI here, and an interrupt to the other CPUs.
    fn flush_tlb(&self, _flush: Flush<X86_64>) {}

    fn cpu(&self) -> usize {
        0
    }

    fn cpus(&self) -> usize {
        1
    }
}
// ANCHOR_END: machine

// ANCHOR: boot
fn boot(mode: Mode) -> Result<Paging<MyMachine, MyFrames>, kpkeys_pgtable::Error> {
    let paging = Paging::new(MyMachine::new(), MyFrames::new(), Config::of(mode))?;
    // A kernel loads `paging.kernel().frame()` into CR3 (arm64: TTBR1_EL1) here, on each CPU.
    paging.enable_protection()?;
    Ok(paging)
}
// ANCHOR_END: boot

// ANCHOR: map
/// Maps the local APIC's registers: one operation, and one window for its stores.
fn map_a_device(paging: &Paging<MyMachine, MyFrames>) -> Result<(), kpkeys_pgtable::Error> {
    let root = paging.kernel();
    let range = PageRange::new(VirtAddr(0xffff_d000_0000_0000), 1)?;
    let section = paging.section(root);
    paging.map(&section, root, range, Attrs::DEVICE, |_| PhysAddr(0xfee0_0000))?;
    drop(section);
    assert_eq!(paging.translate(root, range.start()), Some(PhysAddr(0xfee0_0000)));
    Ok(())
}
// ANCHOR_END: map

// ANCHOR: attack
/// A stray store to the kernel's root table, through the linear map, by a CPU whose register is what it is now.
fn attack(paging: &Paging<MyMachine, MyFrames>) -> Result<(), Fault> {
    let root = paging.kernel().frame();
    let cpu = Mmu::new(paging.machine(), root, None, MockRegister::detect().read());
    cpu.store(MEMORY.linear_address(root), 0)
}
// ANCHOR_END: attack

// ANCHOR: main
fn main() -> Result<(), Box<dyn Error>> {
    let open = boot(Mode::Off)?;
    assert_eq!(attack(&open), Ok(()));
    println!("off:   the store changed the root table");

    let hardened = boot(Mode::Fused)?;
    map_a_device(&hardened)?;
    let blocked = attack(&hardened);
    assert_eq!(blocked, Err(Fault::Key(Pkey::PAGE_TABLES)));
    println!("fused: the store faulted: {blocked:?}");
    Ok(())
}
// ANCHOR_END: main
