//! Two CPUs with one pool, each on tables of its own; and changes that end half-way.

#[macro_use]
mod support;
#[path = "../../x86_64/tests/support/per_cpu.rs"]
mod per_cpu;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier};

use aarch64_paging::descriptor::PhysicalAddress;
use aarch64_paging::paging::{Constraints, MemoryRegion, VaRange};
use kpkeys::encoding::Por;
use kpkeys::keyed::{Keyed, Register};
use kpkeys::pan::Pan;
use kpkeys::{Backend, context};
use kpkeys_aarch64_paging::{Pool, Tables};
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::register::{Opens, PanFlag};
use per_cpu::PerCpu;
use support::{
    Aliased, Keys, MEMORY, MEMORY_PAGES, NO_CONSTRAINTS, NORMAL, Protection, System, USER, layout,
    linear, pages, views,
};

const VA: usize = 0x40_0000_0000;
/// Beyond all memory of the machine.
const FAR: PhysicalAddress = PhysicalAddress(0x80_0000_0000);

/// Changes tables, the same whoever does it, and leaves some mapped.
fn work<B: Backend>(thread: u64, tables: &mut Tables<'_, B>) {
    let mut state = thread + 1;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..300 {
        let at = VA + (random(3) << 30) + (random(3) << 21) + (random(512) << 12);
        let region = pages(at, 1 + random(700));
        if random(3) > 0 {
            let constraints = Constraints::NO_BLOCK_MAPPINGS;
            tables.map_range(&region, FAR, USER, constraints).expect("there is room");
        } else {
            tables.unmap_range(&region).expect("there is room");
        }
        if random(9) == 0 {
            tables.compact_subtables().expect("tables of the pool");
        }
    }
}

/// Every leaf.
fn leaves<B: Backend>(tables: &Tables<'_, B>) -> Vec<(usize, usize, usize)> {
    let mut found = Vec::new();
    let all = MemoryRegion::new(VA, VA + (4 << 30));
    tables
        .walk_range(&all, &mut |region, entry, level| {
            if entry.is_valid() {
                found.push((region.start().0, entry.output_address().0, level));
            }
            Ok(())
        })
        .expect("tables of the pool");
    found
}

/// Tables that one thread made by itself.
fn alone(thread: u64) -> Vec<(usize, usize, usize)> {
    let system = System::<Keys>::new(128);
    let _kernel = system.protected();
    let mut user = system.user();
    work(thread, &mut user);
    leaves(&user)
}

fn two_cpus<B, V>(arena: Arena, backend: impl Fn(PerCpu<V>) -> B, reset: fn(&B))
where
    B: Backend + Clone + Sync,
    V: Opens,
{
    let arena = Arc::new(arena);
    let backend = backend(PerCpu::new(arena.clone()));
    reset(&backend);
    // SAFETY: the arena lives as long as the pool, its views have all of it; the register is each thread's own.
    let pool = unsafe { Pool::through(layout(256), views(&arena), backend) }.expect("a fit layout");
    let mut kernel = Tables::new(&pool, 0, 0, VaRange::Upper).expect("room for a root");
    kernel.map_range(&linear(0..MEMORY_PAGES), MEMORY, NORMAL, NO_CONSTRAINTS).expect("mapped");
    kernel.map_alias(NORMAL).expect("mapped");
    kernel.mark_active();
    // SAFETY: the model's CPUs are given these tables, and have no TLB.
    unsafe { pool.protect() }.expect("the checklist is met");
    let free = pool.free_pages();
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        let (pool, start) = (&pool, &start);
        let cpu = |thread| {
            move || {
                reset(pool.backend());
                let mut user = Tables::new(pool, 1, 0, VaRange::Lower).expect("room for a root");
                start.wait();
                work(thread, &mut user);
                assert!(pool.backend().is_in::<context::Default>());
                let left = leaves(&user);
                drop(user);
                left
            }
        };
        let threads = [0, 1].map(|thread| scope.spawn(cpu(thread)));
        for (thread, left) in (0..).zip(threads) {
            assert!(left.join().expect("it did not panic") == alone(thread), "thread {thread}");
        }
    });
    assert_eq!(pool.free_pages(), free, "all of it comes back");
}

#[test]
fn two_cpus_change_tables_of_their_own_by_key() {
    two_cpus(Keys::arena(), Keyed::<PerCpu<Por>, Por>::new, Keyed::reset);
}

#[test]
fn two_cpus_change_tables_of_their_own_by_alias() {
    two_cpus(Aliased::arena(), Pan::<PerCpu<PanFlag>>::new, Pan::reset);
}

fn what_panics_closes_its_window_and_loses_nothing<S: Protection>() {
    let system = System::<S>::new(64);
    let _kernel = system.protected();
    let mut user = system.user();
    user.map_range(&pages(VA, 1024), FAR, USER, NO_CONSTRAINTS).unwrap();
    let free = system.pool.free_pages();
    let before = leaves(&user);

    let in_batch = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the only window of this CPU; what runs in it changes tables.
        let mut batch = unsafe { user.batch() };
        batch.map_range(&pages(VA + (1 << 30), 1), FAR, USER, NO_CONSTRAINTS).unwrap();
        panic!("half-way");
    }));
    assert!(in_batch.is_err());
    assert!(system.pool.backend().is_in::<context::Default>(), "the window is closed");
    assert_eq!(leaves(&user).len(), before.len() + 1, "what came before is there");

    // The updater of a range that splits two blocks, before the second one is.
    let in_call = catch_unwind(AssertUnwindSafe(|| {
        user.modify_range(&pages(VA + 4096, 1000), &|_, _| panic!("half-way"))
    }));
    assert!(in_call.is_err());
    assert!(system.pool.backend().is_in::<context::Default>(), "the window is closed");
    user.unmap_range(&pages(VA + (1 << 30), 1)).unwrap();
    user.compact_subtables().unwrap();
    user.map_range(&pages(VA, 1024), FAR, USER, Constraints::NO_BLOCK_MAPPINGS).unwrap();
    user.unmap_range(&pages(VA, 1024)).unwrap();
    user.compact_subtables().unwrap();
    let root_and = system.tables_of(&user).len();
    for table in system.tables_of(&user) {
        let store = system.mmu(_kernel.root_address()).store(support::linear_address(table, 1), 0);
        assert!(store.is_err(), "the tables are protected");
    }
    drop(user);
    assert!(root_and >= 1 && system.pool.free_pages() > free);
    assert_eq!(system.pool.free_pages(), System::<S>::protected_free());
}

impl<S: Protection> System<S> {
    /// Free pages of such a system with the kernel's tables alone.
    fn protected_free() -> usize {
        let system = System::<S>::new(64);
        let _kernel = system.protected();
        system.pool.free_pages()
    }
}

for_both!(what_panics_closes_its_window_and_loses_nothing);

/// A thread's register is its own.
#[test]
fn a_window_of_one_cpu_is_none_of_another() {
    let register = PerCpu::<Por>::new(Arc::new(Keys::arena()));
    let backend = Keyed::<_, Por>::new(register.clone());
    backend.reset();
    let closed = register.read();
    // SAFETY: nothing is stored.
    unsafe { backend.enter::<context::PageTables>() };
    let other = std::thread::spawn(move || {
        let backend = Keyed::<_, Por>::new(register.clone());
        backend.reset();
        register.read()
    });
    assert_eq!(other.join().unwrap(), closed);
    assert!(backend.is_in::<context::PageTables>());
    backend.reset();
}
