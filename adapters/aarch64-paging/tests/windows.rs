//! How often windows open: once a call, once a batch, never to read and never for what is refused.

#[macro_use]
mod support;

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::Constraints;
use kpkeys_aarch64_paging::{Error, Tables};
use support::{MEMORY, NO_CONSTRAINTS, Protection, System, USER, pages};

const VA: usize = 0x40_0000_0000;
/// Beyond all memory of the machine.
const FAR: PhysicalAddress = PhysicalAddress(0x80_0000_0000);

/// Windows that opened meanwhile.
fn counted<S: Protection>(system: &System<S>, f: impl FnOnce()) -> u64 {
    let before = system.windows();
    f();
    system.windows() - before
}

fn map<S: Protection>(tables: &mut Tables<'_, S::Backend>, va: usize, count: usize) {
    tables.map_range(&pages(va, count), FAR, USER, NO_CONSTRAINTS).unwrap();
}

fn a_call_opens_one_window_however_much_it_does<S: Protection>() {
    let system = System::<S>::new(64);
    let _kernel = system.protected();
    assert_eq!(counted(&system, || drop(system.user())), 2, "a root, and its end");
    let mut user = system.user();
    for count in [1, 7, 512, 2000] {
        assert_eq!(counted(&system, || map::<S>(&mut user, VA, count)), 1, "{count}");
        let read_only = counted(&system, || {
            user.modify_range(&pages(VA, count), &|_, entry| {
                entry.modify_flags(El1Attributes::READ_ONLY, El1Attributes::empty())
            })
            .unwrap();
        });
        assert_eq!(read_only, 1, "{count}");
        let unmapped = counted(&system, || user.unmap_range(&pages(VA, count)).unwrap());
        assert_eq!(unmapped, 1, "{count}");
        assert_eq!(counted(&system, || user.compact_subtables().unwrap()), 1, "{count}");
    }
}

fn a_batch_opens_one_window_for_all_its_calls<S: Protection>() {
    let system = System::<S>::new(64);
    let _kernel = system.protected();
    let mut user = system.user();
    let windows = counted(&system, || {
        // SAFETY: the only window of this CPU; what runs in it changes tables.
        let mut batch = unsafe { user.batch() };
        for page in 0..100 {
            let range = pages(VA + page * 3 * 4096, 1);
            batch.map_range(&range, MEMORY, USER, NO_CONSTRAINTS).unwrap();
        }
        batch.modify_range(&pages(VA, 300), &|_, _| Ok(())).unwrap();
        batch.unmap_range(&pages(VA, 150)).unwrap();
    });
    assert_eq!(windows, 1);
    let mut left = 0;
    user.walk_range(&pages(VA, 300), &mut |_, entry, _| {
        left += usize::from(entry.is_valid());
        Ok(())
    })
    .unwrap();
    assert_eq!(left, 50);
}

fn reading_opens_none<S: Protection>() {
    let system = System::<S>::new(64);
    let kernel = system.protected();
    let mut user = system.user();
    map::<S>(&mut user, VA, 3);
    let windows = counted(&system, || {
        let mut found = Vec::new();
        user.walk_range(&pages(VA, 4), &mut |region, entry, level| {
            found.push((region.start().0, entry.output_address(), level));
            Ok(())
        })
        .unwrap();
        let page = |n: usize| (VA + n * 4096, FAR + n * 4096, 3);
        let empty = (VA + 3 * 4096, PhysicalAddress(0), 3);
        assert_eq!(found, [page(0), page(1), page(2), empty]);
        assert!(!user.active() && kernel.active());
        let _ = (user.root_address(), format!("{user:?}"));
    });
    assert_eq!(windows, 0);
}

fn what_is_refused_opens_none<S: Protection>() {
    let system = System::<S>::new(13);
    let _kernel = system.protected();
    let mut user = system.user();
    let free = system.pool.free_pages();
    let before = system.contents();
    let windows = counted(&system, || {
        let too_much =
            user.map_range(&pages(VA, 20 << 9), FAR, USER, Constraints::NO_BLOCK_MAPPINGS);
        assert_eq!(too_much, Err(Error::OutOfTables { needed: 22, free }));
        let table_memory = system.pool.layout().start;
        let mapped = user.map_range(&pages(VA, 1), table_memory, USER, NO_CONSTRAINTS);
        assert_eq!(mapped, Err(Error::TableMemory(pages(VA, 1))));
    });
    assert_eq!((windows, system.pool.free_pages()), (0, free));
    assert_eq!(system.contents(), before);
}

for_both!(
    a_call_opens_one_window_however_much_it_does,
    a_batch_opens_one_window_for_all_its_calls,
    reading_opens_none,
    what_is_refused_opens_none,
);
