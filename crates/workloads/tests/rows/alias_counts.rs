//! Every row with page tables behind an alias, against the same row with keys: what differs is what the two ways to protect a page
//! cost, and nothing else.
//!
//! | count | by alias, against by key | why |
//! |---|---|---|
//! | barriers | none of the windows' | PSTATE.PAN synchronises itself |
//! | stores to the linear map's tables and the alias's | one more for each change of protection | the page's second mapping is made or taken away |
//! | windows, mode `unbatched` | the same number more | a window around each store; in the others one window has both |
//! | TLB flushes | one more for each page that is given back | two addresses must be flushed where they go, one where they come |
//! | windows, `fused`, vmalloc rows | one for each map and each unmap | where windows are cheap no unmap waits for another's |
//!
//! Everything else is equal: stores to page tables, tables, changes of protection, windows of the other modes.
//!
//! An alias that windows load a root for (`ttbr0`) costs the second stores and flushes too. Its windows have the barriers that keys' have, and unmaps wait as with keys.

use kpkeys_hosted::HostedFormat;
use kpkeys_mm::Kernel;
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::{Event, Machine, Mode};
use kpkeys_workloads::{ALL_ROWS, Row, Test};

use crate::support::{
    Events, assert_clean_and_nothing_leaked, counted, for_both_formats, kernel,
    kernel_behind_alias, kernel_with_window_root, row, run,
};

/// How many ranges a vmalloc row maps and unmaps.
fn ranges(row: &Row, loops: u64) -> u64 {
    match row.test {
        Test::FullFit => 2 * 8192 + loops,
        Test::LongBusyList => 15_000 + 2 * loops,
        _ => loops,
    }
}

/// What a row does behind an alias, from what it does with keys.
fn expected(mode: Mode, by_key: Events, barriers_of_entries: u64) -> Events {
    // Without a pool every table that is freed is given back; with it no row gives back a block.
    let given_back = match mode {
        Mode::Unbatched | Mode::Batched => by_key.ptps_freed,
        Mode::Off | Mode::FusedLean | Mode::Fused => 0,
    };
    let second_stores = by_key.key_changes;
    let windows = match mode {
        Mode::Unbatched | Mode::Fused => second_stores,
        // A key change has one window.
        Mode::Off | Mode::FusedLean | Mode::Batched => 0,
    };
    Events {
        linear_stores: by_key.linear_stores + second_stores,
        windows: by_key.windows + windows,
        barriers: barriers_of_entries,
        tlb_flushes: by_key.tlb_flushes + given_back,
        ..by_key
    }
}

/// Links the tables of more kernel addresses than any row reaches.
fn link_tables<M: Machine>(kernel: &Kernel<M>) {
    let frame = kernel.frames().new_frame().expect("memory");
    let frames = vec![frame.address(); 1 << 17];
    let start = kernel.vm_map_ram(&frames).expect("memory");
    kernel.vm_unmap_ram(start, frames.len()).expect("a mapping");
    kernel.purge_vmalloc();
    kernel.frames().free_frame(frame);
}

fn rows_differ_from_those_by_key_by_what_the_alias_costs<F: HostedFormat>() {
    for mode in Mode::ALL {
        let (by_key, by_alias) = (kernel::<F>(mode), kernel_behind_alias::<F>(mode));
        let with_keys = &by_key;
        if mode.fuses() {
            // An unmap that waits may put the next area one place further on, behind the last table there is.
            link_tables(&by_key);
            link_tables(&by_alias);
        }
        for row in &ALL_ROWS {
            let what = format!("{} {mode:?}", row.result_class);
            let (_, counts) = run(&by_key, row, 100);
            let by_key = Events::of(&counts);
            let (timing, counts) = run(&by_alias, row, 100);
            let found = Events::of(&counts);
            // How many barriers entries want is another test's business (`vmalloc_counts`). That they are all there are is seen below.
            let mut expected = expected(mode, by_key, found.barriers);
            if mode.fuses() && row.benchmark == "vmalloc" {
                // Each range is mapped and unmapped in windows of its own; where they are gates, they were before.
                if mode == Mode::FusedLean {
                    expected.windows = 2 * ranges(row, timing.operations) + by_key.key_changes;
                }
                // Nor beyond the end of the row.
                let ((), late) = counted(with_keys, || with_keys.purge_vmalloc());
                expected.entry_stores += late.entry_stores;
                if mode == Mode::Fused {
                    // A gate for each table of a range, or for each contiguous run that it is mapped by; at other addresses than by
                    // key, where ranges wait.
                    let least = 2 * ranges(row, timing.operations);
                    let most = least + found.entry_stores / 16;
                    assert!((least..=most).contains(&found.windows), "{what}: {found:?}");
                    expected.windows = found.windows;
                }
                by_alias.purge_vmalloc();
                // Nor does the purge wait that the last unmap begins.
                let sooner = found.tlb_flushes - by_key.tlb_flushes;
                assert!(sooner <= 1, "{what}: {sooner} purges more");
                expected.tlb_flushes += sooner;
            }
            assert_eq!(found, expected, "{what}");
            // With keys each window has two more, less those that an entry's barrier was merged with.
            let merged = 2 * by_key.windows + found.barriers - by_key.barriers;
            assert!(merged <= by_key.windows.min(found.barriers), "{what}: {merged} merged");
            if !F::VALID_KERNEL_STORE_NEEDS_BARRIER {
                assert_eq!(found.barriers, 0, "{what}");
            }
        }
    }
}

/// With a window root: by keys, but for the second mapping. (With the pool, where a block is taken depends on what the pool had, which is one page less; an operation that is
/// interrupted by that has a window more.)
#[test]
fn rows_with_a_window_root_differ_from_those_by_key_by_the_second_mapping() {
    for mode in Mode::ALL.into_iter().filter(|mode| !mode.fuses()) {
        let (by_key, by_root) = (kernel::<Aarch64>(mode), kernel_with_window_root::<Aarch64>(mode));
        for row in &ALL_ROWS {
            let by_key = Events::of(&run(&by_key, row, 100).1);
            let found = Events::of(&run(&by_root, row, 100).1);
            let expected = expected(mode, by_key, found.barriers);
            assert_eq!(found, expected, "{} {mode:?}", row.result_class);
            // Two to each window that is one more.
            let more = 2 * (found.windows - by_key.windows);
            assert_eq!(found.barriers, by_key.barriers + more, "{} {mode:?}", row.result_class);
        }
    }
}

#[test]
fn every_row_leaves_all_tables_behind_a_window_root() {
    for mode in Mode::ALL {
        let kernel = kernel_with_window_root::<Aarch64>(mode);
        for row in &ALL_ROWS {
            run(&kernel, row, 100);
        }
        kernel.purge_vmalloc();
        assert_clean_and_nothing_leaked(&kernel, &format!("{mode:?}"));
    }
}

fn user_rows_have_no_barrier_at_all<F: HostedFormat>() {
    for mode in Mode::ALL {
        let kernel = kernel_behind_alias::<F>(mode);
        for name in ["fork: h:0", "munmap: h:0"] {
            let (_, counts) = run(&kernel, row(name), 1);
            assert_eq!(counts.of(Event::Barrier), 0, "{name} {mode:?}");
            let has_windows = counts.of(Event::WindowOpened) > 0;
            assert_eq!(has_windows, mode.protects(), "{name} {mode:?}");
        }
    }
}

fn every_row_leaves_all_tables_behind_their_alias<F: HostedFormat>() {
    for mode in Mode::ALL {
        let kernel = kernel_behind_alias::<F>(mode);
        assert_clean_and_nothing_leaked(&kernel, "boot");
        for row in &ALL_ROWS {
            run(&kernel, row, 100);
            kernel.purge_vmalloc();
            assert_clean_and_nothing_leaked(&kernel, &format!("{} {mode:?}", row.result_class));
        }
    }
}

for_both_formats!(
    rows_differ_from_those_by_key_by_what_the_alias_costs,
    user_rows_have_no_barrier_at_all,
    every_row_leaves_all_tables_behind_their_alias,
);
