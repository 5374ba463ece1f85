//! The exact events of modes taken apart, in both formats: each is the whole mode without what was left out.

use kpkeys_hosted::boot::MockBackend;
use kpkeys_hosted::parts::{Measured, Null, WithoutDeferral, WithoutKeys};
use kpkeys_hosted::{HostedFormat, Setup, boot_measured_counted};
use kpkeys_pgtable::{Config, Mode};

use crate::support::{Events, PAGES, for_both_formats, row, run};

/// The second iteration of a row on a machine of this backend: the pool has its blocks by then.
fn events<F: HostedFormat, B: Measured>(config: Config, name: &str) -> Events {
    let setup = Setup { pages: PAGES, cpus: 1, config };
    let kernel = boot_measured_counted::<F, B>(setup).expect("the host has memory");
    run(&kernel, row(name), 1000);
    Events::of(&run(&kernel, row(name), 1000).1)
}

fn whole<F: HostedFormat>(mode: Mode, name: &str) -> Events {
    events::<F, MockBackend<F>>(Config::of(mode), name)
}

/// Page-table pages that are keyed, or no longer, and in modes without pool each by itself.
const KEYED: [(&str, u64); 2] = [("fork: h:0", 515), ("munmap: h:0", 513)];

/// Every key change has a store to the linear map, a flush, and where windows are opened one with two barriers.
fn without_keys(whole: Events) -> Events {
    let keys = whole.key_changes;
    Events {
        key_changes: 0,
        linear_stores: whole.linear_stores - keys,
        tlb_flushes: whole.tlb_flushes - keys,
        windows: whole.windows - keys,
        barriers: whole.barriers - 2 * keys,
        ..whole
    }
}

fn switches_alone_are_the_whole_without_keys<F: HostedFormat>() {
    for mode in [Mode::Unbatched, Mode::Batched] {
        for (name, keys) in KEYED {
            let whole = whole::<F>(mode, name);
            assert_eq!(whole.key_changes, keys, "{name} {mode:?}");
            let part = events::<F, WithoutKeys<MockBackend<F>>>(Config::of(mode), name);
            assert_eq!(part, without_keys(whole), "{name} {mode:?}");
            assert!(part.windows > 512, "{name} {mode:?}: {part:?}");
        }
    }
}

fn keys_alone_are_the_whole_without_windows<F: HostedFormat>() {
    for (name, keys) in KEYED {
        let off = whole::<F>(Mode::Off, name);
        let part = events::<F, Null>(Config::of(Mode::Batched), name);
        let expected = Events {
            key_changes: keys,
            linear_stores: keys,
            tlb_flushes: off.tlb_flushes + keys,
            ..off
        };
        assert_eq!(part, expected, "{name}");
        assert_eq!(part.windows, 0);
    }
}

fn the_pool_changes_no_key<F: HostedFormat>() {
    let config = Config { mode: Mode::Batched, ..Config::of(Mode::FusedLean) };
    for (name, _) in KEYED {
        let (whole, part) =
            (whole::<F>(Mode::Batched, name), events::<F, MockBackend<F>>(config, name));
        assert_eq!((part.key_changes, part.linear_stores), (0, 0), "{name}");
        let stores = |events: Events| (events.entry_stores, events.upper_stores);
        assert_eq!(stores(part), stores(whole), "{name}");
        let ptps = |events: Events| (events.ptps_allocated, events.ptps_freed);
        assert_eq!(ptps(part), ptps(whole), "{name}");
    }
}

fn without_pool_each_page_is_keyed<F: HostedFormat>() {
    let config = Config { mode: Mode::FusedLean, ..Config::of(Mode::Batched) };
    for (name, keys) in KEYED {
        let (whole, part) =
            (whole::<F>(Mode::FusedLean, name), events::<F, MockBackend<F>>(config, name));
        assert_eq!((whole.key_changes, part.key_changes), (0, keys), "{name}");
        assert_eq!(part.linear_stores, keys, "{name}");
        assert_eq!(part.tlb_flushes, whole.tlb_flushes + keys, "{name}");
        assert_eq!((part.entry_stores, part.ptps_freed), (whole.entry_stores, whole.ptps_freed));
    }
}

fn without_deferral_each_unmap_has_its_window<F: HostedFormat>() {
    let name = "fix_size_alloc_test: p:1, h:0";
    let loops = 500;
    let config = Config::of(Mode::FusedLean);
    let whole = whole::<F>(Mode::FusedLean, name);
    let part = events::<F, WithoutDeferral<MockBackend<F>>>(config, name);
    assert_eq!(part.windows, 2 * loops, "one for each map, one for each unmap: {part:?}");
    assert_eq!(whole.windows, loops, "unmaps wait for the next map: {whole:?}");
    assert_eq!(part.entry_stores, 2 * loops);
}

for_both_formats!(
    switches_alone_are_the_whole_without_keys,
    keys_alone_are_the_whole_without_windows,
    the_pool_changes_no_key,
    without_pool_each_page_is_keyed,
    without_deferral_each_unmap_has_its_window,
);
