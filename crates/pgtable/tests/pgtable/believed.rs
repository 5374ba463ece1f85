//! What the page-table code believes besides the types of frames: where the linear map is, and that nobody else changes a table's entry meanwhile.
//!
//! Each attack is shown to work where nothing is checked, or by a fault of `verify/faults.toml` that takes the check away.

use std::mem::size_of_val;
use std::sync::{Arc, Mutex};

use crate::support::{Protection, SMALL, Scarce, System, USER, pages};
use kpkeys_hosted::mmu::Mmu;
use kpkeys_hosted::register::ArenaRegister;
use kpkeys_hosted::{Hosted, HostedFormat};
use kpkeys_pgtable::check::{self, Finding, Scratch};
use kpkeys_pgtable::guarded::Use;
use kpkeys_pgtable::{
    Attrs, Config, Error, Flush, Level, Machine, Mode, Paging, PhysAddr, Probe, Root, VirtAddr,
};

/// Tables made until the pool has taken blocks.
const MANY: usize = 600;

/// A copy of the tables from `table` down, in frames of data: whoever changes entries there changes nothing.
fn copied<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    table: PhysAddr,
    level: Level,
) -> PhysAddr {
    let copy = system.data_block(0);
    for index in 0..F::ENTRIES {
        let entry = system.read(table, index);
        let entry = match level.below() {
            Some(below) if F::is_table(level, entry) => {
                F::table(copied(system, F::frame(level, entry), below), false)
            }
            _ => entry,
        };
        system.plant(copy, index, entry);
    }
    copy
}

/// Changes a word of the page tables' own value, as an attacker would.
fn overwrite(at: *const u64, value: u64) {
    // SAFETY: the word lies in a value of the test's, which has one thread and reads it by shared references through loads that the compiler
    // cannot have made before (it was just passed out).
    unsafe { std::hint::black_box(at.cast_mut()).write_volatile(value) }
}

/// How many of many new tables a store gets to, outside of windows.
fn open_tables<F: HostedFormat, S: Protection>(system: &System<F, S>, kernel: PhysAddr) -> usize {
    let section = system.paging.section(system.paging.kernel());
    let roots: Vec<_> =
        (0..MANY).map_while(|_| system.paging.new_user_root(&section).ok()).collect();
    drop(section);
    assert!(roots.len() > 64, "{} tables are more than the pool had", roots.len());
    let mut mmu = Mmu::new(system.machine(), kernel, None, 0);
    mmu.cpu = S::cpu::<F>(&system.register);
    let is_open = |root: &&Root| mmu.store(system.linear(root.frame()).offset(8), 0).is_ok();
    roots.iter().filter(is_open).count()
}

/// The linear map's tables are said to be elsewhere: there, new tables would be protected in vain.
fn a_forged_linear_map_protects_nothing_unless_it_is_kept_apart<F: HostedFormat, S: Protection>() {
    for pool in [false, true] {
        let config = |mode| Config { mode, linear: Level::Pte, pool };
        let attacked = |mode| {
            let system = System::<F, S>::boot(config(mode), 2 * SMALL);
            let kernel = system.paging.kernel().frame();
            let forged = copied(&system, kernel, F::ROOT).0;
            (system, kernel, forged)
        };
        let (system, kernel, forged) = attacked(Mode::FusedLean);
        overwrite(system.paging.linear_root_address(), forged);
        assert!(open_tables(&system, kernel) > 0, "the attack works where nothing is kept apart");

        let (system, kernel, forged) = attacked(Mode::Fused);
        let anchor = std::ptr::from_ref(system.machine().anchor()).addr();
        let apart = anchor..anchor + size_of_val(system.machine().anchor());
        let kept = system.paging.linear_root_address();
        assert!(apart.contains(&kept.addr()), "it lies where a kernel has it read-only");
        // What else says so, but for the root itself, whose tables have types.
        let first = std::ptr::from_ref(&system.paging).cast::<u64>();
        let root = system.paging.kernel().frame_address().0 as usize;
        let mut changed = 0;
        for at in (0..size_of_val(&system.paging) / 8).map(|word| first.wrapping_add(word)) {
            // SAFETY: the word lies in the value. What it reads may be padding, of which nothing depends.
            let is_root = unsafe { at.read_volatile() } == kernel.0;
            if is_root && !apart.contains(&at.addr()) && at.addr() != root {
                overwrite(at, forged);
                changed += 1;
            }
        }
        assert!(changed > 0, "there was something to change");
        assert_eq!(open_tables(&system, kernel), 0, "pool: {pool}");
    }
}

/// Somebody who has their turn when a gate begins.
#[derive(Default)]
struct Turn {
    /// Gates to be left alone before.
    left: Mutex<usize>,
    taken: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

struct OtherCpu(Arc<Turn>);

impl Probe for OtherCpu {
    fn gate_begins(&self) {
        let is_now = {
            let mut left = self.0.left.lock().unwrap();
            *left = left.wrapping_sub(1);
            *left == usize::MAX
        };
        let turn = if is_now { self.0.taken.lock().unwrap().take() } else { None };
        if let Some(turn) = turn {
            turn();
        }
    }
}

type Tables<F, S> = Paging<Hosted<F, <S as Protection>::Backend<F>, OtherCpu>, Scarce<F>>;

/// Tables in `fused`, and two roots that are said to be one: their locks are two, so that nothing keeps two CPUs apart. It is the same as a
/// lock that was broken.
struct Shared<F: HostedFormat, S: Protection> {
    paging: &'static Tables<F, S>,
    turn: Arc<Turn>,
    one: &'static Root,
    other: &'static Root,
    data: PhysAddr,
}

// The register is the test's thread's, and so is the other CPU's turn.
fn shared<F: HostedFormat, S: Protection>() -> Shared<F, S> {
    let arena = Arc::new(S::arena(SMALL).expect("the host gives the arena its addresses"));
    let backend = S::backend(ArenaRegister::new(arena.clone()));
    let turn = Arc::new(Turn::default());
    let machine = S::machine(Hosted::new(arena.clone(), backend, OtherCpu(turn.clone()), 1));
    let frames = Scarce::new(machine.memory());
    let paging = Paging::new(machine, frames, Config::of(Mode::Fused)).expect("there is memory");
    paging.enable_protection().expect("protection can be turned on");
    S::seal(&arena);
    let paging: &'static Tables<F, S> = Box::leak(Box::new(paging));
    let root = || {
        let section = paging.section(paging.kernel());
        let root: &'static Root = Box::leak(Box::new(paging.new_user_root(&section).unwrap()));
        root
    };
    let (one, other) = (root(), root());
    overwrite(other.frame_address().0 as *const u64, one.frame().0);
    assert_eq!(other.frame(), one.frame());
    use kpkeys_pgtable::Frames;
    let data = paging.frames().allocate(3).expect("there is memory");
    let shared = Shared { paging, turn, one, other, data };
    if paging.separates_user_tables() {
        // So that their pool has pages: it takes its first in gates, with its locks held, and both CPUs are one thread here.
        shared.map(root(), USER, 7).expect("there is memory");
    }
    shared
}

impl<F: HostedFormat, S: Protection> Shared<F, S> {
    fn map(&self, root: &Root, va: VirtAddr, page: u64) -> Result<(), Error> {
        let section = self.paging.section(root);
        let frame = self.data.offset(page * F::PAGE_SIZE);
        self.paging.map(&section, root, pages(va, 1), Attrs::USER_DATA, |_| frame)
    }

    /// Unmaps a page and frees its tables.
    fn free(&self, root: &Root, va: VirtAddr) -> Result<(), Error> {
        let section = self.paging.section(root);
        self.paging.unmap(&section, root, pages(va, 1), |_, _, _| ())?;
        let mut unlinked = Vec::new();
        let end = VirtAddr(1 << F::HALF_BITS);
        let free = |ptp| unlinked.push(ptp);
        let (paging, range) = (&self.paging, pages(va, 1));
        // SAFETY: nobody else works on these tables.
        let result = unsafe { paging.free_tables(&section, root, range, VirtAddr(0), end, free) };
        drop(section);
        self.paging.flush_and_release(Flush::User(root.frame(), pages(va, 1)), unlinked);
        result
    }

    fn maps(&self, va: VirtAddr, page: u64) -> bool {
        self.paging.translate(self.one, va) == Some(self.data.offset(page * F::PAGE_SIZE))
    }

    /// Has the other CPU do `turn` when the gate begins that has this number, counted from now.
    fn at_gate(&self, number: usize, turn: impl FnOnce() + Send + 'static) {
        *self.turn.left.lock().unwrap() = number;
        *self.turn.taken.lock().unwrap() = Some(Box::new(turn));
    }

    /// Whether the other CPU had its turn.
    fn is_over(&self) -> bool {
        self.turn.taken.lock().unwrap().take().is_none()
    }

    fn assert_clean(&self, when: &str) {
        let mut scratch = vec![0; Scratch::words(&self.paging.machine().memory())];
        let mut findings = Vec::new();
        let scratch = Scratch::new(&mut scratch);
        check::check(self.paging, &[self.one], scratch, |finding| findings.push(finding)).unwrap();
        // Pages that are lost are spare for ever, and no danger: the other's own root, and what was not linked.
        let is_lost = |finding: &Finding| {
            matches!(finding, Finding::KeyedData { .. } | Finding::AliasedData { .. })
        };
        findings.retain(|finding| !is_lost(finding));
        assert_eq!(findings, [], "{when}");
    }
}

/// Does `f` with the other CPU's turn at each of its gates in turn, and returns how often an entry was found to be something else.
fn at_each_gate(mut f: impl FnMut(usize) -> (bool, Result<(), Error>)) -> usize {
    let (mut refused, mut gate) = (0, 0);
    loop {
        let (had_turn, result) = f(gate);
        if !had_turn {
            assert!(gate > 2, "there are gates");
            return refused;
        }
        match result {
            Ok(()) => (),
            Err(Error::Violation(violation)) if violation.wanted == Use::Entry => refused += 1,
            Err(Error::Violation(_)) => (),
            Err(error) => panic!("{error}"),
        }
        gate += 1;
    }
}

fn a_table_is_not_linked_over_another<F: HostedFormat, S: Protection>() {
    let beside = USER.offset(F::PAGE_SIZE);
    let refused = at_each_gate(|gate| {
        let system: &'static Shared<F, S> = Box::leak(Box::new(shared()));
        system.at_gate(gate, move || system.map(system.other, beside, 1).expect("it is first"));
        let result = system.map(system.one, USER, 0);
        let had_turn = system.is_over();
        if had_turn {
            assert!(system.maps(beside, 1), "what the other mapped at gate {gate} is still there");
        }
        assert_eq!(system.maps(USER, 0), result.is_ok(), "gate {gate}: {result:?}");
        system.assert_clean(&format!("the other at gate {gate}"));
        (had_turn, result)
    });
    assert!(refused > 0, "some gate came too late");
}

fn a_table_that_is_linked_elsewhere_by_now_is_not_freed<F: HostedFormat, S: Protection>() {
    // By other entries at each level, since data that is unmapped while its table is another's is that one's.
    let elsewhere = USER.offset(3 << 39 | 3 << 30 | 3 << 21 | 3 << 12);
    let refused = at_each_gate(|gate| {
        let system: &'static Shared<F, S> = Box::leak(Box::new(shared()));
        system.map(system.one, USER, 0).unwrap();
        // The other frees the same tables, which become tables of another page at once.
        system.at_gate(gate, move || {
            let _ = system.free(system.other, USER);
            system.map(system.other, elsewhere, 1).expect("there are tables");
        });
        let result = system.free(system.one, USER);
        let had_turn = system.is_over();
        if had_turn {
            assert!(system.maps(elsewhere, 1), "gate {gate}: {result:?}");
        }
        assert!(!system.maps(USER, 0), "gate {gate}: {result:?}");
        system.assert_clean(&format!("the other at gate {gate}"));
        (had_turn, result)
    });
    assert!(refused > 0, "some gate came too late");
}

for_both_formats_and_schemes!(
    a_forged_linear_map_protects_nothing_unless_it_is_kept_apart,
    a_table_is_not_linked_over_another,
    a_table_that_is_linked_elsewhere_by_now_is_not_freed,
);
