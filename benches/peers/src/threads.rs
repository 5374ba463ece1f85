//! A second thread: how much longer each takes when two do the same, in address spaces of their own on one kernel.
//!
//! Timed is the CPU time of the threads: waiting for a cache line or a lock that spins is in it, another process is not.

use std::sync::Barrier;
use std::thread;

use kpkeys_hosted::boot::Timed;
use kpkeys_hosted::clock::thread_ns;
use kpkeys_hosted::{Setup, boot, cpu};
use kpkeys_mm::{AddressSpace, Kernel, MapFlags};
use kpkeys_pgtable::Format;
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::{Config, Mode, PageRange, VirtAddr};

use crate::peer::{FIRST_FRAME, PAGE, Peer, START};
use crate::peers::hand::Hand;
use crate::report::{Cell, Table, median};

type Booted = Kernel<Timed<Aarch64>>;

/// Pages that a process has.
const PAGES: usize = 512;
const KERNEL_PAGES: usize = 64 << 8;

/// A loop: does `times` rounds of something and returns the nanoseconds of one operation.
struct Loop {
    name: &'static str,
    /// How many times the ratio of the loop by hand that of this one may be.
    most: f64,
    run: fn(&Booted, usize) -> f64,
}

const LOOPS: [Loop; 5] = [
    Loop { name: "fault", most: 1.1, run: fault },
    Loop { name: "munmap", most: 1.1, run: munmap },
    Loop { name: "process", most: 1.1, run: process },
    Loop { name: "vm_map_ram", most: 1.1, run: vm_map_ram },
    Loop { name: "vmalloc", most: 1.3, run: vmalloc },
];

/// Rounds of the loops by hand for each of another: they are that much shorter.
const HAND_ROUNDS: usize = 20;

/// Runs each loop on one thread and on two, and in turns with it the loop by hand.
pub fn run(rounds: usize, repeats: usize) -> Table {
    let header = [
        "loop",
        "one thread, ns",
        "two threads, ns",
        "two / one",
        "by hand, two / one",
        "of by hand",
        "at most",
    ];
    let header = header.map(str::to_owned).to_vec();
    let mut table = Table::new("A second thread", header);
    for mode in [Mode::Off, Mode::FusedLean] {
        let setup = Setup { pages: KERNEL_PAGES, cpus: 2, config: Config::of(mode) };
        let kernel = boot::<Aarch64>(setup).expect("the host has memory for a small kernel");
        for each in &LOOPS {
            let run = |threads| on_threads(threads, || (each.run)(&kernel, rounds));
            let hand = |threads| on_threads(threads, || by_hand(rounds * HAND_ROUNDS));
            let [one, two, hand_one, hand_two] = in_turns(repeats, run, hand);
            let ratios = [two / one, hand_two / hand_one, two / one / (hand_two / hand_one)];
            let cells = [one, two].map(|ns| Cell::ns(Some(ns))).into_iter();
            let cells =
                cells.chain(ratios.into_iter().chain([each.most]).map(Some).map(Cell::ratio));
            table.row(format!("{}, {}", each.name, mode.name()), cells);
        }
    }
    table
}

/// A loop on one thread and on two, and another on one and on two, in turns.
fn in_turns(repeats: usize, run: impl Fn(usize) -> f64, other: impl Fn(usize) -> f64) -> [f64; 4] {
    run(2);
    let times: Vec<[f64; 4]> = (0..repeats).map(|_| [run(1), run(2), other(1), other(2)]).collect();
    std::array::from_fn(|i| median(times.iter().map(|times| times[i]).collect()))
}

/// Runs a loop on so many threads at once; returns the mean of what they took.
fn on_threads(threads: usize, run: impl Fn() -> f64 + Sync) -> f64 {
    let start = Barrier::new(threads);
    let total: f64 = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|number| {
                let (start, run) = (&start, &run);
                scope.spawn(move || {
                    cpu::become_cpu(number);
                    start.wait();
                    run()
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().expect("a loop does not panic")).sum()
    });
    total / threads as f64
}

/// Nanoseconds of one of `operations`, of which `f` does all.
fn each(operations: usize, f: impl FnOnce()) -> f64 {
    let start = thread_ns();
    f();
    (thread_ns() - start) as f64 / operations as f64
}

fn range() -> PageRange<Aarch64> {
    PageRange::new(VirtAddr(START), PAGES).expect("a small range")
}

fn space(kernel: &Booted) -> AddressSpace<'_, kpkeys_hosted::boot::Timed<Aarch64>> {
    let mut space = AddressSpace::new(kernel).expect("there is memory");
    space.mmap(range(), MapFlags::DATA).expect("nothing is there");
    space
}

fn fault(kernel: &Booted, rounds: usize) -> f64 {
    let mut space = space(kernel);
    let rounds = rounds.div_ceil(PAGES);
    let mut total = 0.0;
    for _ in 0..rounds {
        total += each(PAGES, || {
            for page in 0..PAGES as u64 {
                space
                    .fault(VirtAddr(START + page * Aarch64::PAGE_SIZE), true)
                    .expect("there is memory");
            }
        });
        space.munmap(range()).expect("it is mapped");
        space.mmap(range(), MapFlags::DATA).expect("nothing is there");
    }
    total / rounds as f64
}

fn munmap(kernel: &Booted, rounds: usize) -> f64 {
    let mut space = space(kernel);
    let rounds = rounds.div_ceil(PAGES);
    let mut total = 0.0;
    for _ in 0..rounds {
        space.populate(range()).expect("there is memory");
        total += each(PAGES, || space.munmap(range()).expect("it is mapped"));
        space.mmap(range(), MapFlags::DATA).expect("nothing is there");
    }
    total / rounds as f64
}

fn process(kernel: &Booted, rounds: usize) -> f64 {
    let rounds = rounds.div_ceil(64);
    each(rounds, || {
        for _ in 0..rounds {
            let mut space = space(kernel);
            let some = PageRange::new(VirtAddr(START), 16).expect("a small range");
            space.populate(some).expect("there is memory");
        }
    })
}

fn vm_map_ram(kernel: &Booted, rounds: usize) -> f64 {
    let frame = kernel.frames().new_frame().expect("there is memory");
    let frames = [frame.address()];
    let ns = each(rounds, || {
        for _ in 0..rounds {
            let va = kernel.vm_map_ram(&frames).expect("there are addresses");
            kernel.vm_unmap_ram(va, 1).expect("it is mapped");
        }
    });
    kernel.frames().free_frame(frame);
    ns
}

fn vmalloc(kernel: &Booted, rounds: usize) -> f64 {
    each(rounds, || {
        for _ in 0..rounds {
            let va = kernel.vmalloc(1).expect("there is memory");
            kernel.vfree(va).expect("it is an area");
        }
    })
}

fn by_hand(rounds: usize) -> f64 {
    let mut tables = Hand::<false>::new(8);
    each(rounds, || {
        for i in 0..rounds as u64 {
            let va = START + i % PAGES as u64 * PAGE;
            tables.map_one(va, FIRST_FRAME);
            tables.unmap_one(va);
        }
    })
}
