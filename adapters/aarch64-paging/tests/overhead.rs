//! What a call costs beside the bare crate, in instructions counted by callgrind. On request, since it takes a release build and valgrind:
//!
//! ```console
//! $ cargo test --release -p kpkeys-aarch64-paging --test overhead -- --ignored --nocapture
//! ```
//!
//! Both keep their tables in ordinary memory of this process. A window is two stores of a flag, in the place of two MSR of PSTATE.PAN.

use std::process::Command;
use std::ptr::NonNull;

use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress, VirtualAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, PageTable, Translation, VaRange};
use kpkeys::pan::Pan;
use kpkeys_aarch64_paging::{Layout, Pool, Tables, Updatable, Views};
use kpkeys_hosted::register::PanRegister;

const TASK: &str = "KPKEYS_OVERHEAD";
const PAGES: usize = 64;
const VA: usize = 0x40_0000_0000;
const PA: PhysicalAddress = PhysicalAddress(0x80_0000_0000);
const FLAGS: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::USER)
    .union(El1Attributes::NON_GLOBAL);
const CASES: [(&str, &str); 5] = [
    ("page", "map and unmap a page"),
    ("tables", "map a page and unmap all, with three tables"),
    ("protect", "make a page read-only and writable"),
    ("range", "map and unmap 512 pages, a call each"),
    ("single", "map and unmap 512 pages, 1,024 calls"),
];

fn pages(first: usize, count: usize) -> MemoryRegion {
    MemoryRegion::new(VA + first * 4096, VA + (first + count) * 4096)
}

fn read_only(_: &MemoryRegion, entry: &mut Updatable<'_>) -> Result<(), ()> {
    entry.modify_flags(El1Attributes::READ_ONLY, El1Attributes::empty())
}

fn writable(_: &MemoryRegion, entry: &mut Updatable<'_>) -> Result<(), ()> {
    entry.modify_flags(El1Attributes::empty(), El1Attributes::READ_ONLY)
}

/// The calls that both have, to be made.
trait Calls {
    fn map(&mut self, range: &MemoryRegion, flags: El1Attributes);
    fn modify(
        &mut self,
        range: &MemoryRegion,
        f: &dyn Fn(&MemoryRegion, &mut Updatable<'_>) -> Result<(), ()>,
    );

    fn unmap(&mut self, range: &MemoryRegion) {
        self.map(range, El1Attributes::empty());
    }
}

impl Calls for Tables<'_, Pan<PanRegister>> {
    fn map(&mut self, range: &MemoryRegion, flags: El1Attributes) {
        self.map_range(range, PA, flags, Constraints::NO_BLOCK_MAPPINGS).expect("mapped");
    }

    fn modify(
        &mut self,
        range: &MemoryRegion,
        f: &dyn Fn(&MemoryRegion, &mut Updatable<'_>) -> Result<(), ()>,
    ) {
        self.modify_range(range, f).expect("modified");
    }
}

impl Calls for Mapping<Plain, El1And0> {
    fn map(&mut self, range: &MemoryRegion, flags: El1Attributes) {
        let pa = if flags.is_empty() { PhysicalAddress(range.start().0) } else { PA };
        self.map_range(range, pa, flags, Constraints::NO_BLOCK_MAPPINGS).expect("mapped");
    }

    fn modify(
        &mut self,
        range: &MemoryRegion,
        f: &dyn Fn(&MemoryRegion, &mut Updatable<'_>) -> Result<(), ()>,
    ) {
        self.modify_range(range, f).expect("modified");
    }
}

/// Pages for tables, at the addresses they have.
struct Plain(Vec<NonNull<u8>>);

impl Translation<El1Attributes> for Plain {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El1Attributes>>, PhysicalAddress) {
        let page = self.0.pop().expect("enough of them");
        // SAFETY: a page of `memory`, which nothing else has.
        unsafe { page.write_bytes(0, 4096) };
        (page.cast(), PhysicalAddress(page.addr().get()))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<El1Attributes>>) {
        self.0.push(table.cast());
    }

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<El1Attributes>> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(pa.0)).expect("not at zero")
    }
}

/// Pages that live as long as the process.
fn memory() -> *mut u8 {
    let pages: Vec<PageTable<El1Attributes>> = (0..PAGES).map(|_| PageTable::EMPTY).collect();
    let first = pages.leak().as_mut_ptr().cast::<u8>();
    let _ = first.expose_provenance();
    first
}

fn repeat(case: &str, calls: &mut dyn Calls, times: usize) {
    // So that the tables of the page are there, and stay.
    if case != "tables" {
        calls.map(&pages(600, 1), FLAGS);
        calls.map(&pages(511, 1), FLAGS);
    }
    for _ in 0..times {
        match case {
            "page" => {
                calls.map(&pages(3, 1), FLAGS);
                calls.unmap(&pages(3, 1));
            }
            "tables" => {
                calls.map(&pages(3, 1), FLAGS);
                calls.unmap(&MemoryRegion::new(0, 1 << 39));
            }
            "protect" => {
                calls.modify(&pages(511, 1), &read_only);
                calls.modify(&pages(511, 1), &writable);
            }
            "range" => {
                calls.map(&pages(700, 512), FLAGS);
                calls.unmap(&pages(700, 512));
            }
            _ => {
                (700..1212).for_each(|page| calls.map(&pages(page, 1), FLAGS));
                (700..1212).for_each(|page| calls.unmap(&pages(page, 1)));
            }
        }
    }
}

/// Does nothing unless this process is one that is counted.
#[test]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let words: Vec<&str> = task.split(' ').collect();
    let [who, case, times] = words[..] else { panic!("{TASK} has three words") };
    let (memory, times) = (memory(), times.parse().expect("a number"));
    if who == "bare" {
        let page = |n: usize| NonNull::new(memory.wrapping_add(n * 4096)).expect("not at zero");
        let plain = Plain((0..PAGES).map(page).collect());
        let mut tables = Mapping::with_asid_and_va_range(plain, 1, 0, El1And0, VaRange::Lower);
        tables.mark_active();
        repeat(case, &mut tables, times);
        tables.mark_inactive();
        return;
    }
    let (linear, alias) =
        (VirtualAddress(0xffff_8000_0000_0000), VirtualAddress(0xffff_a000_0000_0000));
    let layout =
        Layout { start: PhysicalAddress(0x4000_0000), pages: PAGES, linear, alias: Some(alias) };
    let backend = Pan::new(PanRegister);
    backend.reset();
    let views = Views { linear: memory, alias: memory };
    // SAFETY: memory that nothing else has, at one address for both views; one thread is its one CPU.
    let pool = unsafe { Pool::through(layout, views, backend) }.expect("a fit layout");
    let mut tables = Tables::new(&pool, 1, 0, VaRange::Lower).expect("room");
    tables.mark_active();
    repeat(case, &mut tables, times);
    tables.mark_inactive();
}

fn instructions(who: &str, case: &str, times: usize) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("a test knows its program"))
        .args(["--exact", "child", "--test-threads=1"])
        .env(TASK, format!("{who} {case} {times}"))
        .output()
        .expect("valgrind is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    collected.expect("callgrind counts").1.trim().parse().expect("a number")
}

#[test]
#[ignore = "needs valgrind, and a release build to mean anything; half a minute"]
fn instructions_beside_the_bare_crate() {
    for (case, what) in CASES {
        let times = if case == "single" { 10 } else { 1_000 };
        let each = |who| {
            (instructions(who, case, 2 * times) - instructions(who, case, times)) / times as u64
        };
        let (bare, ours) = (each("bare"), each("windows"));
        let more = 100.0 * (ours as f64 - bare as f64) / bare as f64;
        println!("| {what} | {bare} | {ours} | {more:+.0} % |");
        assert!(ours > bare, "what is not counted costs nothing");
    }
}
