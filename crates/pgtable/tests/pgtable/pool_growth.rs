//! The pool at every size: what a page costs does not depend on how many are in use, how many blocks they are in, or how far apart
//! those are; and there is no limit on blocks.
//!
//! Counted, not timed. All that the pool remembers is in pages of its own, whose addresses the machine gives out anew for each
//! look: so the machine counts every look.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use kpkeys::keyed::Keyed;
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::boot::{MockBackend, Timed};
use kpkeys_hosted::register::MockRegister;
use kpkeys_hosted::{Hosted, cpu};
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::ptp::REFILL_ORDERS;
use kpkeys_pgtable::{
    Config, Flush, Format, Frames, Level, Machine, Memory, Mode, NoProbe, Paging, PhysAddr, Root,
};

/// Pages of a GiB.
const GIB: usize = 1 << 18;
/// CPUs of the machine.
const CPUS: usize = 256;

/// The hosted machine, which counts how often somebody looks at data.
struct Watched {
    inner: Timed<Aarch64>,
    looks: AtomicU64,
}

// SAFETY: everything is the inner machine's, which answers for it.
unsafe impl Machine for Watched {
    type Format = Aarch64;
    type Backend = MockBackend<Aarch64>;
    type Probe = NoProbe;

    fn backend(&self) -> &Self::Backend {
        self.inner.backend()
    }
    fn probe(&self) -> &NoProbe {
        self.inner.probe()
    }
    fn memory(&self) -> Memory<Aarch64> {
        self.inner.memory()
    }
    fn table(&self, frame: PhysAddr) -> NonNull<u8> {
        self.inner.table(frame)
    }
    fn data(&self, frame: PhysAddr) -> NonNull<u8> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.inner.data(frame)
    }
    fn anchor(&self) -> &kpkeys_pgtable::guarded::Anchor<Aarch64> {
        self.inner.anchor()
    }
    fn entry_barrier(&self) {
        self.inner.entry_barrier();
    }
    fn flush_tlb(&self, flush: Flush<Aarch64>) {
        self.inner.flush_tlb(flush);
    }
    fn cpu(&self) -> usize {
        self.inner.cpu()
    }
    fn cpus(&self) -> usize {
        self.inner.cpus()
    }
}

/// Blocks of one order, each a stride further on, and single frames from the first GiB for what the pool remembers.
struct Strided {
    order: u8,
    stride: u64,
    memory: Memory<Aarch64>,
    state: Mutex<Handed>,
}

struct Handed {
    next: PhysAddr,
    next_of_state: PhysAddr,
    free: Vec<PhysAddr>,
    /// Pages in blocks that are out.
    out: usize,
}

impl Strided {
    fn new(memory: Memory<Aarch64>, order: u8, stride: usize) -> Self {
        let state = Handed {
            next: memory.frame(GIB),
            next_of_state: memory.start,
            free: Vec::new(),
            out: 0,
        };
        Strided {
            order,
            stride: stride as u64 * Aarch64::PAGE_SIZE,
            memory,
            state: Mutex::new(state),
        }
    }

    fn out(&self) -> usize {
        self.state.lock().unwrap().out
    }
}

impl Frames for Strided {
    fn allocate(&self, order: u8) -> Option<PhysAddr> {
        let mut state = self.state.lock().unwrap();
        if order != self.order {
            if REFILL_ORDERS.contains(&order) {
                return None;
            }
            // What the pool remembers: as many pages as it asks for.
            let wanted = Aarch64::PAGE_SIZE << order;
            let start = PhysAddr(state.next_of_state.0.next_multiple_of(wanted));
            state.next_of_state = start.offset(wanted);
            return Some(start);
        }
        let block = state.free.pop().or_else(|| {
            let next = state.next;
            state.next = next.offset(self.stride);
            self.memory.contains(next, 1 << order).then_some(next)
        })?;
        state.out += 1 << order;
        Some(block)
    }

    unsafe fn release(&self, block: PhysAddr, order: u8) {
        assert_eq!(order, self.order);
        let mut state = self.state.lock().unwrap();
        state.free.push(block);
        state.out -= 1 << order;
    }
}

struct System {
    paging: Paging<Watched, Strided>,
}

impl System {
    fn new(gibs: usize, order: u8, stride: usize) -> Self {
        let arena = Arc::new(Arena::new(gibs * GIB).expect("the host has the addresses"));
        let backend: MockBackend<Aarch64> = Keyed::new(MockRegister::detect());
        backend.reset();
        let inner = Hosted::new(arena, backend, NoProbe, CPUS);
        let machine = Watched { inner, looks: AtomicU64::new(0) };
        let frames = Strided::new(machine.memory(), order, stride);
        let config = Config { mode: Mode::FusedLean, linear: Level::Pmd, pool: true };
        let paging = Paging::new(machine, frames, config).expect("builds");
        paging.enable_protection().expect("protects");
        System { paging }
    }

    /// Page-table pages, one each.
    fn take(&self, pages: usize) -> Vec<Root> {
        let section = self.paging.section(self.paging.kernel());
        (0..pages).map(|_| self.paging.new_user_root(&section).expect("there is memory")).collect()
    }

    fn put(&self, pages: impl IntoIterator<Item = Root>) {
        pages.into_iter().for_each(|page| self.paging.release_user_root(page));
    }

    /// How often the pool's memory was looked at while `f` ran.
    fn looks(&self, f: impl FnOnce()) -> u64 {
        let before = self.paging.machine().looks.load(Ordering::Relaxed);
        f();
        self.paging.machine().looks.load(Ordering::Relaxed) - before
    }

    /// What 4,000 pages cost that are taken and put a few hundred at a time, so that most pass through magazines and blocks alike.
    fn cost(&self) -> u64 {
        // Once before, so that growing is not counted.
        self.put(self.take(400));
        self.looks(|| (0..10).for_each(|_| self.put(self.take(400))))
    }
}

/// At most 1.5 times as much, as what is constant time may differ.
fn assert_constant(few: u64, many: u64, what: &str) {
    assert!(few > 4000, "every page needs a look at its CPU's magazine: {few}");
    assert!(many * 2 <= few * 3, "{what}: {few} looks became {many}");
}

#[test]
fn a_page_costs_the_same_however_many_are_in_use() {
    for (order, in_use) in [(9, 200_000), (4, 50_000), (2, 50_000)] {
        let system = System::new(2 + in_use / GIB, order, 1 << order);
        let few = system.take(10);
        let at_first = system.cost();
        let many = system.take(in_use);
        assert_constant(at_first, system.cost(), &format!("order {order}"));
        system.put(many);
        system.put(few);
    }
}

#[test]
fn a_page_costs_the_same_in_fragmented_memory() {
    for (order, in_use) in [(9, 20_000), (2, 20_000)] {
        let system = System::new(3, order, 1 << order);
        let at_first = system.cost();
        // One page in nine stays, so that nearly no block is free and nearly all have free pages.
        let (mut kept, mut freed) = (Vec::new(), Vec::new());
        for (i, page) in system.take(in_use).into_iter().enumerate() {
            if i % 9 == 0 { kept.push(page) } else { freed.push(page) }
        }
        system.put(freed);
        assert_constant(at_first, system.cost(), &format!("order {order}"));
        system.put(kept);
    }
}

/// Blocks a GiB apart in two terabytes, used by 256 CPUs.
#[test]
fn terabytes_and_hundreds_of_cpus_are_nothing_special() {
    let system = System::new(2048, 9, GIB);
    let at_first = system.cost();
    let mut pages = Vec::new();
    for number in 0..CPUS {
        cpu::become_cpu(number);
        pages.extend(system.take(200));
    }
    assert!(system.paging.frames().out() / 512 > 90, "{}", system.paging.frames().out());
    assert_constant(at_first, system.cost(), "2 TiB");
    system.put(pages);
    cpu::become_cpu(0);
    assert!(system.paging.shrink() > 0);
    assert!(system.paging.frames().out() <= 6 * 512, "some spares stay, and tables of the map");
}

/// Shrinking looks at what is free, and at each once.
#[test]
fn shrinking_costs_what_it_returns() {
    for order in REFILL_ORDERS {
        let system = System::new(2, order, 1 << order);
        let mut costs = Vec::new();
        for pages in [4_000, 40_000] {
            let taken = system.take(pages);
            system.put(taken);
            let mut returned = 0;
            let looks = system.looks(|| returned = system.paging.shrink());
            // Tables of the linear map stay, one for each 2 MiB that was split, and with each the block it is in.
            let least = pages - pages / 16 - 600;
            assert!(returned > least, "{returned} of {pages} pages, order {order}");
            costs.push(looks);
        }
        assert!(costs[1] < costs[0] * 15, "order {order}: {costs:?} for ten times as much");
    }
}

/// What was freed last is handed out first; new pages from the top down.
#[test]
fn warm_pages_come_first() {
    let system = System::new(2, 9, 512);
    let frames = |roots: &[Root]| roots.iter().map(Root::frame).collect::<Vec<_>>();
    let first = system.take(500);
    let descending = first.windows(2).filter(|two| two[1].frame() < two[0].frame()).count();
    assert!(descending >= 497, "{descending} of 499 steps lead down");
    let expected: Vec<_> = frames(&first).into_iter().rev().take(31).collect();
    system.put(first);
    let again = system.take(500);
    assert_eq!(frames(&again)[..31], expected);
    let mut sets = [frames(&again), expected];
    sets[0].sort_unstable();
    let (low, high) = (sets[0][0], sets[0][499]);
    assert!(high.0 - low.0 < 600 * Aarch64::PAGE_SIZE, "the same pages again: {low:?} to {high:?}");
    system.put(again);
}
