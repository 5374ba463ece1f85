//! The same calls through the bare crate and through the adapter, without a register: what the adapter's own code costs.
//!
//! `overhead bare|hardened|batch PAGES`, each page mapped, changed and unmapped. Instructions a page are the difference of two runs:
//!
//! ```console
//! $ cargo build --release -p kpkeys-x86_64 --example overhead
//! $ valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/examples/overhead hardened 200000
//! ```

use std::alloc::{Layout, alloc_zeroed};
use std::process::ExitCode;

use kpkeys::Backend;
use kpkeys::null::Null;
use kpkeys_x86_64::{LinearMap, Machine, Protection};
use x86_64::structures::paging::frame::PhysFrameRange;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

const MEMORY_PAGES: usize = 1024;
const FLAGS: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);
/// Pages that are mapped before the first of them is changed.
const RUN: u64 = 512;
const START: u64 = 0xffff_c900_0000_0000;

struct NoRegister(Null);

// SAFETY: no CPU uses the tables.
unsafe impl Machine for NoRegister {
    type Backend = Null;

    fn backend(&self) -> &Null {
        &self.0
    }

    fn flush_all(&self) {}

    fn without_interrupts<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }
}

struct Frames(PhysFrameRange);

// SAFETY: each frame of the range is handed out once.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0.next()
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [who, pages] = arguments.as_slice() else { return usage() };
    let Ok(pages) = pages.parse() else { return usage() };
    let layout = Layout::from_size_align(MEMORY_PAGES << 12, 4096).expect("a possible layout");
    // SAFETY: the layout is not empty.
    let memory = unsafe { alloc_zeroed(layout) }.expose_provenance() as u64;
    let frame = |at: u64| PhysFrame::containing_address(PhysAddr::new(at));
    let all = PhysFrame::range(frame(memory), frame(memory + ((MEMORY_PAGES as u64) << 12)));
    let mut frames = Frames(all);
    let Some(root) = frames.allocate_frame() else { return usage() };
    // SAFETY: an empty page, which becomes the root; addresses here are addresses of this process.
    let mut bare =
        unsafe { OffsetPageTable::new(&mut *(memory as *mut PageTable), VirtAddr::zero()) };
    for frame in all {
        // SAFETY: no CPU uses these tables.
        unsafe { bare.identity_map(frame, FLAGS, &mut frames) }.expect("an empty place").ignore();
    }
    if who == "bare" {
        calls(&mut bare, &mut frames, pages);
        return ExitCode::SUCCESS;
    }
    let Some(map) = LinearMap::new(all, VirtAddr::zero()) else { return usage() };
    let machine = NoRegister(Null::new());
    assert!(!machine.backend().has_register());
    // SAFETY: the root of tables that `bare` does not change any more; memory is mapped one to one.
    let protection = unsafe { Protection::adopt(machine, map, root, &mut frames) };
    let protection = protection.expect("plain tables are adopted");
    // SAFETY: the only mapper.
    let mut hardened = unsafe { protection.tables(root) };
    match who.as_str() {
        "hardened" => calls(&mut hardened, &mut frames, pages),
        "batch" => {
            for first in (0..pages).step_by(RUN as usize) {
                let range = Page::range(page(first), page(first) + RUN);
                let tables = hardened.tables_for(range);
                // SAFETY: no CPU uses these tables; calls of the batch alone.
                let done = unsafe {
                    hardened.batch(tables, &mut frames, |batch| {
                        for page in range {
                            batch.map_to(page, target(), FLAGS).expect("mapped").ignore();
                        }
                        for page in range {
                            let changed = batch.update_flags(page, PageTableFlags::PRESENT);
                            changed.expect("changed").ignore();
                        }
                        for page in range {
                            batch.unmap(page).expect("unmapped").1.ignore();
                        }
                    })
                };
                done.expect("there are frames for tables");
            }
        }
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: overhead bare|hardened|batch PAGES");
    ExitCode::from(2)
}

fn page(number: u64) -> Page {
    Page::containing_address(VirtAddr::new(START + (number << 12)))
}

fn target() -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(0x1000))
}

fn calls(mapper: &mut impl Mapper<Size4KiB>, frames: &mut Frames, pages: u64) {
    for first in (0..pages).step_by(RUN as usize) {
        let range = Page::range(page(first), page(first) + RUN);
        for page in range {
            // SAFETY: no CPU uses these tables, here and below.
            unsafe { mapper.map_to(page, target(), FLAGS, frames) }.expect("mapped").ignore();
        }
        for page in range {
            // SAFETY: as above.
            unsafe { mapper.update_flags(page, PageTableFlags::PRESENT) }
                .expect("changed")
                .ignore();
        }
        for page in range {
            mapper.unmap(page).expect("unmapped").1.ignore();
        }
    }
}
