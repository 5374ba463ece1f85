//! Where windows open and close, in each mode: counted by hand for small cases, and compared with what the register really saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::support::{KERNEL, SMALL, Scarce, USER};
use kpkeys::keyed::{Keyed, Register, Value};
use kpkeys::{Access, Backend, Pkey};
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::{Counter, Hosted, HostedFormat};
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::table::Slots;
use kpkeys_pgtable::{
    Attrs, Config, Entry, Event, Format, Frames, Level, Machine, Mode, Paging, Root, Section,
};

/// A register in memory that counts what is done to it.
#[derive(Clone, Debug, Default)]
struct Counting<const NEEDS_BARRIER: bool> {
    state: Arc<[AtomicU64; 3]>,
}

impl<const NEEDS_BARRIER: bool> Counting<NEEDS_BARRIER> {
    fn writes(&self) -> u64 {
        self.state[1].load(Relaxed)
    }

    fn synchronized(&self) -> u64 {
        self.state[2].load(Relaxed)
    }
}

// SAFETY: reads return what was last written, and one thread uses each register; nothing is enforced.
unsafe impl<const NEEDS_BARRIER: bool> Register for Counting<NEEDS_BARRIER> {
    const NEEDS_BARRIER: bool = NEEDS_BARRIER;

    fn read(&self) -> u64 {
        self.state[0].load(Relaxed)
    }

    fn write(&self, value: Value) {
        self.state[0].store(value.bits(), Relaxed);
        self.state[1].fetch_add(1, Relaxed);
    }

    fn synchronize(&self) {
        self.state[2].fetch_add(1, Relaxed);
    }
}

type BackendOf<F, const B: bool> = Keyed<Counting<B>, <F as HostedFormat>::Encoding>;
type MachineOf<F, const B: bool> = Hosted<F, BackendOf<F, B>, Counter>;

/// Page tables with one linked table in each half.
struct Bench<F: HostedFormat, const B: bool> {
    paging: Paging<MachineOf<F, B>, Scarce<F>>,
    register: Counting<B>,
    user: Root,
    entry: Entry,
}

/// What an operation cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cost {
    /// Windows opened and closed.
    windows: u64,
    /// Writes of the register.
    switches: u64,
    /// Barriers of any kind.
    barriers: u64,
    /// Those of them that a switch issued for itself.
    own: u64,
}

const fn cost(windows: u64, switches: u64, barriers: u64, own: u64) -> Cost {
    Cost { windows, switches, barriers, own }
}

#[derive(Clone, Copy)]
enum Half {
    Kernel,
    User,
}

impl<F: HostedFormat, const B: bool> Bench<F, B> {
    fn new(mode: Mode) -> Self {
        let arena = Arc::new(Arena::new(SMALL).expect("the host has memory"));
        let register = Counting::default();
        let backend = Keyed::new(register.clone());
        backend.reset();
        let machine = Hosted::new(arena, backend, Counter::default(), 1);
        let frames = Scarce::new(machine.memory());
        let paging = Paging::new(machine, frames, Config::of(mode)).expect("builds");
        paging.enable_protection().expect("protects");
        let user = {
            let section = paging.section(paging.kernel());
            paging.table_for(&section, paging.kernel(), KERNEL, Level::Pte).expect("links");
            paging.new_user_root(&section).expect("a root")
        };
        paging.table_for(&paging.section(&user), &user, USER, Level::Pte).expect("links");
        let data = paging.frames().allocate(0).expect("there is memory");
        let entry = F::leaf(Level::Pte, data, Attrs::KERNEL_DATA);
        Bench { paging, register, user, entry: entry.expect("a good entry") }
    }

    fn backend(&self) -> &BackendOf<F, B> {
        self.paging.machine().backend()
    }

    fn begin(&self, half: Half) -> (Section<'_, MachineOf<F, B>>, Slots<'_>) {
        let (root, va) = match half {
            Half::Kernel => (self.paging.kernel(), KERNEL),
            Half::User => (&self.user, USER),
        };
        let table = self.paging.find_table(root, va, Level::Pte).expect("linked at boot");
        (self.paging.section(root), table.all())
    }

    /// What one operation costs, from the beginning of its section to the end.
    fn cost(
        &self,
        half: Half,
        operation: impl FnOnce(&Section<'_, MachineOf<F, B>>, Slots<'_>),
    ) -> Cost {
        let counter = self.paging.machine().probe();
        let (before, writes, synchronized) =
            (counter.read(), self.register.writes(), self.register.synchronized());
        let (section, slots) = self.begin(half);
        operation(&section, slots);
        drop(section);
        let counts = counter.read().since(&before);
        assert_eq!(
            counts.of(Event::Switch),
            self.register.writes() - writes,
            "counted switches are writes of the register"
        );
        assert_eq!(counts.of(Event::WindowOpened), counts.of(Event::WindowClosed));
        assert!(!self.is_open(), "the window is closed at the end");
        Cost {
            windows: counts.of(Event::WindowOpened),
            switches: counts.of(Event::Switch),
            barriers: counts.of(Event::Barrier),
            own: self.register.synchronized() - synchronized,
        }
    }

    fn is_open(&self) -> bool {
        self.backend().access(Pkey::PAGE_TABLES) == Some(Access::ReadWrite)
    }
}

/// Costs of one operation, in the order of `Mode::ALL`.
fn assert_costs<F: HostedFormat, const B: bool>(
    half: Half,
    expected: [Cost; 5],
    operation: impl Fn(&Bench<F, B>, &Section<'_, MachineOf<F, B>>, Slots<'_>),
) {
    for (mode, expected) in Mode::ALL.into_iter().zip(expected) {
        let bench = Bench::<F, B>::new(mode);
        let cost = bench.cost(half, |section, slots| operation(&bench, section, slots));
        assert_eq!(cost, expected, "{} {mode:?}", F::NAME);
    }
}

/// Three valid entries, stored one by one.
fn three_stores<F: HostedFormat, const B: bool>(
    bench: &Bench<F, B>,
    section: &Section<'_, MachineOf<F, B>>,
    slots: Slots<'_>,
) {
    for i in 0..3 {
        unsafe { section.set(slots.slot(i), bench.entry) }.expect("data");
    }
}

/// The same in one lazy-MMU section.
fn three_lazy_stores<F: HostedFormat, const B: bool>(
    bench: &Bench<F, B>,
    section: &Section<'_, MachineOf<F, B>>,
    slots: Slots<'_>,
) {
    let _lazy = section.lazy();
    three_stores(bench, section, slots);
}

const FREE: Cost = cost(0, 0, 0, 0);

#[test]
fn stores_outside_lazy_sections_have_a_window_each_unless_the_operation_has_one() {
    // Per store and window: two switches with a barrier each, and one more barrier for the valid kernel entry. `fused-lean` opens
    // once, and merges the entries' barrier with that of its close; `fused` has a gate for each call, and one barrier at the end.
    let expected =
        [cost(0, 0, 3, 0), cost(3, 6, 9, 6), cost(3, 6, 9, 6), cost(1, 2, 2, 1), cost(3, 6, 7, 6)];
    assert_costs::<Aarch64, true>(Half::Kernel, expected, three_stores);
}

#[test]
fn a_lazy_section_needs_one_window_and_one_barrier_for_all_its_entries() {
    let expected =
        [cost(0, 0, 1, 0), cost(3, 6, 7, 6), cost(1, 2, 2, 1), cost(1, 2, 2, 1), cost(3, 6, 7, 6)];
    assert_costs::<Aarch64, true>(Half::Kernel, expected, three_lazy_stores);
}

#[test]
fn user_entries_need_no_barrier_of_their_own() {
    let expected = [FREE, cost(3, 6, 6, 6), cost(1, 2, 2, 2), cost(1, 2, 2, 2), cost(3, 6, 6, 6)];
    assert_costs::<Aarch64, true>(Half::User, expected, three_lazy_stores);
    assert_costs::<X86_64, true>(Half::User, expected, three_lazy_stores);
}

#[test]
fn x86_64_kernel_entries_need_no_barrier_of_their_own() {
    let expected = [FREE, cost(3, 6, 6, 6), cost(1, 2, 2, 2), cost(1, 2, 2, 2), cost(3, 6, 6, 6)];
    assert_costs::<X86_64, true>(Half::Kernel, expected, three_lazy_stores);
}

#[test]
fn a_register_that_needs_no_barrier_costs_none() {
    let expected = [FREE, cost(3, 6, 0, 0), cost(1, 2, 0, 0), cost(1, 2, 0, 0), cost(3, 6, 0, 0)];
    assert_costs::<X86_64, false>(Half::Kernel, expected, three_lazy_stores);
    let expected =
        [cost(0, 0, 1, 0), cost(3, 6, 1, 0), cost(1, 2, 1, 0), cost(1, 2, 1, 0), cost(3, 6, 1, 0)];
    assert_costs::<Aarch64, false>(Half::Kernel, expected, three_lazy_stores);
}

#[test]
fn emptying_entries_makes_no_barrier_due() {
    let expected = [FREE, cost(2, 4, 4, 4), cost(1, 2, 2, 2), cost(1, 2, 2, 2), cost(1, 2, 2, 2)];
    assert_costs::<Aarch64, true>(Half::Kernel, expected, |_, section, slots| {
        let _lazy = section.lazy();
        unsafe { section.get_and_clear_range(slots.sub(0, 2), |_, _| ()) };
    });
}

#[test]
fn an_operation_without_a_store_opens_no_window() {
    assert_costs::<Aarch64, true>(Half::Kernel, [FREE; 5], |_, _, _| ());
    // Except that of a lazy-MMU section, which opens it in `batched` whatever comes.
    let expected = [FREE, FREE, cost(1, 2, 2, 2), FREE, FREE];
    assert_costs::<Aarch64, true>(Half::Kernel, expected, |_, section, _| drop(section.lazy()));
}

#[test]
fn range_stores_count_as_single_ones() {
    let expected = [
        cost(0, 0, 1, 0),
        cost(5, 10, 11, 10),
        cost(1, 2, 2, 1),
        cost(1, 2, 2, 1),
        cost(1, 2, 3, 2),
    ];
    assert_costs::<Aarch64, true>(Half::Kernel, expected, |bench, section, slots| {
        let _lazy = section.lazy();
        unsafe { section.set_consecutive(slots.sub(0, 5), bench.entry) }.expect("data");
    });
}

#[test]
fn of_nested_lazy_sections_only_the_outermost_acts() {
    let expected =
        [cost(0, 0, 1, 0), cost(3, 6, 7, 6), cost(1, 2, 2, 1), cost(1, 2, 2, 1), cost(3, 6, 7, 6)];
    assert_costs::<Aarch64, true>(Half::Kernel, expected, |bench, section, slots| {
        let _outer = section.lazy();
        for i in 0..3 {
            let _inner = section.lazy();
            let _innermost = section.lazy();
            unsafe { section.set(slots.slot(i), bench.entry) }.expect("data");
        }
    });
}

#[test]
fn a_pause_closes_the_window_issues_what_is_due_and_opens_it_again() {
    let expected =
        [cost(0, 0, 2, 0), cost(2, 4, 6, 4), cost(2, 4, 4, 2), cost(2, 4, 4, 2), cost(2, 4, 6, 4)];
    assert_costs::<Aarch64, true>(Half::Kernel, expected, |bench, section, slots| {
        let _lazy = section.lazy();
        unsafe { section.set(slots.slot(0), bench.entry) }.expect("data");
        section.paused(|| assert!(!bench.is_open(), "closed while paused"));
        unsafe { section.set(slots.slot(1), bench.entry) }.expect("data");
    });
}

#[test]
fn pauses_nest() {
    let expected = [FREE, cost(2, 4, 4, 4), cost(2, 4, 4, 4), cost(2, 4, 4, 4), cost(2, 4, 4, 4)];
    assert_costs::<X86_64, true>(Half::Kernel, expected, |bench, section, slots| {
        let _lazy = section.lazy();
        unsafe { section.set(slots.slot(0), bench.entry) }.expect("data");
        section.paused(|| {
            section.paused(|| assert!(!bench.is_open()));
            assert!(!bench.is_open(), "the inner pause must not resume the outer one");
        });
        unsafe { section.set(slots.slot(1), bench.entry) }.expect("data");
    });
}

#[test]
fn a_store_while_paused_has_a_window_of_its_own() {
    let expected = [FREE, cost(3, 6, 6, 6), cost(3, 6, 6, 6), cost(3, 6, 6, 6), cost(3, 6, 6, 6)];
    assert_costs::<X86_64, true>(Half::Kernel, expected, |bench, section, slots| {
        let _lazy = section.lazy();
        unsafe { section.set(slots.slot(1), bench.entry) }.expect("data");
        section.paused(|| {
            // A lazy-MMU section begun while paused is nested in the paused one: it does not act.
            let _inner = section.lazy();
            unsafe { section.set(slots.slot(0), bench.entry) }.expect("data");
            assert!(!bench.is_open());
            section.paused(|| ());
        });
        unsafe { section.set(slots.slot(2), bench.entry) }.expect("data");
    });
}

#[test]
fn a_lazy_section_that_ends_while_paused_is_not_resumed() {
    for mode in [Mode::Unbatched, Mode::Batched] {
        let bench = Bench::<Aarch64, true>::new(mode);
        let (section, slots) = bench.begin(Half::Kernel);
        let lazy = section.lazy();
        section.paused(|| drop(lazy));
        assert!(!bench.is_open(), "{mode:?}: nobody would close it before the operation ends");
        unsafe { section.set(slots.slot(0), bench.entry) }.expect("data");
        assert!(!bench.is_open(), "{mode:?}");
    }
}

#[test]
fn the_window_is_open_exactly_inside_lazy_sections_or_from_the_first_store() {
    for mode in Mode::ALL {
        let bench = Bench::<Aarch64, true>::new(mode);
        let (section, slots) = bench.begin(Half::Kernel);
        assert!(!bench.is_open(), "{mode:?}: before the lazy section");
        let lazy = section.lazy();
        assert_eq!(bench.is_open(), mode == Mode::Batched, "{mode:?}: in it");
        unsafe { section.set(slots.slot(0), bench.entry) }.expect("data");
        assert_eq!(bench.is_open(), section_has_window(mode), "{mode:?}: after a store");
        drop(lazy);
        assert_eq!(bench.is_open(), mode == Mode::FusedLean, "{mode:?}: after it");
        drop(section);
        assert!(!bench.is_open(), "{mode:?}: after the operation");
    }
}

fn section_has_window(mode: Mode) -> bool {
    matches!(mode, Mode::Batched | Mode::FusedLean)
}

/// The interrupt rule, and the crash the series had: an interrupt that frees a page-table page inside a lazy-MMU section skipped
/// its switch.
#[test]
fn an_operation_of_an_interrupt_inside_a_window_really_switches() {
    for mode in [Mode::Unbatched, Mode::Batched, Mode::FusedLean, Mode::Fused] {
        let bench = Bench::<Aarch64, true>::new(mode);
        let (outer, outer_slots) = bench.begin(Half::Kernel);
        let outer_lazy = outer.lazy();
        unsafe { outer.set(outer_slots.slot(0), bench.entry) }.expect("data");
        let was_open = bench.is_open();

        let saved = bench.backend().exception_entry();
        assert!(!bench.is_open(), "{mode:?}: the handler starts protected");
        let inner = bench.cost(Half::User, |section, slots| {
            let _lazy = section.lazy();
            unsafe { section.set(slots.slot(0), bench.entry) }.expect("data");
        });
        assert_eq!(inner, cost(1, 2, 2, 2), "{mode:?}: a window of its own");
        // SAFETY: it is that of the exception above.
        unsafe { bench.backend().exception_return(saved) };

        assert_eq!(bench.is_open(), was_open, "{mode:?}: the interrupted operation goes on");
        let before = bench.register.writes();
        unsafe { outer.set(outer_slots.slot(1), bench.entry) }.expect("data");
        let writes = bench.register.writes() - before;
        assert_eq!(writes, if was_open { 0 } else { 2 }, "{mode:?}: in its own window");
        drop(outer_lazy);
        drop(outer);
        assert!(!bench.is_open(), "{mode:?}");
    }
}

#[test]
fn every_setter_stores_and_is_counted() {
    for mode in Mode::ALL {
        let bench = Bench::<X86_64, true>::new(mode);
        let (section, slots) = bench.begin(Half::Kernel);
        let (slot, entry) = (slots.slot(0), bench.entry);
        let count = |event| bench.paging.machine().probe().read().of(event);
        let entries = count(Event::EntryStore);

        unsafe { section.set(slot, entry) }.expect("data");
        assert_eq!(slot.load(), entry);
        assert!(unsafe { section.test_and_clear_young(slot) });
        assert_eq!(slot.load(), X86_64::old(entry));
        assert!(!unsafe { section.test_and_clear_young(slot) }, "it is old by now");
        let changed = unsafe { section.set_access_flags(slot, entry, entry) };
        assert_eq!(changed, Ok(false), "it is not what it was");
        assert_eq!(unsafe { section.set_access_flags(slot, X86_64::old(entry), entry) }, Ok(true));
        unsafe { section.wrprotect_range(slots.sub(0, 1)) };
        assert_eq!(slot.load(), X86_64::write_protected(entry));
        assert_eq!(unsafe { section.establish(slot, entry) }, Ok(X86_64::write_protected(entry)));
        unsafe { section.modify_range(slots.sub(0, 1), X86_64::old) };
        assert_eq!(slot.load(), X86_64::old(entry));
        let mut was = Vec::new();
        unsafe { section.get_and_clear_range(slots.sub(0, 1), |i, entry| was.push((i, entry))) };
        assert_eq!(was, [(0, X86_64::old(entry))]);
        assert_eq!(slot.load(), Entry::EMPTY);
        assert_eq!(count(Event::EntryStore) - entries, 9, "{mode:?}");
    }
}
