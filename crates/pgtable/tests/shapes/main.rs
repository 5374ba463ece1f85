//! What the shape of a format's tables comes to: how many tables, stores and switches the standard operations take, for each format.
//!
//! What is expected is derived from the format's constants: a page whose tables are missing takes one of them for each level below the root, and each
//! takes what one takes.

// What it has for other tests is not used here.
#[allow(dead_code, unused_imports, unused_macros, clippy::allow_attributes)]
#[path = "../pgtable/support/mod.rs"]
mod support;

use crate::support::{System, USER, pages};
use kpkeys_hosted::mmu::Fault;
use kpkeys_hosted::{Counts, HostedFormat};
use kpkeys_pgtable::addr::PIECE_ENTRIES;
use kpkeys_pgtable::{
    Attrs, Config, Entry, Event, Flush, Format, Level, Mode, PageRange, PhysAddr, Root, VirtAddr,
};

const MEMORY: usize = 16 << 8;
const COUNTED: [Event; 7] = [
    Event::PtpAllocated,
    Event::UpperStore,
    Event::EntryStore,
    Event::Switch,
    Event::WindowOpened,
    Event::KeyChange,
    Event::TlbFlush,
];

fn boot<F: HostedFormat>(mode: Mode) -> System<F> {
    let system = System::boot(Config::of(mode), MEMORY);
    // The pool, where there is one, has its pages before anything is counted.
    let user = system.new_user_root();
    let range = pages(USER, 1);
    system.map(&user, range, Attrs::USER_DATA, system.data_block(0)).unwrap();
    system.end_user(user, range);
    system
}

fn of(counts: &Counts) -> [u64; COUNTED.len()] {
    COUNTED.map(|event| counts.of(event))
}

/// A page of an address space that has tables for some levels of it: counts of mapping it.
fn map<F: HostedFormat>(system: &System<F>, user: &Root, va: VirtAddr) -> [u64; COUNTED.len()] {
    let frame = system.data_block(0);
    let map = || system.map(user, pages(va, 1), Attrs::USER_DATA, frame).unwrap();
    of(&system.counted(map).0)
}

/// Tables below the root, each for what one takes; and they all come back.
fn a_page_takes_a_table_of_each_level<F: HostedFormat>() {
    for mode in Mode::ALL {
        let system = boot::<F>(mode);
        let user = system.new_user_root();
        let far = VirtAddr(USER.0 & !(Level::Pmd.table_bytes::<F>() - 1));
        let first = map(&system, &user, far);
        let beside = map(&system, &user, far.offset(F::PAGE_SIZE));
        let in_next_table = map(&system, &user, far.offset(Level::Pmd.entry_bytes::<F>()));
        let tables = F::ABOVE_PTE.len() as u64;
        assert_eq!(first[..3], [tables, tables, 1], "{} {mode:?}", F::NAME);
        assert_eq!(beside[..3], [0, 0, 1], "{} {mode:?}", F::NAME);
        assert_eq!(in_next_table[..3], [1, 1, 1], "{} {mode:?}", F::NAME);
        let derived: Vec<u64> = (0..beside.len())
            .map(|i| beside[i] + tables * (in_next_table[i] - beside[i]))
            .collect();
        // In `fused-lean` one window is for all of it, however many tables.
        let same = if mode == Mode::FusedLean { 3 } else { first.len() };
        assert_eq!(first[..same], derived[..same], "{} {mode:?}: {COUNTED:?}", F::NAME);
        let range = pages(far, Level::Pmd.entry_pages::<F>() + 1);
        let (freed, ()) = system.counted(|| system.end_user(user, range));
        assert_eq!(freed.of(Event::PtpFreed), tables + 1 + 1, "{} {mode:?}: and the root", F::NAME);
        system.assert_clean(&[]);
    }
}

/// Gates and lazy-MMU sections are as long with large tables as with small ones: pieces of 512 entries.
fn a_large_table_is_changed_in_pieces<F: HostedFormat>() {
    let table = F::ENTRIES.min(4 * PIECE_ENTRIES);
    for mode in [Mode::Batched, Mode::Fused] {
        let system = boot::<F>(mode);
        let (user, frame) = (system.new_user_root(), system.data_block(0));
        let start = VirtAddr(USER.0 & !(Level::Pmd.entry_bytes::<F>() - 1));
        system.map(&user, pages(start, 1), Attrs::USER_DATA, frame).unwrap();
        system.unmap(&user, pages(start, 1)).unwrap();
        let section = system.paging.section(&user);
        let all = pages(start, table);
        let map = || system.paging.map(&section, &user, all, Attrs::USER_DATA, |_| frame);
        let (counts, mapped) = system.counted(map);
        mapped.unwrap();
        let pieces = (table / PIECE_ENTRIES) as u64;
        assert_eq!(counts.of(Event::EntryStore), table as u64, "{} {mode:?}", F::NAME);
        assert_eq!(counts.of(Event::WindowOpened), pieces, "{} {mode:?}", F::NAME);
        assert_eq!(counts.of(Event::Switch), 2 * pieces, "{} {mode:?}", F::NAME);
    }
}

/// The largest leaves that fit: blocks of the level above PTEs, runs as the architecture has them, pages.
fn contiguous_memory_is_mapped_by_runs<F: HostedFormat>() {
    let system = boot::<F>(Mode::Fused);
    let user = system.new_user_root();
    let start = VirtAddr(USER.0 & !(Level::Pmd.entry_bytes::<F>() - 1));
    let run = F::CONT_PAGES;
    let order = (4 * run).ilog2() as u8;
    let frame = system.data_block(order);
    let range: PageRange<F> = pages(start.offset_pages::<F>(1), 3 * run);
    let section = system.paging.section(&user);
    let first = frame.offset(F::PAGE_SIZE);
    system.paging.map_contiguous(&section, &user, range, Attrs::USER_DATA, first).unwrap();
    drop(section);
    for page in 0..3 * run {
        let va = range.start().offset_pages::<F>(page);
        let (level, _, entry) = system.paging.walk(&user, va).unwrap();
        assert_eq!(
            (level, F::frame(level, entry)),
            (Level::Pte, first.offset(page as u64 * F::PAGE_SIZE))
        );
        // Up to the first boundary, and what is left behind the last, are pages.
        let in_run = page + 1 >= run && page + 1 < 3 * run;
        assert_eq!(F::is_contiguous(entry), F::HAS_CONT && in_run, "{} page {page}", F::NAME);
    }
}

/// The MMU follows tables of every level, to the highest frame that memory has; what is not canonical for the format is refused.
fn the_mmu_follows_the_levels<F: HostedFormat>() {
    let system = boot::<F>(Mode::Fused);
    let user = system.new_user_root();
    let frame = system.data_block(0);
    let last = VirtAddr((1 << F::HALF_BITS) - F::PAGE_SIZE);
    for va in [USER, last] {
        system.map(&user, pages(va, 1), Attrs::USER_DATA, frame).unwrap();
        let mut mmu = system.mmu(Some(&user));
        mmu.cpu.pan = false;
        assert_eq!(mmu.store(va.offset(8), 0x5eed), Ok(()), "{} {va:?}", F::NAME);
        assert_eq!(system.read(frame, 1), Entry(0x5eed));
        system.plant(frame, 1, Entry::EMPTY);
        let beyond = VirtAddr(1 << F::HALF_BITS);
        assert_eq!(mmu.store(beyond, 0), Err(Fault::NotCanonical), "{}", F::NAME);
    }
    // An attacker's store to a table of each level.
    let mut table = user.frame();
    for &level in F::ABOVE_PTE {
        let mmu = system.mmu(Some(&user));
        let attack = mmu.store(system.linear(table), 0);
        assert!(matches!(attack, Err(Fault::Key(_))), "{} {level:?}: {attack:?}", F::NAME);
        table = F::frame(level, system.read(table, last.index::<F>(level)));
    }
    assert_eq!(
        system.read(table, last.index::<F>(Level::Pte)),
        system.paging.walk(&user, last).unwrap().2
    );
    system.assert_clean(&[&user]);
    system.paging.flush(Flush::AddressSpace(user.frame()));
}

/// Addresses and frames of 57 and 52 bits are not those of 48.
#[test]
fn what_a_format_cannot_express_is_refused() {
    use kpkeys_pgtable::entry::{Aarch64, Aarch64_16K, Aarch64Lpa2, X86_64, X86_64La57};
    fn range<F: Format>(start: u64) -> bool {
        PageRange::<F>::new(VirtAddr(start), 1).is_ok()
    }
    let high = 1 << 50;
    assert!(range::<X86_64La57>(high) && range::<Aarch64Lpa2>(high));
    assert!(!range::<X86_64>(high) && !range::<Aarch64>(high) && !range::<Aarch64_16K>(high));
    assert!(range::<X86_64La57>(!0 << 56) && !range::<Aarch64Lpa2>(!0 << 56));
    assert!(range::<Aarch64>(0x1000) && !range::<Aarch64_16K>(0x1000), "a page is 16 KiB");
    let leaf = |frame| X86_64::leaf(Level::Pte, frame, Attrs::USER_DATA);
    assert_eq!(leaf(PhysAddr(1 << 50)), None);
    assert!(X86_64La57::leaf(Level::Pte, PhysAddr(1 << 50), Attrs::USER_DATA).is_some());
}

macro_rules! for_every_format {
    ($($name:ident $format:ident)*) => {
        $(mod $name {
            use kpkeys_pgtable::entry::$format;
            #[test] fn a_page_takes_a_table_of_each_level() { super::a_page_takes_a_table_of_each_level::<$format>(); }
            #[test] fn a_large_table_is_changed_in_pieces() { super::a_large_table_is_changed_in_pieces::<$format>(); }
            #[test] fn contiguous_memory_is_mapped_by_runs() { super::contiguous_memory_is_mapped_by_runs::<$format>(); }
            #[test] fn the_mmu_follows_the_levels() { super::the_mmu_follows_the_levels::<$format>(); }
        })*
    };
}

for_every_format! {
    x86_64 X86_64
    x86_64_la57 X86_64La57
    aarch64 Aarch64
    aarch64_16k Aarch64_16K
    aarch64_64k Aarch64_64K
    aarch64_lpa2 Aarch64Lpa2
    aarch64_16k_lpa2 Aarch64_16KLpa2
    aarch64_64k_lpa Aarch64_64KLpa
}
