//! Growth: what one more costs when there are many. Mappings from 1 MiB to 8 GiB, address spaces up to 40,000, mappings and areas up to
//! 100,000. Memory is sparse: frames that nobody writes cost nothing.

use std::collections::BTreeMap;

use kpkeys_hosted::boot::Timed;
use kpkeys_hosted::clock::thread_ns;
use kpkeys_hosted::{Setup, boot};
use kpkeys_mm::{AddressSpace, Kernel, MapFlags};
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::{Config, Format, Mode, PageRange, VirtAddr};

use crate::peer::{FIRST_FRAME, Peer, START, Tables};
use crate::peers::hand::Hand;
use crate::report::{Cell, Table, median};

type Booted = Kernel<Timed<Aarch64>>;

/// How far it goes.
pub struct Limits {
    /// Pages of a mapping.
    pub pages: &'static [usize],
    /// Address spaces that live.
    pub spaces: &'static [usize],
    /// Mappings or areas that there are.
    pub objects: &'static [usize],
    /// How often each is timed.
    pub repeats: usize,
}

/// One sitting at the table.
pub const QUICK: Limits =
    Limits { pages: &[256, 1 << 14, 1 << 18], spaces: &[1, 1000], objects: &[1, 1000], repeats: 3 };
/// All of it.
pub const FULL: Limits = Limits {
    pages: &[256, 1 << 14, 1 << 18, 1 << 21],
    spaces: &[1, 1000, 40_000],
    objects: &[1, 1000, 100_000],
    repeats: 7,
};

fn kernel(mode: Mode, pages: usize) -> Booted {
    let setup = Setup { pages, cpus: 1, config: Config::of(mode) };
    boot::<Aarch64>(setup).expect("the host has addresses for a sparse arena")
}

/// Runs everything.
pub fn run(limits: &Limits) -> Vec<Table> {
    vec![
        sizes(limits),
        SPACES.table(limits.spaces, limits.repeats),
        MAPPINGS.table(limits.objects, limits.repeats),
        AREAS.table(limits.objects, limits.repeats),
    ]
}

/// What there can be many of.
struct Many {
    title: &'static str,
    /// Nanoseconds of one more, by how many there are, and how often that is timed.
    one_more: fn(&Booted, usize, usize) -> f64,
    /// What the caches do to a loop by hand that touches as much.
    by_hand: fn(usize, usize) -> f64,
}

const SPACES: Many = Many {
    title: "An address space more, ns, by how many there are",
    one_more: one_more_space,
    by_hand: one_more_root_by_hand,
};
const MAPPINGS: Many = Many {
    title: "A mapping more, ns, by how many there are",
    one_more: one_more_mapping,
    by_hand: one_more_in_a_tree,
};
const AREAS: Many = Many {
    title: "An area more, ns, by how many there are",
    one_more: one_more_area,
    by_hand: one_more_page_by_hand,
};

impl Many {
    fn table(&self, counts: &[usize], repeats: usize) -> Table {
        let header = header("mode", counts.iter().map(usize::to_string));
        let mut table = Table::new(self.title, header);
        let by_hand: Vec<f64> =
            counts.iter().map(|&count| (self.by_hand)(count, repeats)).collect();
        for mode in [Mode::Off, Mode::FusedLean] {
            let one_more = |&count| (self.one_more)(&kernel(mode, 4 << 18), count, repeats);
            let times: Vec<f64> = counts.iter().map(one_more).collect();
            table.row(mode.name().to_owned(), with_growth(&times, &by_hand));
        }
        table.row("by hand".to_owned(), with_growth(&by_hand, &by_hand));
        table
    }
}

fn header(first: &str, counts: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(first.to_owned())
        .chain(counts)
        .chain(["growth", "of by hand"].map(str::to_owned))
        .collect()
}

/// Times, the last as a multiple of the first, and that as a multiple of what it is by hand.
fn with_growth(times: &[f64], by_hand: &[f64]) -> Vec<Cell> {
    let growth = |times: &[f64]| times.last().zip(times.first()).map(|(last, first)| last / first);
    let of_by_hand = growth(times).zip(growth(by_hand)).map(|(ours, hand)| ours / hand);
    let ratios = [Cell::ratio(growth(times)), Cell::ratio(of_by_hand)];
    times.iter().map(|&ns| Cell::ns(Some(ns))).chain(ratios).collect()
}

fn timed(f: impl FnOnce()) -> f64 {
    let start = thread_ns();
    f();
    (thread_ns() - start) as f64
}

fn repeat(repeats: usize, mut f: impl FnMut() -> f64) -> f64 {
    f();
    median((0..repeats).map(|_| f()).collect())
}

fn sizes(limits: &Limits) -> Table {
    let mib = limits.pages.iter().map(|pages| format!("{} MiB", pages >> 8));
    let mut table =
        Table::new("Nanoseconds a page, by the size of the mapping", header("what", mib));
    let hand = limits.pages.iter().map(|&pages| by_hand(pages, limits.repeats));
    let (map, unmap): (Vec<f64>, Vec<f64>) = hand.map(|[map, unmap]| (map, unmap)).unzip();
    for mode in [Mode::Off, Mode::FusedLean] {
        let rows = limits.pages.iter().map(|&pages| process_of(mode, pages, limits.repeats));
        let rows: Vec<[f64; 3]> = rows.collect();
        for (i, (what, hand)) in
            [("populate", &map), ("fork", &map), ("munmap", &unmap)].into_iter().enumerate()
        {
            let times: Vec<f64> = rows.iter().map(|row| row[i]).collect();
            table.row(format!("{what}, {}", mode.name()), with_growth(&times, hand));
        }
    }
    for (what, hand) in [("map, by hand", &map), ("unmap, by hand", &unmap)] {
        table.row(what.to_owned(), with_growth(hand, hand));
    }
    table
}

/// Populate, fork and munmap, a page.
fn process_of(mode: Mode, pages: usize, repeats: usize) -> [f64; 3] {
    let kernel = kernel(mode, 2 * pages + (1 << 18));
    let range = PageRange::new(VirtAddr(START), pages).expect("in the user's half");
    let mut all = [const { Vec::new() }; 3];
    for _ in 0..=repeats {
        let mut space = AddressSpace::new(&kernel).expect("there is memory");
        space.mmap(range, MapFlags::DATA).expect("nothing is there");
        let populate = timed(|| space.populate(range).expect("there is memory"));
        let mut child = None;
        let fork = timed(|| child = Some(space.fork().expect("there is memory")));
        drop(child);
        let munmap = timed(|| space.munmap(range).expect("it is mapped"));
        for (times, ns) in all.iter_mut().zip([populate, fork, munmap]) {
            times.push(ns / pages as f64);
        }
    }
    // The first touches memory.
    all.map(|times| median(times[1..].to_vec()))
}

fn by_hand(pages: usize, repeats: usize) -> [f64; 2] {
    let mut tables = Hand::<false>::new(pages / 512 + 16);
    let mut both = [Vec::new(), Vec::new()];
    for _ in 0..=repeats {
        both[0].push(timed(|| tables.map_range(START, FIRST_FRAME, pages)) / pages as f64);
        both[1].push(timed(|| tables.unmap_range(START, pages)) / pages as f64);
    }
    both.map(|times| median(times[1..].to_vec()))
}

/// How many are made and given back for one time.
const BATCH: usize = 256;

fn one_more_space(kernel: &Booted, count: usize, repeats: usize) -> f64 {
    let new = || AddressSpace::new(kernel).expect("there is memory");
    let _alive: Vec<_> = (0..count).map(|_| new()).collect();
    repeat(repeats, || timed(|| (0..BATCH).for_each(|_| drop(new()))) / BATCH as f64)
}

/// A root more: a page of zeroes, taken and given back.
fn one_more_root_by_hand(count: usize, repeats: usize) -> f64 {
    let mut tables = Tables::new(count + 1);
    let mut roots: Vec<u64> = (0..count).map(|_| tables.take_zeroed()).collect();
    // The page of another one each time, as address spaces come and go.
    let mut next = 0;
    repeat(repeats, || {
        let come_and_go = |_| {
            next = (next + 7919) % roots.len();
            let new = tables.take_zeroed();
            tables.give(std::mem::replace(&mut roots[next], new));
        };
        timed(|| (0..BATCH).for_each(come_and_go)) / BATCH as f64
    })
}

/// A range more in a search tree of the standard library.
fn one_more_in_a_tree(count: usize, repeats: usize) -> f64 {
    let mut tree: BTreeMap<u64, u64> =
        (0..count as u64).map(|i| (i, i)).filter(|(i, _)| i % 17 != 16).collect();
    let spare = |i: usize| (i * 7919 % count.div_ceil(17) * 17 + 16) as u64;
    repeat(repeats, || {
        let come_and_go = |i: usize| {
            tree.insert(spare(i), 0);
            tree.remove(&spare(i));
        };
        timed(|| (0..BATCH).for_each(come_and_go)) / BATCH as f64
    })
}

/// A page more in tables that have as many.
fn one_more_page_by_hand(count: usize, repeats: usize) -> f64 {
    let mut tables = Hand::<false>::new(count / 512 + 16);
    tables.map_range(START, FIRST_FRAME, count);
    repeat(repeats, || {
        let come_and_go = |i: usize| {
            let va = START + (count + i) as u64 * Aarch64::PAGE_SIZE;
            tables.map_one(va, FIRST_FRAME);
            tables.unmap_one(va);
        };
        timed(|| (0..BATCH).for_each(come_and_go)) / BATCH as f64
    })
}

fn one_more_mapping(kernel: &Booted, count: usize, repeats: usize) -> f64 {
    let mut space = AddressSpace::new(kernel).expect("there is memory");
    let at = |i: usize| {
        let va = VirtAddr(START + 2 * i as u64 * Aarch64::PAGE_SIZE);
        PageRange::new(va, 1).expect("in the user's half")
    };
    // One in seventeen is left out, for those that come and go.
    for i in (0..count).filter(|i| i % 17 != 16) {
        space.mmap(at(i), MapFlags::DATA).expect("nothing is there");
    }
    let spare = |i: usize| at((i * 7919 % count.div_ceil(17)) * 17 + 16);
    repeat(repeats, || {
        let come_and_go = |i: usize| {
            space.mmap(spare(i), MapFlags::DATA).expect("nothing is there");
            space.munmap(spare(i)).expect("it is there");
        };
        timed(|| (0..BATCH).for_each(come_and_go)) / BATCH as f64
    })
}

fn one_more_area(kernel: &Booted, count: usize, repeats: usize) -> f64 {
    let areas: Vec<_> = (0..count).map(|_| kernel.vmalloc(1).expect("there is memory")).collect();
    // Holes between them, so that the search is not over at once.
    for &area in areas.iter().skip(1).step_by(17) {
        kernel.vfree(area).expect("it is an area");
    }
    repeat(repeats, || {
        let come_and_go = |_| {
            let area = kernel.vmalloc(1).expect("there is memory");
            kernel.vfree(area).expect("it is an area");
        };
        timed(|| (0..BATCH).for_each(come_and_go)) / BATCH as f64
    })
}
