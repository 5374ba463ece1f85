//! What a long run of processes and areas leaves behind: blocks of the linear map that were split, which nothing joins again.

use kpkeys_hosted::boot::Timed;
use kpkeys_hosted::{Setup, boot};
use kpkeys_mm::{AddressSpace, Kernel, MapFlags};
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::{Config, Mode, PageRange, VirtAddr};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::entries::generator;
use crate::peer::{PAGE, START};
use crate::report::{Cell, Table};

type Booted = Kernel<Timed<Aarch64>>;
type Space<'k> = AddressSpace<'k, Timed<Aarch64>>;

/// 4 GiB, sparse.
const KERNEL_PAGES: usize = 4 << 18;
/// The most processes and areas at a time.
const ALIVE: usize = 200;

/// Does so many random things and tells how many blocks are split.
pub fn run(operations: usize) -> Table {
    let header = ["blocks of the linear map", "in all", "split after boot", "after the soak"];
    let title = format!("Split blocks of the linear map, {operations} operations");
    let mut table = Table::new(&title, header.map(str::to_owned).to_vec());
    let setup = Setup { pages: KERNEL_PAGES, cpus: 1, config: Config::of(Mode::FusedLean) };
    let kernel = boot::<Aarch64>(setup).expect("the host has addresses for a sparse arena");
    let before = kernel.paging().split_blocks();
    soak(&kernel, operations, &mut generator(2));
    let after = kernel.paging().split_blocks();
    let counts = [KERNEL_PAGES / 512, before, after];
    table.row("2 MiB, fused-lean".to_owned(), counts.map(Cell::count));
    table
}

/// Processes of random sizes and areas come and go.
fn soak(kernel: &Booted, operations: usize, rng: &mut SmallRng) {
    let mut spaces: Vec<Space<'_>> = Vec::new();
    let mut areas: Vec<VirtAddr> = Vec::new();
    for _ in 0..operations {
        match rng.random_range(0..4) {
            0 if spaces.len() < ALIVE => spaces.push(process(kernel, rng)),
            1 if areas.len() < ALIVE => {
                areas.push(kernel.vmalloc(rng.random_range(1..300)).expect("there is memory"));
            }
            2 if !spaces.is_empty() => drop(spaces.swap_remove(rng.random_range(0..spaces.len()))),
            3 if !areas.is_empty() => {
                let area = areas.swap_remove(rng.random_range(0..areas.len()));
                kernel.vfree(area).expect("it is an area");
            }
            _ => {}
        }
    }
    areas.into_iter().for_each(|area| kernel.vfree(area).expect("it is an area"));
    drop(spaces);
    kernel.purge_vmalloc();
    kernel.paging().shrink();
}

/// A process with a few mappings, far apart, so that it needs tables.
fn process<'k>(kernel: &'k Booted, rng: &mut SmallRng) -> Space<'k> {
    let mut space = AddressSpace::new(kernel).expect("there is memory");
    for i in 0..rng.random_range(1..20) {
        let start = VirtAddr(START + i * (PAGE << 18));
        let range = PageRange::new(start, rng.random_range(1..600)).expect("in the user's half");
        space.mmap(range, MapFlags::DATA).expect("nothing is there");
        space.populate(range).expect("there is memory");
    }
    space
}
