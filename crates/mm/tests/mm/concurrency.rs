//! Several CPUs at once on one kernel, each a thread with a register of its own.

use std::collections::BTreeMap;
use std::sync::Mutex;

use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::boot::Counted;
use kpkeys_hosted::cpu::become_cpu;
use kpkeys_hosted::mmu::{Mmu, Privilege, Want};
use kpkeys_mm::{AddressSpace, Kernel, MapFlags};
use kpkeys_pgtable::{Event, Machine, Mode, VirtAddr};

use crate::support::{
    PAGE_SIZE, assert_every_frame_accounted_for, for_both_formats, of_cpus, range,
};

const CPUS: usize = 4;
const PAGES: usize = 1 << 14;
const ROUNDS: usize = 400;

/// Runs `work` on every CPU of a machine in every mode, then checks the tables and accounts for every frame.
fn on_all_cpus<F: HostedFormat>(work: impl Fn(&Kernel<Counted<F>>, usize) + Sync) {
    for mode in Mode::ALL {
        let kernel = of_cpus::<F>(mode, PAGES, CPUS);
        std::thread::scope(|scope| {
            for cpu in 0..CPUS {
                let (kernel, work) = (&kernel, &work);
                scope.spawn(move || {
                    become_cpu(cpu);
                    kernel.machine().backend().reset();
                    work(kernel, cpu);
                });
            }
        });
        kernel.purge_vmalloc();
        let counts = kernel.machine().probe().read();
        assert_eq!(counts.of(Event::WindowOpened), counts.of(Event::WindowClosed), "{mode:?}");
        assert_every_frame_accounted_for(&kernel, &[], 0);
    }
}

/// Areas that are in use now, by start: no two may overlap.
#[derive(Default)]
struct InUse(Mutex<BTreeMap<u64, u64>>);

impl InUse {
    fn claim(&self, start: VirtAddr, pages: usize) {
        let end = start.offset(pages as u64 * PAGE_SIZE).0;
        let mut areas = self.0.lock().expect("no thread has panicked");
        let below = areas.range(..end).next_back();
        assert!(below.is_none_or(|(_, &other)| other <= start.0), "{start:?} was handed out twice");
        areas.insert(start.0, end);
    }

    fn give_up(&self, start: VirtAddr) {
        self.0.lock().expect("no thread has panicked").remove(&start.0);
    }
}

fn areas_are_handed_out_once<F: HostedFormat>() {
    let in_use = InUse::default();
    on_all_cpus::<F>(|kernel, cpu| {
        let mut live = Vec::new();
        for round in 0..ROUNDS {
            let pages = 1 + (round * 7 + cpu * 13) % 40;
            let area =
                if round % 5 == 0 { kernel.vmalloc_huge(pages) } else { kernel.vmalloc(pages) };
            let area = area.unwrap();
            // The guard page is nobody else's either.
            in_use.claim(area, pages + 1);
            kernel.touch(area).unwrap();
            live.push(area);
            if live.len() > 8 {
                let freed = live.swap_remove(round % live.len());
                in_use.give_up(freed);
                kernel.vfree(freed).unwrap();
            }
            if round % 97 == 0 {
                kernel.purge_vmalloc();
            }
        }
        for area in live {
            in_use.give_up(area);
            kernel.vfree(area).unwrap();
        }
    });
}

/// What one CPU allocated, the next frees.
fn areas_are_freed_on_other_cpus<F: HostedFormat>() {
    let slots: [Mutex<Option<VirtAddr>>; 16] = Default::default();
    on_all_cpus::<F>(|kernel, cpu| {
        for round in 0..2 * ROUNDS {
            let area = kernel.vmalloc(1 + (round + cpu) % 9).unwrap();
            kernel.touch(area).unwrap();
            let slot = &slots[(round * 3 + cpu * 5) % slots.len()];
            if let Some(other) = slot.lock().unwrap().replace(area) {
                kernel.touch(other).unwrap();
                kernel.vfree(other).unwrap();
            }
        }
        // Whoever comes last finds what is left; each finds something or nothing.
        for slot in &slots {
            if let Some(area) = slot.lock().unwrap().take() {
                kernel.vfree(area).unwrap();
            }
        }
    });
}

fn vm_map_ram_slots_are_handed_out_once<F: HostedFormat>() {
    let in_use = InUse::default();
    on_all_cpus::<F>(|kernel, cpu| {
        let owned: Vec<_> = (0..70).map(|_| kernel.frames().new_frame().unwrap()).collect();
        let frames: Vec<_> = owned.iter().map(|frame| frame.address()).collect();
        for round in 0..ROUNDS {
            let pages = if round % 50 == 0 { 70 } else { 1 + (round + cpu) % 64 };
            let mapped = kernel.vm_map_ram(&frames[..pages]).unwrap();
            in_use.claim(mapped, pages);
            kernel.touch(mapped.offset_pages::<F>(pages - 1)).unwrap();
            in_use.give_up(mapped);
            kernel.vm_unmap_ram(mapped, pages).unwrap();
        }
        kernel.purge_vmalloc();
        owned.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
    });
}

/// Each CPU's process keeps its own contents, though frames, page-table pages and folio metadata come from the same places.
fn processes_do_not_disturb_each_other<F: HostedFormat>() {
    on_all_cpus::<F>(|kernel, cpu| {
        for round in 0..ROUNDS as u64 / 8 {
            let memory = range(0x40_0000_0000 + ((round % 3) << 30), 40);
            let mut parent = AddressSpace::new(kernel).unwrap();
            parent.mmap(memory, MapFlags::DATA).unwrap();
            parent.populate(memory).unwrap();
            let word = |space: &AddressSpace<'_, Counted<F>>, page: usize, value: Option<u64>| {
                let va = memory.start().offset_pages::<F>(page);
                let root = Some(space.root().frame());
                let mmu = Mmu::new(kernel.machine(), kernel.paging().kernel().frame(), root, 0);
                let want = if value.is_some() { Want::Write } else { Want::Read };
                let pa = mmu.access(va, want, Privilege::User).unwrap();
                kernel.frames().will_write(pa);
                let word = kernel.machine().data(pa).cast::<u64>();
                // SAFETY: the translation says the page is this process's own, to read, or to write where that is wanted.
                unsafe {
                    if let Some(value) = value {
                        word.write_volatile(value);
                    }
                    word.read_volatile()
                }
            };
            let mark = |page: usize| (cpu as u64) << 32 | round << 16 | page as u64;
            (0..40).for_each(|page| {
                assert_eq!(word(&parent, page, None), 0, "a new page reads as zeroes")
            });
            (0..40).for_each(|page| _ = word(&parent, page, Some(mark(page))));
            let mut child = parent.fork().unwrap();
            for page in (0..40).step_by(3) {
                child.fault(memory.start().offset_pages::<F>(page), true).unwrap();
                word(&child, page, Some(!mark(page)));
            }
            drop(parent);
            for page in 0..40 {
                let expected = if page % 3 == 0 { !mark(page) } else { mark(page) };
                assert_eq!(word(&child, page, None), expected, "page {page} of CPU {cpu}");
            }
        }
    });
}

/// Frames that one CPU gave back wait on its list; another, which finds none left, gets them all the same.
fn frames_on_another_cpus_list_are_not_out_of_memory<F: HostedFormat>() {
    let kernel = of_cpus::<F>(Mode::Off, 1 << 12, 2);
    let mut frames: Vec<_> = std::iter::from_fn(|| kernel.frames().new_frame().ok()).collect();
    frames.drain(..100).for_each(|frame| kernel.frames().free_frame(frame));
    let (kernel, frames) = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            become_cpu(1);
            let area = kernel.vmalloc(90);
            assert!(area.is_ok(), "{area:?}");
            kernel.vfree(area.unwrap()).unwrap();
        });
        other.join().unwrap();
        (&kernel, frames)
    });
    frames.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
    kernel.purge_vmalloc();
    assert_every_frame_accounted_for(kernel, &[], 0);
}

for_both_formats!(
    areas_are_handed_out_once,
    areas_are_freed_on_other_cpus,
    vm_map_ram_slots_are_handed_out_once,
    processes_do_not_disturb_each_other,
    frames_on_another_cpus_list_are_not_out_of_memory,
);
