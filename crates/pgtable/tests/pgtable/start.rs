//! What protection is refused for when it is turned on: then nothing is changed, and nothing may be claimed.

use kpkeys::Guard;
use kpkeys::context::PageTables;
use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::{Error, Machine};

use crate::support::{Protection, SMALL, System, protecting_configs};

/// A CPU whose register was not initialised is as open as one that is in a window.
fn an_open_cpu_cannot_turn_protection_on<F: HostedFormat, S: Protection>() {
    for config in protecting_configs() {
        let system = System::<F, S>::build(config, SMALL);
        let before = system.entries(system.paging.kernel());
        // SAFETY: the only guard; nothing is stored in it.
        let open: Guard<'_, _, PageTables> =
            unsafe { Guard::enter(system.paging.machine().backend()) };
        assert_eq!(system.enable_protection(), Err(Error::CpuOpen), "{config:?}");
        drop(open);
        assert!(!system.paging.is_protected());
        assert_eq!(system.entries(system.paging.kernel()), before, "{config:?}");

        system.enable_protection().expect("it is closed");
        system.assert_clean(&[]);
    }
}

#[test]
fn the_refusal_says_what_to_do_and_where_it_is_explained() {
    let said = Error::CpuOpen.to_string();
    assert!(said.contains("initialise the backend on each CPU"), "{said}");
    let chapter = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/exceptions-and-threads.md");
    let title = std::fs::read_to_string(chapter).unwrap();
    let title = title.lines().next().unwrap().trim_start_matches("# ").to_owned();
    assert!(said.contains(&title), "{said}");
}

for_both_formats_and_schemes!(an_open_cpu_cannot_turn_protection_on);
