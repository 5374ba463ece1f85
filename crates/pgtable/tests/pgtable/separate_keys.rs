//! Tables of address spaces with a key of their own: which window each operation has, key by key, and what such a window lets a stray store reach.
//!
//! The register is one that remembers what was written to it. What is written is spelled as letters: `K` where the key of page tables is open,
//! `U` where that of address spaces' tables is, `B` both, `-` neither.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use crate::support::victim::Victim;
use crate::support::{Keys, SMALL, Scarce, Separate, System, USER, by, pages};
use kpkeys::keyed::{self, Keyed, Register, Value};
use kpkeys::{Access, Pkey, encoding};
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::mmu::Fault;
use kpkeys_hosted::{Counter, Hosted, HostedFormat};
use kpkeys_pgtable::check::Finding;
use kpkeys_pgtable::guarded::{FrameType, Use};
use kpkeys_pgtable::range::WriteProtect;
use kpkeys_pgtable::{
    Attrs, Config, Error, Event, Flush, Frames, Level, Machine, Mode, PageRange, Paging, PhysAddr,
    Root, VirtAddr,
};

const KERNEL: VirtAddr = crate::support::KERNEL;

/// A register that remembers.
#[derive(Clone, Default)]
struct Remembering {
    values: Arc<Mutex<Vec<u64>>>,
}

// SAFETY: `read` returns what was last written. Nothing is enforced, so that there is no access to be ordered.
unsafe impl Register for Remembering {
    const NEEDS_BARRIER: bool = true;

    fn read(&self) -> u64 {
        self.values.lock().unwrap().last().copied().unwrap_or(0)
    }

    fn write(&self, value: Value) {
        self.values.lock().unwrap().push(value.bits());
    }

    fn synchronize(&self) {}
}

impl Remembering {
    /// What was written since this was last asked, key by key.
    fn written<F: HostedFormat>(&self) -> String {
        let mut values = self.values.lock().unwrap();
        let last = values.last().copied();
        let spelled = values.drain(..).skip(1).map(spell::<F>).collect();
        values.extend(last);
        spelled
    }
}

fn spell<F: HostedFormat>(value: u64) -> char {
    let is_open = |key| encoding::decode::<F::Encoding>(value, key) == Some(Access::ReadWrite);
    match (is_open(Pkey::PAGE_TABLES), is_open(Pkey::USER_TABLES)) {
        (true, true) => 'B',
        (true, false) => 'K',
        (false, true) => 'U',
        (false, false) => '-',
    }
}

type Remembered<F> = Keyed<Remembering, <F as HostedFormat>::Encoding, keyed::Separate>;

struct Bench<F: HostedFormat> {
    paging: Paging<Hosted<F, Remembered<F>, Counter>, Scarce<F>>,
    register: Remembering,
    data: Cell<PhysAddr>,
}

impl<F: HostedFormat> Bench<F> {
    fn new(mode: Mode) -> Self {
        let arena = Arc::new(Arena::new(SMALL).expect("the host has memory"));
        let register = Remembering::default();
        let backend = Keyed::<_, F::Encoding>::new(register.clone());
        backend.reset();
        let machine = Hosted::new(arena, backend.with_separate_keys(), Counter::default(), 1);
        let frames = Scarce::new(machine.memory());
        let paging = Paging::new(machine, frames, Config::of(mode)).expect("builds");
        paging.enable_protection().expect("protects");
        let data = Cell::new(paging.frames().allocate(7).expect("there is memory"));
        Bench { paging, register, data }
    }

    /// A root with tables for a range, and pools with pages for more.
    fn user(&self) -> Root {
        let section = self.paging.section(self.paging.kernel());
        self.paging.table_for(&section, self.paging.kernel(), KERNEL, Level::Pte).expect("links");
        let user = self.paging.new_user_root(&section).expect("a root");
        drop(section);
        let section = self.paging.section(&user);
        self.paging.table_for(&section, &user, USER, Level::Pte).expect("links");
        user
    }

    /// Frames that nothing has mapped yet.
    fn fresh(&self, frames: u64) -> PhysAddr {
        let first = self.data.get();
        self.data.set(first.offset(frames * F::PAGE_SIZE));
        first
    }

    fn map(&self, root: &Root, range: PageRange<F>, first: PhysAddr) -> Result<(), Error> {
        let section = self.paging.section(root);
        let attrs = if range.start().is_kernel() { Attrs::KERNEL_DATA } else { Attrs::USER_DATA };
        self.paging.map(&section, root, range, attrs, |i| first.offset(i as u64 * F::PAGE_SIZE))
    }

    fn unmap(&self, root: &Root, range: PageRange<F>) {
        let section = self.paging.section(root);
        self.paging.unmap(&section, root, range, |_, _, _| ()).expect("no block is cut");
    }

    /// The windows of what `f` does, and that it does it.
    fn windows(&self, f: impl FnOnce() -> Result<(), Error>) -> String {
        self.register.written::<F>();
        let before = self.paging.machine().probe().read();
        assert_eq!(f(), Ok(()));
        let written = self.register.written::<F>();
        let counts = self.paging.machine().probe().read().since(&before);
        let of = |letter| written.chars().filter(|&of| of == letter).count() as u64;
        assert_eq!(counts.of(Event::Switch), written.len() as u64, "{written}");
        assert_eq!(counts.of(Event::WindowOpened), of('K') + of('U'), "{written}");
        assert_eq!(counts.of(Event::WindowClosed), of('K') + of('U'), "{written}");
        assert_eq!(counts.of(Event::UserWindowOpened), of('U'), "{written}");
        assert_eq!(of('B'), 0, "no window has both open: {written}");
        written
    }
}

fn each_operation_opens_what_it_stores_to<F: HostedFormat>() {
    let bench = Bench::<F>::new(Mode::Fused);
    let (user, kernel) = (bench.user(), bench.paging.kernel());
    let one = |page| pages(USER.offset_pages::<F>(page), 1);
    let frame = bench.fresh(1);

    // The frame gets its mark, and then the entry is stored. The second time it has one.
    assert_eq!(bench.windows(|| bench.map(&user, one(0), frame)), "KU-");
    assert_eq!(bench.windows(|| bench.map(&user, one(1), frame)), "U-");
    let first = bench.fresh(8);
    let many = pages(USER.offset_pages::<F>(8), 8);
    assert_eq!(bench.windows(|| bench.map(&user, many, first)), "KU-", "all marks, all entries");

    let protect = || {
        let section = bench.paging.section(&user);
        bench.paging.protect(&section, &user, many, WriteProtect)
    };
    assert_eq!(bench.windows(protect), "U-");
    let unmap = || {
        bench.unmap(&user, many);
        Ok(())
    };
    assert_eq!(bench.windows(unmap), "U-");

    // The kernel's windows are as ever.
    let frame = bench.fresh(1);
    assert_eq!(bench.windows(|| bench.map(kernel, pages(KERNEL, 1), frame)), "K-");
    let frame = bench.fresh(1);
    assert_eq!(
        bench.windows(|| bench.map(kernel, pages(KERNEL.offset_pages::<F>(1), 1), frame)),
        "K-"
    );
    let unmap = || {
        bench.unmap(kernel, pages(KERNEL, 2));
        Ok(())
    };
    assert_eq!(bench.windows(unmap), "K-");
}

fn a_table_is_made_and_freed_in_windows_of_one_key<F: HostedFormat>() {
    let bench = Bench::<F>::new(Mode::Fused);
    let user = bench.user();
    let far = pages(USER.offset(Level::Pmd.entry_bytes::<F>()), 1);
    let frame = bench.fresh(1);
    bench.map(&user, pages(USER, 1), frame).unwrap();
    // Its type, and its zeroes; its type, and its link; the entry.
    assert_eq!(bench.windows(|| bench.map(&user, far, frame)), "KU-KU-U-");
    bench.unmap(&user, far);
    let mut unlinked = Vec::new();
    let free = || {
        let section = bench.paging.section(&user);
        let (floor, ceiling) = (far.start(), far.start().offset(Level::Pmd.entry_bytes::<F>()));

        // SAFETY: nobody else works on these tables.
        unsafe {
            bench.paging.free_tables(&section, &user, far, floor, ceiling, |ptp| unlinked.push(ptp))
        }
    };
    // Its link, and its type.
    assert_eq!(bench.windows(free), "UK-");
    assert_eq!(unlinked.len(), 1);
    let release = || {
        bench.paging.flush_and_release(Flush::User(user.frame(), far), unlinked.drain(..));
        Ok(())
    };
    assert_eq!(bench.windows(release), "");
    // A root is the kernel's: its type and its zeroes, the kernel's half where it has one, and that it may be loaded.
    let section = bench.paging.section(bench.paging.kernel());
    let root = bench.windows(|| {
        bench.paging.new_user_root(&section).map(|root| {
            bench.paging.release_user_root(root);
        })
    });
    assert!(!root.contains('U') && root.contains("K-"), "{root}");
}

fn copies_and_moves_mark_before_only_while_tables_are_looked_at<F: HostedFormat>() {
    let bench = Bench::<F>::new(Mode::Fused);
    let (parent, child) = (bench.user(), bench.user());
    let range = pages(USER, 4);
    let first = bench.fresh(4);
    bench.map(&parent, range, first).unwrap();
    let moved = pages::<F>(USER.offset_pages::<F>(16), 4);
    let copy = || copy(&bench, &parent, &child, range);
    assert_eq!(bench.windows(copy), "U-");
    let section = bench.paging.section(&child);
    let move_pages = || bench.paging.move_pages(&section, &child, range, moved.start());
    assert_eq!(bench.windows(move_pages), "U-");
    let mapped = |i| bench.paging.translate(&child, moved.start().offset_pages::<F>(i));
    for i in 0..4 {
        assert_eq!(mapped(i), Some(first.offset(i as u64 * F::PAGE_SIZE)));
    }
}

/// The page-table half of fork, of pages that nobody counts.
fn copy<F: HostedFormat>(
    bench: &Bench<F>,
    from: &Root,
    to: &Root,
    range: PageRange<F>,
) -> Result<(), Error> {
    use kpkeys_pgtable::Entry;
    use kpkeys_pgtable::range::Share;
    use kpkeys_pgtable::table::Slots;
    struct Uncounted;
    impl Share for Uncounted {
        type Error = Error;
        fn share(
            &mut self,
            _first: Entry,
            _run: Slots<'_>,
        ) -> Result<std::num::NonZeroUsize, Error> {
            Ok(std::num::NonZeroUsize::MIN)
        }
    }
    let section = bench.paging.section(from);
    bench.paging.copy(&section, from, to, range, &mut Uncounted)
}

fn in_other_modes_there_is_one_key<F: HostedFormat>() {
    for mode in [Mode::Unbatched, Mode::Batched, Mode::FusedLean] {
        let bench = Bench::<F>::new(mode);
        assert!(!bench.paging.separates_user_tables());
        let user = bench.user();
        let frame = bench.fresh(1);
        let windows = bench.windows(|| bench.map(&user, pages(USER, 1), frame));
        assert_eq!(windows, "K-", "{mode:?}");
    }
    assert!(Bench::<F>::new(Mode::Fused).paging.separates_user_tables());
}

/// What a stray store in a window reaches, by the MMU model: with one key every table, with two its own tables alone.
fn a_stray_store_in_a_window_reaches_its_own_tables<F: HostedFormat>() {
    let apart = reached::<F, Separate>();
    let together = reached::<F, Keys>();
    assert_eq!(together, [[Ok(()), Ok(())], [Ok(()), Ok(())]]);
    let kernels = Err(Fault::Key(Pkey::PAGE_TABLES));
    let users = Err(Fault::Key(Pkey::USER_TABLES));
    assert_eq!(apart, [[Ok(()), kernels], [users, Ok(())]]);
}

type Reached = [[Result<(), Fault>; 2]; 2];

/// For the window of an address space's tables and that of the kernel's: stores to a table of each.
fn reached<F: HostedFormat, S: crate::support::Protection>() -> Reached {
    let victim = Victim::<F, S>::new(Config::of(Mode::Fused));
    let system = &victim.system;
    let kernel = system.paging.kernel();
    let tables =
        [(&victim.user, USER), (kernel, KERNEL)].map(|(root, va)| system.place(root, va).table);
    [(&victim.user, USER), (kernel, KERNEL)].map(|(root, va)| {
        let seen = Cell::new(None);
        let section = system.paging.section(root);
        let protect = system.paging.protect(
            &section,
            root,
            pages(va, 1),
            by(|entry| {
                let mmu = system.mmu(Some(&victim.user));
                // What is stored is what is there.
                let store = |table| {
                    let last = system.linear(table).offset(511 * 8);
                    mmu.store(last, system.read(table, 511).0)
                };
                seen.set(Some(tables.map(store)));
                entry
            }),
        );
        protect.expect("it is mapped");
        seen.take().expect("there is an entry")
    })
}

/// A spare page with the key of address spaces' tables cannot become a table of the kernel's, whoever says that it is the next.
fn a_spare_page_becomes_a_table_of_its_own_key<F: HostedFormat>() {
    let system = System::<F, Separate>::boot(Config::of(Mode::Fused), SMALL);
    let user = system.new_user_root();
    let range = pages(USER, 1);
    let data = system.data_block(0);
    system.map(&user, range, Attrs::USER_DATA, data).unwrap();
    let table = system.place(&user, USER).table;
    system.unmap(&user, range).unwrap();
    assert_eq!(system.free_user_tables(&user, range), 3);
    let types = system.paging.types().expect("a mode that checks");
    assert_eq!(types.of(table), FrameType::SpareUser);
    assert_eq!(system.paging.memory_pkey(table), Some(Pkey::USER_TABLES));

    // So that the CPU has a page of the other pool to hand out next.
    system.paging.release_user_root(system.new_user_root());
    let (_, at) = system.paging.next_spare_of_this_cpu().expect("there is one");
    // SAFETY: the word is the pool's, which is not used meanwhile; nothing of it is a pointer.
    unsafe { (at.0 as *mut u64).write_volatile(table.0) };
    let section = system.paging.section(system.paging.kernel());
    match system.paging.new_user_root(&section) {
        Err(Error::Violation(violation)) => {
            assert_eq!((violation.frame, violation.is), (table, FrameType::SpareUser));
            let from = FrameType::Spare;
            assert!(matches!(violation.wanted, Use::Change { from: wanted, .. } if wanted == from));
        }
        other => panic!("{:?}", other.map(|root| root.frame())),
    }
}

fn a_table_with_the_others_key_is_found<F: HostedFormat>() {
    let victim =
        Victim::<F, Separate>::new(Config { linear: Level::Pte, ..Config::of(Mode::Fused) });
    let system = &victim.system;
    let tables = [
        (system.place(&victim.user, USER).table, Pkey::PAGE_TABLES),
        (victim.user.frame(), Pkey::USER_TABLES),
        (system.place(system.paging.kernel(), KERNEL).table, Pkey::USER_TABLES),
    ];
    for (frame, key) in tables {
        let place = system.linear_place(frame);
        victim.with_planted(place, F::with_key(place.entry, key), |findings| {
            assert_eq!(findings, [Finding::OthersKey { frame, key }]);
            assert!(findings[0].to_string().contains("of other tables"), "{}", findings[0]);
        });
    }
    // Data with either key is found too.
    let place = system.linear_place(victim.data);
    victim.with_planted(place, F::with_key(place.entry, Pkey::USER_TABLES), |findings| {
        assert_eq!(findings, [Finding::KeyedData { frame: victim.data }]);
    });
}

/// Nor is a second mapping harmless that has the key of other tables.
fn a_mapping_with_the_others_key_is_found<F: HostedFormat>() {
    let victim = Victim::<F, Separate>::new(Config::of(Mode::Fused));
    let kernel = victim.system.paging.kernel();
    let address = KERNEL.offset_pages::<F>(9);
    let place = victim.empty_slot(Level::Pte, kernel, address);
    let users = victim.system.place(&victim.user, USER).table;
    let kernels = victim.system.place(kernel, KERNEL).table;
    let keys = [(users, Pkey::USER_TABLES), (kernels, Pkey::PAGE_TABLES)];
    for (i, (frame, own)) in keys.into_iter().enumerate() {
        let leaf = |key| F::leaf(Level::Pte, frame, Attrs::KERNEL_DATA.with_key(key)).unwrap();
        victim.with_planted(place, leaf(own), |findings| assert_eq!(findings, []));
        victim.with_planted(place, leaf(keys[1 - i].1), |findings| {
            assert_eq!(findings, [Finding::WritableAlias { frame, address }]);
        });
    }
}

fn the_interface_for_keys_takes_none_of_them_away<F: HostedFormat>() {
    let system = System::<F, Separate>::boot(Config::of(Mode::Fused), SMALL);
    let (user, data) = (system.new_user_root(), system.data_block(0));
    system.map(&user, pages(USER, 1), Attrs::USER_DATA, data).unwrap();
    let table = system.place(&user, USER).table;
    for (frame, own) in [(table, Pkey::USER_TABLES), (user.frame(), Pkey::PAGE_TABLES)] {
        assert_eq!(system.paging.key_of_protected(frame), own);
        for key in [Pkey::DEFAULT, Pkey::PAGE_TABLES, Pkey::USER_TABLES] {
            let set = system.paging.set_memory_pkey(frame, 1, key);
            assert_eq!(set, if key == own { Ok(()) } else { Err(Error::Protected(frame)) });
        }
    }
    system.assert_clean(&[&user]);
}

/// Tables that were made before protection was on have their keys from then on; and both pools give blocks back.
fn early_tables_and_blocks_have_their_keys<F: HostedFormat>() {
    for pool in [true, false] {
        let config = Config { linear: Level::Pte, pool, ..Config::of(Mode::Fused) };
        let system = System::<F, Separate>::build(config, SMALL);
        let (user, data) = (system.new_user_root(), system.data_block(0));
        system.map(&user, pages(USER, 1), Attrs::USER_DATA, data).unwrap();
        system.enable_protection().unwrap();
        system.assert_clean(&[&user]);
        let later = system.new_user_root();
        system.map(&later, pages(USER, 1), Attrs::USER_DATA, data).unwrap();
        let kernels = system.tables(system.paging.kernel());
        for root in [&user, &later] {
            // Roots of x86-64 lead to the kernel's tables too.
            let own = system.tables(root).into_iter().filter(|table| !kernels.contains(table));
            for (level, table) in own {
                let own = if level == Level::Pgd { Pkey::PAGE_TABLES } else { Pkey::USER_TABLES };
                assert_eq!(system.paging.memory_pkey(table), Some(own), "pool {pool}: {level:?}");
            }
        }
        for root in [user, later] {
            system.end_user(root, pages(USER, 1));
        }
        system.paging.shrink();
        system.assert_clean(&[]);
    }
}

for_both_formats!(
    each_operation_opens_what_it_stores_to,
    a_table_is_made_and_freed_in_windows_of_one_key,
    copies_and_moves_mark_before_only_while_tables_are_looked_at,
    in_other_modes_there_is_one_key,
    a_stray_store_in_a_window_reaches_its_own_tables,
    a_spare_page_becomes_a_table_of_its_own_key,
    a_table_with_the_others_key_is_found,
    a_mapping_with_the_others_key_is_found,
    the_interface_for_keys_takes_none_of_them_away,
    early_tables_and_blocks_have_their_keys,
);
