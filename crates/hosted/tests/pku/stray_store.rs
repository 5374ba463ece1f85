//! A store without a window.

use kpkeys::context::PageTables;
use kpkeys::{Access, Guard, Pkey};
use kpkeys_hosted::HostedFormat;
use kpkeys_mm::{AddressSpace, MapFlags};
use kpkeys_pgtable::{Frames, Machine, Mode, PageRange, VirtAddr};

use crate::stray::{SEGV_PKUERR, access, store};
use crate::{boot, load, on_keys, protecting, tables, word};

on_keys!(
    with_protection_off_a_stray_store_changes_a_table,
    a_stray_store_to_any_table_faults_by_its_key,
    the_librarys_own_stores_pass,
    a_store_to_data_passes,
);

/// A word that no table holds.
const FORGED: u64 = 0xdead_beef_0000_0fff;

fn with_protection_off_a_stray_store_changes_a_table<F: HostedFormat>() {
    let kernel = boot::<F>(Mode::Off);
    let root = word(&kernel, kernel.paging().kernel().frame());
    assert_eq!(tables(&kernel), [], "no page has a key");
    assert_eq!(store(root, FORGED), Ok(()));
    assert_eq!(load(root), FORGED);
}

fn a_stray_store_to_any_table_faults_by_its_key<F: HostedFormat>() {
    for mode in protecting() {
        let kernel = boot::<F>(mode);
        let all = tables(&kernel);
        assert!(all.contains(&kernel.paging().kernel().frame()) && all.len() > 10, "{mode:?}");
        for table in all {
            let word = word(&kernel, table);
            let before = load(word);
            let refused = store(word, FORGED).expect_err("a table was changed");
            assert_eq!(refused.code, SEGV_PKUERR, "{mode:?} {refused:?}");
            assert_eq!(refused.key, u32::from(Pkey::PAGE_TABLES.number()), "{mode:?} {refused:?}");
            assert_eq!(refused.address, word.addr());
            assert_eq!(load(word), before);
        }
    }
}

fn the_librarys_own_stores_pass<F: HostedFormat>() {
    for mode in protecting() {
        let kernel = boot::<F>(mode);
        let range = PageRange::new(VirtAddr(0x40_0000_0000), 700).expect("a good range");
        let mut space = AddressSpace::new(&kernel).expect("there is memory");
        space.mmap(range, MapFlags::DATA).expect("the range is free");
        space.populate(range).expect("there is memory");
        let child = space.fork().expect("there is memory");
        let root = word(&kernel, child.root().frame());
        assert!(store(root, FORGED).is_err(), "{mode:?}: a new root has the key");
        space.munmap(range).expect("it is mapped");
        drop((space, child));

        let guard: Guard<'_, _, PageTables> =
            // SAFETY: the only window of this thread; what runs in it stores what the table holds.
            unsafe { Guard::enter(kernel.machine().backend()) };
        let root = word(&kernel, kernel.paging().kernel().frame());
        assert_eq!(store(root, load(root)), Ok(()), "{mode:?}: in a window");
        drop(guard);
        assert!(store(root, load(root)).is_err(), "{mode:?}: after it");
        assert_eq!(access(kernel.machine().backend()), Some(Access::ReadOnly));
    }
}

fn a_store_to_data_passes<F: HostedFormat>() {
    for mode in protecting() {
        let kernel = boot::<F>(mode);
        let frame = kernel.frames().allocate(0).expect("there is memory");
        assert_eq!(store(word(&kernel, frame), FORGED), Ok(()), "{mode:?}");
    }
}
