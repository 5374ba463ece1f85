//! What was unmapped belongs to nobody else while a CPU still reaches it.

use crate::arch::PageRange;
use crate::arch::time;
use crate::evidence::probe;
use crate::lock::IrqsOff;
use crate::memory::boot::PAGE_SIZE;
use crate::memory::paging::{memories, user};
use crate::{arch, cpu, ensure, kernel_test, sched, skip};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use kpkeys_mm::{AddressSpace, MapFlags};
use kpkeys_pgtable::{Machine, VirtAddr};

/// So many touched pages, and one more elsewhere, that an unmap frees some before it is through.
const FIRST_PAGES: usize = 9_488;
/// What else the test takes, at most.
const SPARE_PAGES: usize = 1_000;
const FIRST: VirtAddr = VirtAddr(0x60_0000_0000);
const SECOND: VirtAddr = VirtAddr(0x60_4000_0000);
const OWN: u64 = 5;
const STOLEN: u64 = 0x5704_1e47;
const PATIENCE: Duration = Duration::from_secs(20);
/// For how long the reader answers no flush.
const DEAF: Duration = Duration::from_millis(300);

static READING: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);

/// Reads both mappings until the second goes, and from then on, deaf to interrupts, what is left of the first. The error is what it reads
/// there that is not the mapping's.
fn read_to_the_end() -> Result<(), u64> {
    let read = |va: VirtAddr| probe::load_user_u64(va.0 as *const u64);
    let end = time::since_boot() + PATIENCE;
    while read(SECOND).is_ok() && time::since_boot() < end {
        let _ = read(FIRST);
        READING.store(true, Ordering::Relaxed);
    }
    let _deaf = IrqsOff::new();
    let end = time::since_boot() + DEAF;
    while let Ok(value) = read(FIRST)
        && time::since_boot() < end
    {
        if value != OWN {
            return Err(value);
        }
    }
    Ok(())
}

/// Pages of the area that is freed.
const AREA_PAGES: usize = 64;
static GOING: AtomicBool = AtomicBool::new(false);
static IS_DEAF: AtomicBool = AtomicBool::new(false);

/// Reads an area until told that it goes, and from then on deaf to interrupts. The error is what it reads there that is not the area's.
fn read_area_to_the_end(area: VirtAddr) -> Result<(), u64> {
    let read = || {
        let mut pages =
            (0..AREA_PAGES).map(|page| area.offset_pages::<arch::Format>(page).0 as *const u64);
        pages.try_for_each(|page| match probe::load_u64(page) {
            Ok(value) if value != OWN => Err(value),
            _ => Ok(()),
        })
    };
    let end = time::since_boot() + PATIENCE;
    while !GOING.load(Ordering::Relaxed) && time::since_boot() < end {
        read()?;
        READING.store(true, Ordering::Relaxed);
    }
    let _deaf = IrqsOff::new();
    IS_DEAF.store(true, Ordering::Relaxed);
    let end = time::since_boot() + DEAF;
    while time::since_boot() < end {
        read()?;
    }
    Ok(())
}

/// Waits until another CPU has said something, but not for ever.
fn wait_for(flag: &AtomicBool) {
    let end = time::since_boot() + PATIENCE;
    while !flag.load(Ordering::Relaxed) && time::since_boot() < end {
        arch::irq::relax();
    }
}

/// Takes every frame that is free, and marks it, until told to stop.
fn take_what_is_free() {
    let frames = memories().frames();
    let mut taken = Vec::new();
    while !STOP.load(Ordering::Relaxed) {
        while taken.try_reserve(1).is_ok()
            && let Ok(frame) = frames.new_frame()
        {
            let data = memories().machine().data(frame.address()).cast::<u64>();
            // SAFETY: a frame of data that was just allocated, so it is this thread's.
            unsafe { data.write_volatile(STOLEN) };
            taken.push(frame);
        }
        taken.drain(..).for_each(|frame| frames.free_frame(frame));
    }
}

kernel_test! {
    /// Two mappings are unmapped at once while another CPU reads both and a third takes whatever is free: the reader finds each page its own
    /// or gone. (With fewer CPUs nobody is there to read, or to take.)
    fn unmapped_pages_are_nobody_elses_while_a_cpu_reaches_them() {
        let failed = |error: kpkeys_mm::Error| error.to_string();
        let others: Vec<_> = cpu::online().filter(|cpu| cpu.id != cpu::this().id).collect();
        let [reader, thief, ..] = others[..] else { return Ok(()) };
        let free = memories().frames().free_frames();
        if free < FIRST_PAGES + SPARE_PAGES {
            skip!("{FIRST_PAGES} pages to unmap at once are more memory than the {free} that are free");
            return Ok(());
        }
        READING.store(false, Ordering::Relaxed);
        STOP.store(false, Ordering::Relaxed);
        let mut space = AddressSpace::new(memories()).map_err(failed)?;
        for (start, pages) in [(FIRST, FIRST_PAGES), (SECOND, 1)] {
            let range = PageRange::new(start, pages).map_err(|error| error.to_string())?;
            space.mmap(range, MapFlags::HUGE_DATA).map_err(failed)?;
            space.populate(range).map_err(failed)?;
            user::write(&mut space, start, OWN).map_err(failed)?;
        }
        let pages = ((SECOND.0 - FIRST.0) / PAGE_SIZE) as usize + 1;
        let both = PageRange::new(FIRST, pages).map_err(|error| error.to_string())?;
        let root = space.root().frame();
        // SAFETY: the address space outlives the thread, which is joined.
        let read = move || unsafe { user::in_space(root, read_to_the_end) };
        let reading = sched::spawn("reader", Some(reader.id), read).map_err(|error| error.to_string())?;
        let taking = sched::spawn("thief", Some(thief.id), take_what_is_free);
        wait_for(&READING);
        let unmapped = space.munmap(both).map_err(failed);
        let read = reading.join();
        STOP.store(true, Ordering::Relaxed);
        taking.map_err(|error| error.to_string())?.join();
        unmapped?;
        ensure!(READING.load(Ordering::Relaxed), "the reader never read");
        ensure!(read.is_ok(), "a page that it still reached held {read:x?}: it was freed before the flush");
    }

    /// The same for an area: its frames are free once every CPU has flushed it, however long one is deaf.
    fn freed_areas_are_nobody_elses_while_a_cpu_reaches_them() {
        let failed = |error: kpkeys_mm::Error| error.to_string();
        let others: Vec<_> = cpu::online().filter(|cpu| cpu.id != cpu::this().id).collect();
        let [reader, thief, ..] = others[..] else { return Ok(()) };
        for flag in [&READING, &STOP, &GOING, &IS_DEAF] {
            flag.store(false, Ordering::Relaxed);
        }
        let kernel = memories();
        let area = kernel.vmalloc(AREA_PAGES).map_err(failed)?;
        for page in 0..AREA_PAGES {
            let page = area.offset_pages::<arch::Format>(page).0 as *mut u64;
            // SAFETY: a page of the area, which nobody else knows yet.
            unsafe { page.write_volatile(OWN) };
        }
        let read = move || read_area_to_the_end(area);
        let reading = sched::spawn("reader", Some(reader.id), read).map_err(|error| error.to_string())?;
        wait_for(&READING);
        let taking = sched::spawn("thief", Some(thief.id), take_what_is_free);
        GOING.store(true, Ordering::Relaxed);
        wait_for(&IS_DEAF);
        let freed = kernel.vfree(area).map_err(failed);
        kernel.purge_vmalloc();
        let read = reading.join();
        STOP.store(true, Ordering::Relaxed);
        taking.map_err(|error| error.to_string())?.join();
        freed?;
        ensure!(IS_DEAF.load(Ordering::Relaxed), "the reader never read");
        ensure!(read.is_ok(), "a page that it still reached held {read:x?}: it was freed before the flush");
    }
}
