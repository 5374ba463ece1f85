//! The exact events of the fork and munmap rows, in every mode and both formats.
//!
//! N pages are mapped by T PTE tables. A window is two register writes. Beside the windows around entry stores, modes without pool
//! open one for each key change: setting or resetting a page's key is an entry store in the linear map's own tables.

use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::section::FUSED_WINDOW_STORES;
use kpkeys_pgtable::{Mode, PageRange, VirtAddr};
use kpkeys_workloads::process::{PAGES, populated};

use crate::support::{Events, counted, for_both_formats, kernel, row, run};

/// Pages of the mapping.
const N: u64 = PAGES as u64;
/// PTE tables that map them.
const T: u64 = N / 512;
/// Page-table pages a fork of the process makes: PTE tables, one PMD table, one PUD table, the root.
const FORK_PTPS: u64 = T + 3;
/// Page-table pages a munmap frees: PTE tables and the PMD table. The PUD table also translates another mapping.
const MUNMAP_PTPS: u64 = T + 1;
/// Tables after which munmap has gathered so many pages that another table might make it more than 10,000: it flushes then.
const GATHERED_TABLES: u64 = 19;
/// Entry stores a fused fork makes room for before it copies a table: both sides of each entry.
const FORK_TABLE_STORES: u64 = 2 * 512;

/// How many windows a fused operation opens for stores that come in such chunks: a chunk that would exceed the bound begins a new
/// window.
fn fused_windows(chunks: impl Iterator<Item = u64>) -> u64 {
    let mut windows = 1;
    let mut stores = 0;
    for chunk in chunks {
        if stores + chunk > FUSED_WINDOW_STORES as u64 {
            (windows, stores) = (windows + 1, 0);
        }
        stores += chunk;
    }
    windows
}

/// Entries of the kernel's half that a new user root is given: the linear map's and the vmalloc range's. arm64 has a root
/// register for the kernel's half, and copies none.
fn kernel_half<F: HostedFormat>() -> u64 {
    if F::USER_ROOT_HAS_KERNEL_HALF { 2 } else { 0 }
}

/// What a fork does that stores `per_page` entries for each page. `pool_blocks` is how many blocks the pool takes and keys for it.
fn fork<F: HostedFormat>(mode: Mode, per_page: u64, pool_blocks: u64) -> Events {
    // Linking a table is a store to the one above it: all tables but the root are linked.
    let upper_stores = FORK_PTPS - 1 + kernel_half::<F>();
    let key_changes = match mode {
        Mode::Off => 0,
        Mode::Unbatched | Mode::Batched => FORK_PTPS,
        Mode::FusedLean | Mode::Fused => pool_blocks,
    };
    let windows = match mode {
        Mode::Off => 0,
        // Each new table is zeroed in a window of its own, once it has its key.
        Mode::Unbatched => per_page * N + upper_stores + key_changes + FORK_PTPS,
        Mode::Batched => T + upper_stores + key_changes + FORK_PTPS,
        // One for the new root, then the copy's: two upper tables are linked, then each PTE table is linked and copied. The pool
        // takes its block before the root's window opens; the key change has its own.
        Mode::FusedLean => {
            let copied = (0..T).flat_map(|_| [1, FORK_TABLE_STORES]);
            1 + fused_windows([1, 1].into_iter().chain(copied)) + pool_blocks
        }
        // A gate each: every table is emptied and linked, the root emptied and made one, each PTE table copied. A new block's frames change
        // type in one, and their key in another.
        Mode::Fused => 2 + kernel_half::<F>() + 2 * (FORK_PTPS - 1) + T + 2 * pool_blocks,
    };
    Events {
        entry_stores: per_page * N,
        upper_stores,
        linear_stores: key_changes,
        windows,
        // User entries want no barrier of their own.
        barriers: 2 * windows,
        ptps_allocated: FORK_PTPS,
        ptps_freed: 0,
        key_changes,
        // The parent's, which lost write permission; one for each key change; and the pool flushes old kernel mappings of a block
        // before it keys it.
        tlb_flushes: 1 + key_changes + if mode.fuses() { pool_blocks } else { 0 },
    }
}

fn munmap(mode: Mode) -> Events {
    let flushes = T.div_ceil(GATHERED_TABLES);
    let key_changes = match mode {
        Mode::Off | Mode::FusedLean | Mode::Fused => 0,
        Mode::Unbatched | Mode::Batched => MUNMAP_PTPS,
    };
    let windows = match mode {
        Mode::Off => 0,
        Mode::Unbatched => N + MUNMAP_PTPS + key_changes,
        Mode::Batched => T + MUNMAP_PTPS + key_changes,
        // Closed at its bound, and for each flush but the last, which comes after the operation.
        // A gate for each table's entries, and one for each table that is unlinked.
        Mode::Fused => T + MUNMAP_PTPS,
        Mode::FusedLean => {
            let entries = |tables| (0..tables).map(|_| 512);
            let gathered = fused_windows(entries(GATHERED_TABLES)) * (flushes - 1);
            let last = entries(T - GATHERED_TABLES * (flushes - 1));
            gathered + fused_windows(last.chain((0..MUNMAP_PTPS).map(|_| 1)))
        }
    };
    Events {
        entry_stores: N,
        upper_stores: MUNMAP_PTPS,
        linear_stores: key_changes,
        windows,
        barriers: 2 * windows,
        ptps_allocated: 0,
        ptps_freed: MUNMAP_PTPS,
        key_changes,
        tlb_flushes: flushes + key_changes,
    }
}

/// Section 5's numbers, spelled out, so that the formulas above cannot drift together with the code.
#[test]
fn the_formulas_give_the_published_numbers() {
    use kpkeys_pgtable::entry::Aarch64;
    let unbatched = fork::<Aarch64>(Mode::Unbatched, 2, 0);
    assert_eq!((unbatched.entry_stores, unbatched.upper_stores), (524_288, 514));
    assert_eq!(unbatched.windows, 524_288 + 514 + 515 + 515);
    assert_eq!(fork::<Aarch64>(Mode::Batched, 2, 0).windows, 512 + 514 + 515 + 515);
    assert_eq!(fork::<Aarch64>(Mode::Unbatched, 1, 0).entry_stores, 262_144);
    assert_eq!(munmap(Mode::Unbatched).windows, 262_144 + 513 + 513);
    assert_eq!(munmap(Mode::Batched).windows, 512 + 513 + 513);
    assert_eq!(munmap(Mode::Off).ptps_freed, 512 + 1);
}

fn fork_stores_two_entries_a_page<F: HostedFormat>() {
    for name in ["fork: h:0", "fork: h:1"] {
        for mode in Mode::ALL {
            let kernel = kernel::<F>(mode);
            // At first the pool has no block for the child's tables. Later it has those of the child before.
            for pool_blocks in [1, 0] {
                let (timing, counts) = run(&kernel, row(name), 1);
                assert_eq!(timing.operations, 1);
                assert_eq!(Events::of(&counts), fork::<F>(mode, 2, pool_blocks), "{name} {mode:?}");
            }
        }
    }
}

fn fork_again_stores_one_entry_a_page<F: HostedFormat>() {
    for mode in Mode::ALL {
        let kernel = kernel::<F>(mode);
        let range = PageRange::new(VirtAddr(0x40_0000_0000), PAGES).expect("a good range");
        let mut parent = populated(&kernel, range, false).expect("memory for the parent");
        drop(parent.fork().expect("memory for the child"));
        let (child, events) = counted(&kernel, || parent.fork());
        child.expect("memory for the second child");
        assert_eq!(events, fork::<F>(mode, 1, 0), "{mode:?}");
    }
}

fn munmap_stores_one_entry_a_page<F: HostedFormat>() {
    for name in ["munmap: h:0", "munmap: h:1"] {
        for mode in Mode::ALL {
            let kernel = kernel::<F>(mode);
            for _ in 0..2 {
                let (timing, counts) = run(&kernel, row(name), 1);
                assert_eq!(timing.operations, 1);
                assert_eq!(Events::of(&counts), munmap(mode), "{name} {mode:?}");
            }
        }
    }
}

fn windows_cover_no_more_than_their_mode_allows<F: HostedFormat>() {
    for (name, fused, gate) in [
        // Three tables with the entries that link them, the next one's link, and in the first window the two upper tables'.
        ("fork: h:0", 2 + 3 * (1 + FORK_TABLE_STORES) + 1, 2 * 512),
        ("munmap: h:0", FUSED_WINDOW_STORES as u64, 512),
    ] {
        for (mode, longest) in [
            (Mode::Unbatched, 1),
            (Mode::Batched, if name.starts_with("fork") { 2 * 512 } else { 512 }),
            (Mode::FusedLean, fused),
            (Mode::Fused, gate),
        ] {
            let kernel = kernel::<F>(mode);
            run(&kernel, row(name), 1);
            let (_, counts) = run(&kernel, row(name), 1);
            assert_eq!(counts.longest_window_stores, longest, "{name} {mode:?}");
        }
    }
}

for_both_formats!(
    fork_stores_two_entries_a_page,
    fork_again_stores_one_entry_a_page,
    munmap_stores_one_entry_a_page,
    windows_cover_no_more_than_their_mode_allows,
);
