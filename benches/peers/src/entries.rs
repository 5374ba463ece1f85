//! The same entries through every library: one GiB of 4 KiB pages, mapped, walked, protected and unmapped, one page a call and all of them
//! in one call.
//!
//! Timed is the CPU time of the thread. All libraries take turns in one run, in an order drawn anew for each round, so that what else the machine does falls on all alike. A first
//! round is not counted: it touches memory and leaves tables linked, where a library leaves them.

use std::hint::black_box;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use kpkeys_hosted::clock::thread_ns;
use kpkeys_hosted::{HostedFormat, Setup, boot};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::{Config, Machine, Mode};

use crate::peer::{ADDRESS, FIRST_FRAME, PAGE, Peer, START};
use crate::peers::{aarch64_paging, generic, hand, hyperlight, kpkeys, multiarch, patina, x86_64};
use crate::report::{Cell, Table, median};

/// Tables that a peer may use: 512 of PTEs, the way to them, and some that a library has for itself.
const TABLES: usize = 600;
/// Pages of memory of a kernel of this library: tables, those of the linear map, and the pool's blocks.
const KERNEL_PAGES: usize = 16 << 8;

/// What is timed.
const ROWS: [&str; 8] = [
    "map one",
    "map range",
    "walk in order",
    "walk at random",
    "protect one",
    "protect range",
    "unmap one",
    "unmap range",
];

/// Nanoseconds an entry, by row.
type Times = [Option<f64>; ROWS.len()];

/// Which group a column is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hand,
    Ours,
    Other,
}

/// A library in the run.
struct Entrant<'k> {
    name: &'static str,
    kind: Kind,
    round: Box<dyn FnMut(&Pages) -> Times + 'k>,
    rounds: Vec<Times>,
}

impl Entrant<'_> {
    /// The name, with this library's own before the modes it is in.
    fn label(&self) -> String {
        if self.kind == Kind::Ours { format!("kpkeys {}", self.name) } else { self.name.to_owned() }
    }
}

/// The pages, in order and not.
struct Pages {
    count: usize,
    shuffled: Vec<u32>,
}

impl Pages {
    fn in_order(&self) -> impl Iterator<Item = u64> {
        (0..self.count as u64).map(|page| START + page * PAGE)
    }

    fn at_random(&self) -> impl Iterator<Item = u64> {
        self.shuffled.iter().map(|&page| START + u64::from(page) * PAGE)
    }
}

/// Runs the rounds of the libraries whose names contain `library`, and returns the tables.
pub fn run(pages: usize, rounds: usize, library: &str, rng: &mut SmallRng) -> Vec<Table> {
    let mut shuffled: Vec<u32> = (0..pages as u32).collect();
    shuffled.shuffle(rng);
    let pages = Pages { count: pages, shuffled };
    let kernels = Kernels::boot();
    let mut entrants = entrants(&kernels);
    entrants.retain(|entrant| entrant.label().contains(library));
    for entrant in &mut entrants {
        (entrant.round)(&pages);
    }
    let mut order: Vec<usize> = (0..entrants.len()).collect();
    for _ in 0..rounds {
        order.shuffle(rng);
        for &i in &order {
            let times = (entrants[i].round)(&pages);
            entrants[i].rounds.push(times);
        }
    }
    vec![by_library(&entrants), ratios(&entrants)]
}

/// The kernels of this library, by what is switched on.
struct Kernels {
    off: (Kernel<kpkeys_hosted::boot::Timed<X86_64>>, Kernel<kpkeys_hosted::boot::Timed<Aarch64>>),
    fused:
        (Kernel<kpkeys_hosted::boot::Timed<X86_64>>, Kernel<kpkeys_hosted::boot::Timed<Aarch64>>),
    software: (Kernel<kpkeys::WithoutSwitches<X86_64>>, Kernel<kpkeys::WithoutSwitches<Aarch64>>),
}

impl Kernels {
    fn boot() -> Kernels {
        Kernels {
            off: (timed(Mode::Off), timed(Mode::Off)),
            fused: (timed(Mode::FusedLean), timed(Mode::FusedLean)),
            software: (software(), software()),
        }
    }
}

fn timed<F: HostedFormat>(mode: Mode) -> Kernel<kpkeys_hosted::boot::Timed<F>> {
    let setup = Setup { pages: KERNEL_PAGES, cpus: 1, config: Config::of(mode) };
    boot::<F>(setup).expect("the host has memory for a small kernel")
}

fn software<F: HostedFormat>() -> Kernel<kpkeys::WithoutSwitches<F>> {
    kpkeys::boot_without_switches::<F>(KERNEL_PAGES, Config::of(Mode::FusedLean))
}

fn entrants(kernels: &Kernels) -> Vec<Entrant<'_>> {
    vec![
        entrant("by hand", Kind::Hand, hand::Hand::<false>::new(TABLES), 1 << 1, 0),
        entrant("by hand, atomic", Kind::Hand, hand::Hand::<true>::new(TABLES), 1 << 1, 0),
        ours::<_, true>("off, x86_64", &kernels.off.0),
        ours::<_, true>("off, aarch64", &kernels.off.1),
        ours::<_, true>("fused-lean, x86_64", &kernels.fused.0),
        ours::<_, true>("fused-lean, aarch64", &kernels.fused.1),
        ours::<_, true>("fused-lean, software, x86_64", &kernels.software.0),
        ours::<_, true>("fused-lean, software, aarch64", &kernels.software.1),
        ours::<_, false>("fused-lean, software, atomic, x86_64", &kernels.software.0),
        entrant("x86_64", Kind::Other, x86_64::X86_64::new(TABLES), 1 << 1, 0),
        entrant(
            "aarch64-paging",
            Kind::Other,
            aarch64_paging::Aarch64Paging::new(TABLES),
            0,
            1 << 7,
        ),
        entrant("page_table_multiarch", Kind::Other, multiarch::Multiarch::new(TABLES), 1 << 1, 0),
        entrant("page-table-generic", Kind::Other, generic::Generic::new(TABLES), 1 << 1, 0),
        entrant("patina_paging", Kind::Other, patina::Patina::new(TABLES), 1 << 1, 0),
        entrant("hyperlight-common", Kind::Other, hyperlight::Hyperlight::new(TABLES), 1 << 1, 0),
    ]
}

fn ours<'k, M: Machine, const SETTLED: bool>(
    name: &'static str,
    kernel: &'k Kernel<M>,
) -> Entrant<'k> {
    use kpkeys_pgtable::Format;
    let (set, clear) = if M::Format::NAME == X86_64::NAME { (1 << 1, 0) } else { (0, 1 << 7) };
    // On arm64 a clean page is not writable to begin with.
    entrant(name, Kind::Ours, kpkeys::Kpkeys::<M, SETTLED>::new(kernel), set, clear)
}

/// A library whose entries are writable if all bits of `set` are set and all of `clear` are clear.
fn entrant<'k, P: Peer + 'k>(
    name: &'static str,
    kind: Kind,
    mut peer: P,
    set: u64,
    clear: u64,
) -> Entrant<'k> {
    let is_writable = move |entry: u64| entry & set == set && entry & clear == 0;
    let round = Box::new(move |pages: &Pages| round(name, &mut peer, pages, is_writable));
    Entrant { name, kind, round, rounds: Vec::new() }
}

/// One round of one library: each thing timed, and what it did checked.
fn round(
    name: &str,
    peer: &mut impl Peer,
    pages: &Pages,
    is_writable: impl Fn(u64) -> bool,
) -> Times {
    let frame = |va: u64| va - START + FIRST_FRAME;
    let all = |peer: &dyn Fn(u64) -> u64, what: &str, right: &dyn Fn(u64, u64) -> bool| {
        let wrong = pages.in_order().find(|&va| !right(va, peer(va)));
        assert!(wrong.is_none(), "{name}: {what} at {:#x}", wrong.unwrap_or_default());
    };
    let maps = |va: u64, entry: u64| entry & ADDRESS == frame(va) && is_writable(entry);
    let protects = |va: u64, entry: u64| entry & ADDRESS == frame(va) && !is_writable(entry);
    let mut times: Times = [None; ROWS.len()];
    let mut time = |row: usize, f: &mut dyn FnMut()| {
        let start = thread_ns();
        f();
        times[row] = Some((thread_ns() - start) as f64 / pages.count as f64);
    };
    time(0, &mut || pages.in_order().for_each(|va| peer.map_one(va, frame(va))));
    all(&|va| peer.entry(va), "map one", &maps);
    time(2, &mut || walk(peer, pages.in_order()));
    time(3, &mut || walk(peer, pages.at_random()));
    time(4, &mut || pages.in_order().for_each(|va| peer.protect_one(va)));
    all(&|va| peer.entry(va), "protect one", &protects);
    time(6, &mut || pages.in_order().for_each(|va| peer.unmap_one(va)));
    all(&|va| peer.entry(va), "unmap one", &|_, entry| entry & 1 == 0);
    if ranges(peer) {
        time(1, &mut || peer.map_range(START, FIRST_FRAME, pages.count));
        all(&|va| peer.entry(va), "map range", &maps);
        time(5, &mut || peer.protect_range(START, pages.count));
        all(&|va| peer.entry(va), "protect range", &protects);
        time(7, &mut || peer.unmap_range(START, pages.count));
        all(&|va| peer.entry(va), "unmap range", &|_, entry| entry & 1 == 0);
    }
    times
}

fn ranges<P: Peer>(_: &P) -> bool {
    P::RANGES
}

fn walk(peer: &impl Peer, pages: impl Iterator<Item = u64>) {
    let found = pages.fold(0, |sum: u64, va| sum.wrapping_add(peer.walk(va)));
    assert_ne!(black_box(found), 0, "nothing was found");
}

fn medians(entrant: &Entrant<'_>) -> Times {
    std::array::from_fn(|row| {
        let times: Option<Vec<f64>> = entrant.rounds.iter().map(|times| times[row]).collect();
        times.map(median)
    })
}

fn header(first: &str) -> Vec<String> {
    std::iter::once(first).chain(ROWS).map(str::to_owned).collect()
}

fn by_library(entrants: &[Entrant<'_>]) -> Table {
    let mut table = Table::new("Nanoseconds an entry", header("library"));
    for entrant in entrants {
        let cells = medians(entrant).map(Cell::ns);
        table.row(entrant.label(), cells);
    }
    table
}

/// This library against the best other one, and ranges against the loop by hand.
fn ratios(entrants: &[Entrant<'_>]) -> Table {
    let title = "Times the best of the other libraries (and of the loop by hand)";
    let mut table = Table::new(title, header("kpkeys"));
    let best = |kind: Kind, row: usize| {
        entrants
            .iter()
            .filter(|entrant| entrant.kind == kind)
            .filter_map(|entrant| medians(entrant)[row])
            .min_by(f64::total_cmp)
    };
    for entrant in entrants.iter().filter(|entrant| entrant.kind == Kind::Ours) {
        let times = medians(entrant);
        let cells = std::array::from_fn::<_, { ROWS.len() }, _>(|row| {
            let ratio = |kind| Some(times[row]? / best(kind, row)?);
            Cell::ratios(ratio(Kind::Other), ratio(Kind::Hand))
        });
        table.row(entrant.name.to_owned(), cells);
    }
    table
}

/// A generator for the order of rounds.
pub fn generator(seed: u64) -> SmallRng {
    let mut rng = <SmallRng as rand::SeedableRng>::seed_from_u64(seed);
    rng.random::<u64>();
    rng
}
