//! The arena of other crates' tests: guarded by a key where there are keys, so that what holds in them is held by the CPU.

use kpkeys::Guard;
use kpkeys::context::PageTables;
use kpkeys_hosted::{HostedFormat, Setup, boot_guarded};
use kpkeys_pgtable::{Config, Machine, Mode};

use crate::stray::{SEGV_PKUERR, store};
use crate::{PAGES, load, on_keys, protecting};

on_keys!(the_guarded_arena_is_guarded_by_a_key, with_protection_off_it_is_not);

fn the_guarded_arena_is_guarded_by_a_key<F: HostedFormat>() {
    for mode in protecting() {
        let setup = Setup { pages: PAGES, cpus: 1, config: Config::of(mode) };
        let kernel = boot_guarded::<F>(setup).expect("the host has memory");
        let root = kernel.machine().table(kernel.paging().kernel().frame()).cast().as_ptr();
        let before = load(root);
        let refused = store(root, !before).expect_err("a table was changed");
        assert_eq!(refused.code, SEGV_PKUERR, "{mode:?} {refused:?}");
        assert_eq!(load(root), before);
        let guard: Guard<'_, _, PageTables> =
            // SAFETY: the only window of this thread; what runs in it stores what the table holds.
            unsafe { Guard::enter(kernel.machine().backend()) };
        assert_eq!(store(root, before), Ok(()), "{mode:?}: in a window");
        drop(guard);
        assert!(store(root, before).is_err(), "{mode:?}: after it");
    }
}

fn with_protection_off_it_is_not<F: HostedFormat>() {
    let setup = Setup { pages: PAGES, cpus: 1, config: Config::of(Mode::Off) };
    let kernel = boot_guarded::<F>(setup).expect("the host has memory");
    let root = kernel.machine().table(kernel.paging().kernel().frame()).cast().as_ptr();
    assert_eq!(store(root, load(root)), Ok(()));
}
