//! Growth: what one more costs when there are many. Mappings from 1 MiB to 8 GiB, address spaces up to 40,000, mappings and areas up to
//! 100,000. Memory is sparse: frames that nobody writes cost nothing.

use kpkeys_hosted::boot::Timed;
use kpkeys_hosted::clock::thread_ns;
use kpkeys_hosted::{Setup, boot};
use kpkeys_mm::{AddressSpace, Kernel, MapFlags};
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::{Config, Mode, PAGE_SIZE, PageRange, VirtAddr};

use crate::peer::{FIRST_FRAME, Peer, START};
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
    let many =
        |counts: &'static [usize], title: &str, one_more: fn(&Booted, usize, usize) -> f64| {
            let mut table = Table::new(title, header("mode", counts.iter().map(usize::to_string)));
            for mode in [Mode::Off, Mode::Fused] {
                let times: Vec<f64> = counts
                    .iter()
                    .map(|&count| one_more(&kernel(mode, 4 << 18), count, limits.repeats))
                    .collect();
                table.row(mode.name().to_owned(), with_growth(&times));
            }
            table
        };
    vec![
        sizes(limits),
        many(limits.spaces, "An address space more, ns, by how many there are", one_more_space),
        many(limits.objects, "A mapping more, ns, by how many there are", one_more_mapping),
        many(limits.objects, "An area more, ns, by how many there are", one_more_area),
    ]
}

fn header(first: &str, counts: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(counts).chain(["growth".to_owned()]).collect()
}

/// Times, and the last as a multiple of the first.
fn with_growth(times: &[f64]) -> Vec<Cell> {
    let growth = times.last().zip(times.first()).map(|(last, first)| last / first);
    times.iter().map(|&ns| Cell::ns(Some(ns))).chain([Cell::ratio(growth)]).collect()
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
    for mode in [Mode::Off, Mode::Fused] {
        let rows = limits.pages.iter().map(|&pages| process_of(mode, pages, limits.repeats));
        let rows: Vec<[f64; 3]> = rows.collect();
        for (i, what) in ["populate", "fork", "munmap"].into_iter().enumerate() {
            let times: Vec<f64> = rows.iter().map(|row| row[i]).collect();
            table.row(format!("{what}, {}", mode.name()), with_growth(&times));
        }
    }
    let rows: Vec<[f64; 2]> =
        limits.pages.iter().map(|&pages| by_hand(pages, limits.repeats)).collect();
    for (i, what) in ["map, by hand", "unmap, by hand"].into_iter().enumerate() {
        let times: Vec<f64> = rows.iter().map(|row| row[i]).collect();
        table.row(what.to_owned(), with_growth(&times));
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

fn one_more_mapping(kernel: &Booted, count: usize, repeats: usize) -> f64 {
    let mut space = AddressSpace::new(kernel).expect("there is memory");
    let at = |i: usize| {
        let va = VirtAddr(START + 2 * i as u64 * PAGE_SIZE);
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
