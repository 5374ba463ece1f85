//! What was unmapped on one CPU is gone on all of them.

use crate::arch::time;
use crate::arch::{Flush, PageRange};
use crate::evidence::probe;
use crate::memory::paging::{memories, user};
use crate::{arch, cpu, ensure, kernel_test, sched};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use kpkeys_mm::{AddressSpace, MapFlags};
use kpkeys_pgtable::{Attrs, Format as _, PhysAddr, VirtAddr};

const USER: VirtAddr = VirtAddr(0x60_0000_0000);

/// How long one waits for all CPUs: emulated ones share a few of the host's.
fn patience() -> Duration {
    Duration::from_secs(5 + cpu::online().count() as u64)
}

/// What `f` returns on each CPU, one after the other.
fn on_every_cpu<R: Send + 'static>(
    f: impl Fn() -> R + Clone + Send + 'static,
) -> Result<Vec<R>, String> {
    cpu::online()
        .map(|target| {
            let f = f.clone();
            let thread = sched::spawn("visitor", Some(target.id), f);
            thread.map(sched::JoinHandle::join).map_err(|error| error.to_string())
        })
        .collect()
}

/// Maps a page of the vmalloc area to another frame, flushes, and returns the frame it was mapped to.
fn remap(range: PageRange, to: PhysAddr) -> Result<PhysAddr, String> {
    let paging = memories().paging();
    let section = paging.section(paging.kernel());
    let mut before = None;
    let unmapped = paging.unmap(&section, paging.kernel(), range, |_, level, entry| {
        before = Some(arch::Format::frame(level, entry));
    });
    unmapped.map_err(|error| error.to_string())?;
    paging.flush(Flush::Kernel(range));
    paging
        .map(&section, paging.kernel(), range, Attrs::KERNEL_DATA, |_| to)
        .map_err(|error| error.to_string())?;
    before.ok_or_else(|| "the page was not mapped".to_string())
}

kernel_test! {
    /// A kernel page that is mapped elsewhere is seen so by every CPU that has used it before.
    fn kernel_pages_change_for_every_cpu() {
        let failed = |error: kpkeys_mm::Error| error.to_string();
        let (one, other) = (memories().vmalloc(1).map_err(failed)?, memories().vmalloc(1).map_err(failed)?);
        for (at, value) in [(one, 1), (other, 2)] {
            // SAFETY: the areas are this test's.
            unsafe { probe::store_u64(at.0 as *mut u64, value) }.map_err(|fault| fault.to_string())?;
        }
        let look = move || probe::load_u64(one.0 as *const u64);
        let before = on_every_cpu(look)?;
        let range = |at| PageRange::new(at, 1).map_err(|error| error.to_string());
        let (_, _, entry) = memories().paging().walk(memories().paging().kernel(), other).ok_or("not mapped")?;
        let frame = arch::Format::frame(kpkeys_pgtable::Level::Pte, entry);
        let own = remap(range(one)?, frame)?;
        let after = on_every_cpu(look)?;
        remap(range(one)?, own)?;
        memories().vfree(one).and_then(|()| memories().vfree(other)).map_err(failed)?;
        ensure!(before.iter().all(|seen| *seen == Ok(1)), "before: {before:?}");
        ensure!(after.iter().all(|seen| *seen == Ok(2)), "after: {after:?}");
    }

    /// A user page that is taken away on one CPU is gone on all others, in the middle of using it: the address space stays loaded there.
    fn user_pages_go_on_every_cpu() {
        static READING: AtomicUsize = AtomicUsize::new(0);
        READING.store(0, Ordering::Relaxed);
        let failed = |error: kpkeys_mm::Error| error.to_string();
        let range = PageRange::new(USER, 1).map_err(|error| error.to_string())?;
        let mut space = AddressSpace::new(memories()).map_err(failed)?;
        space.mmap(range, MapFlags::DATA).map_err(failed)?;
        user::write(&mut space, USER, 5).map_err(failed)?;
        let root = space.root().frame();
        let read_until_gone = || {
            let end = time::since_boot() + patience();
            let first = probe::load_user_u64(USER.0 as *const u64);
            READING.fetch_add(1, Ordering::Relaxed);
            while probe::load_user_u64(USER.0 as *const u64).is_ok() {
                if time::since_boot() > end {
                    return Err("it can still be read".to_string());
                }
            }
            (first == Ok(5)).then_some(()).ok_or_else(|| alloc::format!("it first held {first:?}"))
        };
        let here = cpu::this().id;
        let readers: Result<Vec<_>, _> = cpu::online()
            .filter(|cpu| cpu.id != here)
            // SAFETY: the address space outlives the threads, which are joined.
            .map(|cpu| sched::spawn("reader", Some(cpu.id), move || unsafe { user::in_space(root, read_until_gone) }))
            .collect();
        let readers = readers.map_err(|error| error.to_string())?;
        let end = time::since_boot() + patience();
        while READING.load(Ordering::Relaxed) < readers.len() && time::since_boot() < end {
            arch::irq::relax();
        }
        space.discard(range);
        for reader in readers {
            reader.join()?;
        }
    }
}
