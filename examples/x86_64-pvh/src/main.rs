//! A kernel on the `x86_64` crate: it sets up paging as that crate's users do, then hardens the tables it has, and attacks them.
#![no_std]
#![no_main]

use core::arch::global_asm;
use core::fmt::Write;

use kpkeys::Backend;
use kpkeys::pks::Pks;
use kpkeys::smap::Smap;
use kpkeys_x86_64::{LinearMap, OneCpu, Protection};
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550Tty};
use x86_64::instructions::{hlt, port::Port, tlb};
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::paging::frame::PhysFrameRange;
use x86_64::structures::paging::page_table::PageTableEntry;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags as Flags, PhysFrame,
    Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

global_asm!(include_str!("boot.s"), options(att_syntax));

/// What `run.sh` gives the machine.
const MEMORY: u64 = 128 << 20;
/// Where all memory is mapped.
const OFFSET: u64 = 0xffff_8000_0000_0000;
/// Where it is mapped a second time, if the CPU protects tables by SMAP.
const ALIAS: u64 = 0xffff_a000_0000_0000;
/// Pages that attacks want to move elsewhere: mapped before and after protection is on.
const PAGES: [u64; 2] = [0xffff_c000_0000_0000, 0xffff_d000_0000_0000];

/// Error codes of page faults: present and a write; refused by the key, or by the page being read-only or SMAP.
const BLOCKED: [u64; 2] = [0x23, 0x03];

const DATA: Flags = Flags::PRESENT.union(Flags::WRITABLE).union(Flags::NO_EXECUTE);

static mut IDT: InterruptDescriptorTable = InterruptDescriptorTable::new();

// SAFETY: as defined in `boot.s` and `kernel.ld`.
unsafe extern "C" {
    static image_start: u8;
    static image_text_end: u8;
    static image_end: u8;
    fn page_fault();
    fn store_or_fault(address: u64, value: u64) -> u64;
}

/// Frames behind the image, each once.
struct Frames(PhysFrameRange);

// SAFETY: a range hands out each frame once, and nobody else uses memory behind the image.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0.next()
    }
}

fn frame(address: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(address))
}

fn page(address: u64) -> Page {
    Page::containing_address(VirtAddr::new(address))
}

#[unsafe(no_mangle)]
extern "C" fn kernel_main() -> ! {
    let mut log = serial();
    let _ = writeln!(log, "x86_64-pvh: {} MiB of memory, mapped at {OFFSET:#x}", MEMORY >> 20);
    let done = run(&mut log).is_some();
    let _ = writeln!(log, "{}", if done { "as promised" } else { "NOT as promised" });
    exit(if done { 16 } else { 17 })
}

/// `None` if something is not as promised.
fn run(log: &mut impl Write) -> Option<()> {
    let mut frames = Frames(PhysFrame::range(frame(&raw const image_end as u64), frame(MEMORY)));
    let [ours, other] = [frames.allocate_frame()?, frames.allocate_frame()?];

    // As any kernel on the crate: tables, memory at an offset, a page.
    let root = set_up_paging(&mut frames)?;
    // SAFETY: memory is mapped at the offset, and this is the only mapper.
    let mut bare =
        unsafe { OffsetPageTable::new(&mut *pointer(root).cast(), VirtAddr::new(OFFSET)) };
    // SAFETY: nothing is mapped there.
    unsafe { bare.map_to(page(PAGES[0]), ours, DATA, &mut frames) }.ok()?.flush();
    let targets = [
        ("a page's entry", PAGES[0], 1, Some(other)),
        ("the root", PAGES[0], 4, None),
        ("the linear map's entry for the root", pointer(root) as u64, 1, None),
    ];
    for target in targets {
        expect(attack(log, root, OFFSET, target)? == Outcome::Succeeded)?;
    }
    expect(bare.translate_page(page(PAGES[0])).ok()? == other)?;
    // SAFETY: the page that the attack moved goes back.
    unsafe {
        bare.unmap(page(PAGES[0])).ok()?.1.flush();
        bare.map_to(page(PAGES[0]), ours, DATA, &mut frames).ok()?.flush();
    }

    let memory = LinearMap::new(PhysFrame::range(frame(0), frame(MEMORY)), VirtAddr::new(OFFSET))?;
    // SAFETY: privilege level 0, interrupts are off for ever, and the only handler, of page faults, opens no window.
    if let Ok(pks) = unsafe { Pks::init() } {
        return harden(log, "PKS", pks, memory, root, frames, (&targets, ours, other));
    }
    for address in (0..MEMORY).step_by(2 << 20) {
        let block = PhysFrame::<Size2MiB>::containing_address(PhysAddr::new(address));
        let at = Page::containing_address(VirtAddr::new(ALIAS + address));
        // SAFETY: nothing is mapped there, and no program runs.
        unsafe { bare.map_to(at, block, DATA | Flags::USER_ACCESSIBLE, &mut frames) }.ok()?.flush();
    }
    expect(attack(log, root, ALIAS, targets[1])? == Outcome::Succeeded)?;
    // SAFETY: as above; the handler begins with CLAC, and no program runs.
    let smap = unsafe { Smap::init() }.map_err(|error| writeln!(log, "refused: {error}")).ok()?;
    let memory = memory.with_alias(VirtAddr::new(ALIAS))?;
    harden(log, "SMAP", smap, memory, root, frames, (&targets, ours, other))
}

/// Hardens the tables that are there, goes on with them, and attacks them.
fn harden(
    log: &mut impl Write,
    by: &str,
    backend: impl Backend,
    memory: LinearMap,
    root: PhysFrame,
    mut frames: Frames,
    (targets, ours, other): (&[Target], PhysFrame, PhysFrame),
) -> Option<()> {
    // SAFETY: one CPU, which made the backend; its tables are `root`'s, no other mapper is used any more, and the image's pages hold no tables.
    let adopted = unsafe { Protection::adopt(OneCpu::new(backend), memory, root, &mut frames) };
    let protection = adopted.map_err(|error| writeln!(log, "refused: {error}")).ok()?;
    // SAFETY: the only mapper from here on.
    let mut mapper = unsafe { protection.tables(root) };
    // SAFETY: nothing is mapped there.
    unsafe { mapper.map_to(page(PAGES[1]), ours, DATA, &mut frames) }.ok()?.flush();
    let _ = writeln!(log, "protected by {by}; a page was mapped through the adapter");

    for offset in [Some(OFFSET), (by == "SMAP").then_some(ALIAS)].into_iter().flatten() {
        let made_since = ("an entry of a table made since", PAGES[1], 1, Some(other));
        for target in targets.iter().copied().chain([made_since]) {
            expect(attack(log, root, offset, target)? == Outcome::Blocked)?;
        }
    }
    let found = PAGES.map(|at| mapper.translate_page(page(at)).ok());
    expect(found == [Some(ours); 2])?;
    // SAFETY: the page is this function's.
    unsafe { mapper.update_flags(page(PAGES[1]), Flags::PRESENT) }.ok()?.flush();
    mapper.unmap(page(PAGES[0])).ok()?.1.flush();
    let _ = writeln!(log, "and the adapter still changes them");
    Some(())
}

/// What is attacked: the entry for an address at a level or above, and the frame that it is to lead to instead.
type Target = (&'static str, u64, u32, Option<PhysFrame>);

/// What came of a stray store.
#[derive(PartialEq)]
enum Outcome {
    Succeeded,
    Blocked,
}

/// A stray store to the entry that `root`'s tables have for an address at a level, or above, at a block: of one for another frame, or of the same;
/// where memory is mapped at an offset. `None` if it faulted for another reason than protection.
fn attack(
    log: &mut impl Write,
    root: PhysFrame,
    offset: u64,
    (what, address, lowest, target): Target,
) -> Option<Outcome> {
    let (mut table, mut level) = (root, 4);
    let entry = loop {
        let entry = pointer(table).wrapping_add((address >> (3 + 9 * level)) as usize & 511);
        // SAFETY: an entry of a table of the root's, in the linear map.
        let next = unsafe { (*entry.cast::<PageTableEntry>()).frame() };
        match next {
            Ok(next) if level > lowest => (table, level) = (next, level - 1),
            _ => break entry,
        }
    };
    // SAFETY: as above.
    let same = unsafe { *entry };
    let value = target.map_or(same, |frame| frame.start_address().as_u64() | DATA.bits());
    // SAFETY: a store that does no harm, or one that only moves a page that nobody uses.
    let fault = unsafe { store_or_fault(entry as u64 - OFFSET + offset, value) };
    tlb::flush(VirtAddr::new(address));
    let by = if offset == OFFSET { "" } else { ", by the alias" };
    let _ = write!(log, "  stray store to {what}{by}: ");
    let outcome = match fault {
        0 => Outcome::Succeeded,
        fault => BLOCKED.contains(&fault).then_some(Outcome::Blocked)?,
    };
    let _ = match outcome {
        Outcome::Succeeded => writeln!(log, "succeeded"),
        Outcome::Blocked => writeln!(log, "blocked: page fault, error code {fault:#04x}"),
    };
    Some(outcome)
}

/// Memory at its offset in blocks, and the image where it is, in pages. The boot tables map both one to one until then.
fn set_up_paging(frames: &mut Frames) -> Option<PhysFrame> {
    let root = frames.allocate_frame()?;
    // SAFETY: the frame is unused, and mapped one to one so far.
    let mut mapper = unsafe {
        let table = root.start_address().as_u64() as *mut PageTable;
        table.write(PageTable::new());
        OffsetPageTable::new(&mut *table, VirtAddr::new(0))
    };
    for address in (0..MEMORY).step_by(2 << 20) {
        let block = PhysFrame::<Size2MiB>::containing_address(PhysAddr::new(address));
        let at = Page::containing_address(VirtAddr::new(OFFSET + address));
        // SAFETY: these tables are not in use yet, here and below.
        unsafe { mapper.map_to(at, block, DATA, frames) }.ok()?.ignore();
    }
    let [start, text_end, end] =
        [&raw const image_start, &raw const image_text_end, &raw const image_end];
    for address in (start as u64..end as u64).step_by(4096) {
        let flags = if address < text_end as u64 { Flags::PRESENT } else { DATA };
        // SAFETY: as above.
        unsafe { mapper.identity_map(frame(address), flags, frames) }.ok()?.ignore();
    }
    // SAFETY: the image, its stack included, is where it was; the table of handlers is written here alone.
    unsafe {
        Cr3::write(root, Cr3Flags::empty());
        let idt = (&raw mut IDT).as_mut()?;
        idt.page_fault.set_handler_addr(VirtAddr::new(page_fault as *const () as u64));
        idt.load();
    }
    Some(root)
}

/// Where a frame is mapped.
fn pointer(frame: PhysFrame) -> *mut u64 {
    (OFFSET + frame.start_address().as_u64()) as *mut u64
}

fn expect(holds: bool) -> Option<()> {
    holds.then_some(())
}

fn serial() -> Uart16550Tty<PioBackend> {
    // SAFETY: COM1 of a PC, and one user at a time.
    unsafe { Uart16550Tty::new_port(0x3f8, Config::default()) }.unwrap_or_else(|_| exit(17))
}

#[unsafe(no_mangle)]
extern "C" fn unexpected_fault(code: u64, instruction: u64, address: u64) -> ! {
    let _ = writeln!(serial(), "page fault {code:#x} at {instruction:#x}, of {address:#x}");
    exit(17)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(serial(), "{info}");
    exit(17)
}

fn exit(status: u32) -> ! {
    // SAFETY: QEMU's exit device.
    unsafe { Port::<u32>::new(0xf4).write(status) };
    loop {
        hlt();
    }
}
