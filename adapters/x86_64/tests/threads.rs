//! Two CPUs with one machine, each on tables of its own; and a batch that ends half-way.

#[path = "support/per_cpu.rs"]
mod per_cpu;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use kpkeys::encoding::Pkrs;
use kpkeys::keyed::{Keyed, Register};
use kpkeys::{Backend, Pkey, context};
use kpkeys_hosted::mmu::Fault;
use kpkeys_x86_64::{LinearMap, Machine, Protection};
use per_cpu::PerCpu;
use support::{Bare, DATA, Frames, System, contents, device, page, tables};
use x86_64::structures::paging::mapper::{CleanUp, Mapper, MapperFlush};
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, Page, PageTableFlags, PhysFrame, Size4KiB,
};

const BLOCKED: Result<(), Fault> = Err(Fault::Key(Pkey::PAGE_TABLES));
const THREADS: u64 = 2;

struct TwoCpus {
    backend: Keyed<PerCpu<Pkrs>, Pkrs>,
    flushes: AtomicUsize,
}

// SAFETY: there are no TLBs and no interrupts; the register is each thread's own.
unsafe impl Machine for TwoCpus {
    type Backend = Keyed<PerCpu<Pkrs>, Pkrs>;

    fn backend(&self) -> &Self::Backend {
        &self.backend
    }

    fn flush_all(&self) {
        assert!(self.backend.is_in::<context::Default>(), "a flush inside a window");
        self.flushes.fetch_add(1, Ordering::Relaxed);
    }

    fn without_interrupts<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }
}

/// The kernel's allocator, behind its lock.
#[derive(Clone)]
struct Locked(Arc<Mutex<Frames>>);

// SAFETY: the allocator's own promise.
unsafe impl FrameAllocator<Size4KiB> for Locked {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0.lock().unwrap().allocate_frame()
    }
}

impl FrameDeallocator<Size4KiB> for Locked {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        // SAFETY: the caller's promise.
        unsafe { self.0.lock().unwrap().deallocate_frame(frame) };
    }
}

/// Changes tables, the same whoever does it, and leaves some mapped.
fn work(
    thread: u64,
    mapper: &mut (impl Mapper<Size4KiB> + CleanUp),
    frames: &mut (impl FrameAllocator<Size4KiB> + FrameDeallocator<Size4KiB>),
) {
    let mut state = thread + 1;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..400 {
        let at: Page = page((random(3) << 39) + (random(3) << 21) + (random(4) << 12));
        match random(4) {
            // SAFETY: a model's tables, here and below.
            0 | 1 => drop(
                unsafe { mapper.map_to(at, device(random(9)), DATA, frames) }
                    .map(MapperFlush::ignore),
            ),
            2 => drop(mapper.unmap(at).map(|(_, flush)| flush.ignore())),
            // SAFETY: as above; no CPU walks them.
            _ if random(9) == 0 => unsafe { mapper.clean_up(frames) },
            // SAFETY: as above.
            _ => drop(
                unsafe { mapper.update_flags(at, PageTableFlags::PRESENT) }
                    .map(MapperFlush::ignore),
            ),
        }
    }
}

/// Tables that one thread made by itself, of the bare crate.
fn alone(thread: u64) -> std::collections::BTreeMap<(u8, u64), u64> {
    let mut bare = Bare::new::<Size4KiB>();
    let (arena, root) = (bare.arena.clone(), bare.root);
    work(thread, &mut support::mapper(&arena, root), &mut bare.frames);
    lower_half(contents(&arena, root))
}

fn lower_half(
    mut contents: std::collections::BTreeMap<(u8, u64), u64>,
) -> std::collections::BTreeMap<(u8, u64), u64> {
    contents.retain(|&(_, address), _| address < 1 << 47);
    contents
}

#[test]
fn two_cpus_change_tables_of_their_own() {
    let Bare { arena, root, frames } = Bare::new::<Size4KiB>();
    let register = PerCpu::new(arena.clone());
    let backend = Keyed::new(register.clone());
    backend.reset();
    let (mut frames, flushes) = (Locked(Arc::new(Mutex::new(frames))), AtomicUsize::new(0));
    let linear = support::linear_map(&arena);
    // SAFETY: the only tables, with their map.
    let protection: Protection<TwoCpus, LinearMap> =
        unsafe { Protection::adopt(TwoCpus { backend, flushes }, linear, root, &mut frames) }
            .expect("plain tables are adopted");
    let left = frames.0.lock().unwrap().left;
    let start = Barrier::new(THREADS as usize);
    let roots: Vec<PhysFrame> = std::thread::scope(|scope| {
        let (protection, start, frames) = (&protection, &start, &frames);
        let cpu = |thread| {
            move || {
                protection.machine().backend().reset();
                let mut frames = frames.clone();
                let root = protection.new_root(&mut frames).expect("there is memory");
                start.wait();
                // SAFETY: a root of this thread's own.
                work(thread, &mut unsafe { protection.tables(root) }, &mut frames);
                assert!(protection.machine().backend().is_in::<context::Default>());
                root
            }
        };
        let threads = [0, 1].map(|thread| scope.spawn(cpu(thread)));
        threads.map(|thread| thread.join().expect("it did not panic")).into()
    });
    let model = support::model(&arena);
    for (thread, &own) in (0..THREADS).zip(&roots) {
        assert_eq!(lower_half(contents(&arena, own)), alone(thread), "thread {thread}");
        for (level, table) in tables(&arena, own) {
            let attack = support::attack(&model, &arena, root, register.read(), table, 1);
            assert_eq!(attack, BLOCKED, "thread {thread}, level {level}");
        }
    }
    // All of it comes back, but for what is in stock.
    for own in roots {
        let half = Page::range_inclusive(page(0), page((1 << 47) - 4096));
        // SAFETY: no CPU uses the tables.
        unsafe {
            let mut mapper = protection.tables(own);
            for at in (0..3u64 << 39).step_by(1 << 39).flat_map(|p4| {
                (0..3u64).flat_map(move |p2| (0..4u64).map(move |p1| p4 + (p2 << 21) + (p1 << 12)))
            }) {
                drop(mapper.unmap(page::<Size4KiB>(at)).map(|(_, flush)| flush.ignore()));
            }
            mapper.clean_up_addr_range(half, &mut frames);
            protection.release_root(own, &mut frames);
        }
    }
    assert_eq!(frames.0.lock().unwrap().left + protection.reserved(), left);
}

#[test]
fn a_batch_that_panics_closes_its_window_and_loses_nothing() {
    let system = System::new::<Size4KiB>();
    let mut frames = system.frames.borrow_mut();
    let left = frames.left;
    let at = |number: u64| page::<Size4KiB>(0x1000 + number * 4096);
    let (cost, panicked) = system.counted(|| {
        catch_unwind(AssertUnwindSafe(|| {
            let mut mapper = system.mapper();
            // SAFETY: a model's tables; calls of the batch alone.
            unsafe {
                mapper.batch(5, &mut *frames, |batch| {
                    batch.map_to(at(0), device(0), DATA).unwrap().ignore();
                    batch.map_to(at(1), device(1), DATA).unwrap().ignore();
                    panic!("half-way");
                })
            }
        }))
    });
    assert!(panicked.is_err());
    // Five keys, one for the list, one for the batch, one to put the rest in stock; `counted` has seen that all of them closed.
    assert_eq!(cost, (8, 1));
    for (level, table) in tables(&system.arena, system.root()) {
        assert_eq!(system.attack(table, 1), BLOCKED, "level {level}");
    }
    assert_eq!((left - frames.left, system.protection.reserved()), (5, 2), "three are tables");
    let mut mapper = system.mapper();
    assert_eq!(mapper.translate_page(at(1)).unwrap(), device(1));
    // SAFETY: as above.
    unsafe { mapper.map_to(at(2), device(2), DATA, &mut *frames) }.expect("goes on").ignore();
    assert_eq!(mapper.translate_page(at(2)).unwrap(), device(2));
}
