//! Windows of the modes that fuse are bounded, whatever the operation: no more than `FUSED_WINDOW_STORES` stores in one of mode
//! `fused-lean`, and `GATE_STORES` in a gate of mode `fused`.

use std::num::NonZeroUsize;

use crate::support::{KERNEL, Keys, Protection, System, USER, pages};
use kpkeys::Pkey;
use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::range::{Share, WriteProtect};
use kpkeys_pgtable::section::{FUSED_WINDOW_STORES, GATE_STORES};
use kpkeys_pgtable::table::Slots;
use kpkeys_pgtable::{Attrs, Config, Entry, Error, Format, Level, Mode, PhysAddr, Root, VirtAddr};

/// Pages of an operation that does not fit one window.
const MANY: usize = 3 * FUSED_WINDOW_STORES + 100;
const MEMORY: usize = 128 << 8;

const MODES: [Mode; 2] = [Mode::FusedLean, Mode::Fused];

fn boot<F: HostedFormat, S: Protection>(mode: Mode) -> System<F, S> {
    System::boot(Config { mode, linear: Level::Pte, pool: true }, MEMORY)
}

/// Runs an operation and asserts that it was long enough, and its windows were not.
fn bounded<F: HostedFormat, S: Protection, R>(
    system: &System<F, S>,
    what: &str,
    operation: impl FnOnce() -> R,
) -> R {
    use kpkeys_pgtable::{Event, Machine};
    system.machine().probe().reset_longest();
    let (counts, result) = system.counted(operation);
    let stores: u64 = [Event::EntryStore, Event::UpperStore, Event::LinearStore]
        .into_iter()
        .map(|event| counts.of(event))
        .sum();
    let is_lean = system.paging.mode() == Mode::FusedLean;
    let bound = if is_lean { FUSED_WINDOW_STORES } else { GATE_STORES } as u64;
    assert!(stores > bound, "{what}: {stores} stores show nothing");
    assert!(counts.longest_window_stores <= bound, "{what}: {}", counts.longest_window_stores);
    // Bounded, and still fused: not more windows than needed, give or take the pieces that do not fit.
    let windows = counts.of(Event::WindowOpened);
    assert!(!is_lean || windows <= 2 * stores.div_ceil(bound), "{what}: {windows} windows");
    result
}

/// Shares every page of a run that counts up.
struct TakeAll<F>(std::marker::PhantomData<F>);

impl<F: Format> Share for TakeAll<F> {
    type Error = Error;

    fn share(&mut self, first: Entry, run: Slots<'_>) -> Result<NonZeroUsize, Error> {
        let consecutive = |&i: &usize| run.slot(i).load().0 == first.0 + i as u64 * 4096;
        let pages = (0..run.len()).take_while(consecutive).count();
        Ok(NonZeroUsize::new(pages).expect("the first is consecutive to itself"))
    }
}

fn range_operations_are_bounded<F: HostedFormat, S: Protection>() {
    MODES.into_iter().for_each(range_operations_are_bounded_in::<F, S>);
}

fn range_operations_are_bounded_in<F: HostedFormat, S: Protection>(mode: Mode) {
    let system = boot::<F, S>(mode);
    let (range, frame) = (pages(USER, MANY), PhysAddr(0x1_0000_0000));
    let (parent, child): (Root, Root) = (system.new_user_root(), system.new_user_root());
    bounded(&system, "map", || system.map(&parent, range, Attrs::USER_DATA, frame)).unwrap();
    bounded(&system, "copy", || {
        let section = system.paging.section(&child);
        let mut share = TakeAll::<F>(std::marker::PhantomData);
        system.paging.copy(&section, &parent, &child, range, &mut share)
    })
    .unwrap();
    bounded(&system, "protect", || {
        let section = system.paging.section(&parent);
        system.paging.protect(&section, &parent, range, WriteProtect)
    })
    .unwrap();
    let unmapped = bounded(&system, "unmap", || system.unmap(&child, range));
    assert_eq!(unmapped, Ok(MANY));
}

fn mapping_and_unmapping_blocks_is_bounded<F: HostedFormat, S: Protection>() {
    MODES.into_iter().for_each(mapping_and_unmapping_blocks_is_bounded_in::<F, S>);
}

fn mapping_and_unmapping_blocks_is_bounded_in<F: HostedFormat, S: Protection>(mode: Mode) {
    let system = boot::<F, S>(mode);
    let blocks = FUSED_WINDOW_STORES + 900;
    let range = pages(KERNEL, blocks * 512);
    // No RAM: RAM of that size has tables in it.
    let (kernel, frame) = (system.paging.kernel(), PhysAddr(0x2_0000_0000));
    bounded(&system, "map_contiguous", || {
        let section = system.paging.section(kernel);
        system.paging.map_contiguous(&section, kernel, range, Attrs::DEVICE, frame)
    })
    .unwrap();
    assert_eq!(bounded(&system, "unmap", || system.unmap(kernel, range)), Ok(blocks));
}

fn freeing_tables_is_bounded<F: HostedFormat, S: Protection>() {
    MODES.into_iter().for_each(freeing_tables_is_bounded_in::<F, S>);
}

fn freeing_tables_is_bounded_in<F: HostedFormat, S: Protection>(mode: Mode) {
    let system = boot::<F, S>(mode);
    let user = system.new_user_root();
    let tables = FUSED_WINDOW_STORES + 100;
    let section = system.paging.section(&user);
    for i in 0..tables {
        let va = VirtAddr(USER.0 + ((i as u64) << 21));
        system.paging.table_for(&section, &user, va, Level::Pte).unwrap();
    }
    drop(section);
    let range = pages(USER, tables * 512);
    let freed = bounded(&system, "free_tables", || system.free_user_tables(&user, range));
    assert!(freed >= tables);
}

fn setting_keys_is_bounded<F: HostedFormat>() {
    let system = boot::<F, Keys>(Mode::FusedLean);
    // 4 MiB blocks that happen to be adjacent would not be enough: the bound is 16 MiB of pages.
    let free = PhysAddr(0x1_0000_0000 + (MEMORY as u64 / 2) * 4096);
    let key = Pkey::new(2).unwrap();
    bounded(&system, "set_memory_pkey", || system.paging.set_memory_pkey(free, MANY, key)).unwrap();
    assert_eq!(system.paging.memory_pkey(free), Some(key));
}

for_both_formats_and_schemes!(
    range_operations_are_bounded,
    mapping_and_unmapping_blocks_is_bounded,
    freeing_tables_is_bounded,
);

mod keys {
    use super::*;

    for_both_formats!(setting_keys_is_bounded);
}
