//! Attacks on page tables behind an alias that windows alone load a root for, on a model of an arm64 CPU without PAN and E0PD: by the kernel and by a
//! program.
//!
//! Each attack is shown to work where what stops it is off, and to fault where it is on.

use std::sync::Arc;

use crate::support::attacked::{Attacked, MODES, WORD, open};
use crate::support::{InWindows, KERNEL, MachineOf, SMALL, Scarce, System, USER, pages};
use kpkeys::Backend;
use kpkeys::ttbr0::Ttbr0;
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::machine::{ALIAS_IN_WINDOWS_START, ALIAS_START};
use kpkeys_hosted::mmu::{Fault, Mmu, Privilege, Want};
use kpkeys_hosted::register::Ttbr0Register;
use kpkeys_hosted::{Counter, Hosted, HostedFormat};
use kpkeys_pgtable::check::{Finding, check_root};
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::guarded::{FrameType, Kind};
use kpkeys_pgtable::section::Space;
use kpkeys_pgtable::{
    Attrs, Config, Entry, Error, Format, Level, Machine, Mode, Paging, PhysAddr, Root, VirtAddr,
};

type Victim = Attacked<InWindows>;

const NOT_MAPPED: Fault = Fault::NotPresent(Level::Pgd);

impl Victim {
    /// A CPU that runs the program's thread; in the kernel, without it.
    fn on_program(&self) -> Mmu<'_, MachineOf<Aarch64, InWindows>> {
        self.system.mmu(Some(&self.user))
    }

    fn in_kernel(&self) -> Mmu<'_, MachineOf<Aarch64, InWindows>> {
        self.system.mmu(None)
    }

    fn window_root(&self) -> &Root {
        self.system.paging.window_root().expect("the alias has a root of its own")
    }
}

#[test]
fn a_kernel_store_to_the_alias_works_with_the_window_root_and_is_not_mapped_without() {
    for mode in MODES {
        let victim = Victim::new(mode);
        assert!(victim.alias() >= ALIAS_IN_WINDOWS_START && !victim.alias().is_kernel());
        for mmu in [victim.in_kernel(), victim.on_program()] {
            let stored = mmu.store(victim.alias().offset(WORD), 0xbad);
            assert!(matches!(stored, Err(Fault::NotPresent(_))), "{mode:?}: {stored:?}");
            let read = mmu.access(victim.alias(), Want::Read, Privilege::Kernel);
            assert!(matches!(read, Err(Fault::NotPresent(_))), "{mode:?}: {read:?}");
        }
        assert_eq!(victim.word(), 0, "{mode:?}");

        let mut forged = victim.in_kernel();
        forged.user_root = Some(victim.window_root().frame());
        assert_eq!(forged.store(victim.alias().offset(WORD), 0xbad), Ok(()), "{mode:?}");
        assert_eq!(victim.word(), 0xbad, "{mode:?}");
    }
}

/// There is no other way to it: nothing in the kernel's half, with whatever is loaded.
#[test]
fn the_kernels_half_has_no_alias() {
    for mode in MODES {
        let victim = Victim::new(mode);
        let window = open(&victim.system);
        let offset = victim.alias().0 - ALIAS_IN_WINDOWS_START.0;
        for at in [ALIAS_START.0 + offset, !0 << 47 | victim.alias().0] {
            let found = victim.in_kernel().access(VirtAddr(at), Want::Read, Privilege::Kernel);
            assert!(matches!(found, Err(Fault::NotPresent(_))), "{mode:?} {at:#x}: {found:?}");
        }
        drop(window);
    }
}

#[test]
fn a_kernel_store_to_the_linear_map_faults_in_windows_too() {
    for mode in MODES {
        let victim = Victim::new(mode);
        let linear = victim.system.linear(victim.table);
        let window = open(&victim.system);
        let inside = victim.in_kernel().store(linear.offset(WORD), 0xbad);
        drop(window);
        for fault in [inside, victim.in_kernel().store(linear.offset(WORD), 0xbad)] {
            assert!(matches!(fault, Err(Fault::Permission(_))), "{mode:?}: {fault:?}");
        }
        let read = victim.in_kernel().access(linear, Want::Read, Privilege::Kernel);
        assert_eq!(read, Ok(victim.table), "{mode:?}: tables stay readable there");
        assert_eq!(victim.word(), 0, "{mode:?}");
    }
    // And where nothing is protected, it works, and there is neither alias nor root.
    let off = System::<Aarch64, InWindows>::boot(Config::of(Mode::Off), SMALL);
    let root = off.paging.kernel().frame();
    assert_eq!(off.mmu(None).store(off.linear(root).offset(WORD), 0xbad), Ok(()));
    assert_eq!(off.read(root, 7), Entry(0xbad));
    assert_eq!(off.paging.alias_of(root), None);
    assert!(off.paging.window_root().is_none());
}

/// Were the window root loaded while a program runs, it could do nothing with it; a leaf with a program's permissions would be another matter.
#[test]
fn a_program_gains_nothing_from_the_window_root() {
    for mode in MODES {
        let victim = Victim::new(mode);
        let attack = |root: PhysAddr| {
            let mut mmu = victim.on_program();
            mmu.user_root = Some(root);
            mmu.store_as(Privilege::User, victim.alias().offset(WORD), 0xbad)
        };
        assert!(matches!(attack(victim.user.frame()), Err(Fault::NotPresent(_))), "{mode:?}");
        let refused = attack(victim.window_root().frame());
        assert!(matches!(refused, Err(Fault::Permission(_))), "{mode:?}: {refused:?}");
        assert_eq!(victim.word(), 0);

        let place = victim.system.place(victim.window_root(), victim.alias());
        let frame = Aarch64::frame(place.level, place.entry);
        let open = Aarch64::leaf(place.level, frame, Attrs::USER_DATA).unwrap();
        victim.system.plant(place.table, place.index, open);
        assert_eq!(attack(victim.window_root().frame()), Ok(()), "{mode:?}");
    }
}

/// Windows as they are really opened, and the register as it really is. An exception leaves it as it was: its entry closes.
#[test]
fn the_alias_is_reached_in_a_window_and_in_no_exception_that_interrupts_it() {
    for mode in MODES {
        let victim = Victim::new(mode);
        let backend = victim.system.machine().backend();
        let attack = || victim.in_kernel().store(victim.alias().offset(WORD), 0);
        let window = open(&victim.system);
        assert_eq!(attack(), Ok(()), "{mode:?}: the page-table code itself");
        let user = victim.on_program().access(USER, Want::Read, Privilege::Kernel);
        assert!(user.is_err(), "{mode:?}: no program's memory is mapped in a window");

        let saved = backend.exception_entry();
        assert_eq!(attack(), Err(NOT_MAPPED), "{mode:?}: a handler");
        let nested = backend.exception_entry();
        let handlers = open(&victim.system);
        assert_eq!(attack(), Ok(()), "{mode:?}: the handler's own window");
        drop(handlers);
        // SAFETY: these are the two exceptions above.
        unsafe { backend.exception_return(nested) };
        assert_eq!(attack(), Err(NOT_MAPPED), "{mode:?}: back in the first handler");
        // SAFETY: as before.
        unsafe { backend.exception_return(saved) };

        assert_eq!(attack(), Ok(()), "{mode:?}: the interrupted window goes on");
        drop(window);
        assert_eq!(attack(), Err(NOT_MAPPED), "{mode:?}");
    }
}

/// By its type it is the alias's: neither a program's nor the kernel's, and found where it is loaded.
#[test]
fn the_window_root_is_nobody_elses() {
    for mode in MODES {
        let victim = Victim::new(mode);
        let (paging, root) = (&victim.system.paging, victim.window_root().frame());
        for (space, may_be) in [(Space::User, false), (Space::Kernel, false), (Space::Alias, true)]
        {
            assert_eq!(check_root(paging, root, space).is_none(), may_be, "{mode:?} {space:?}");
        }
        assert_eq!(check_root(paging, victim.user.frame(), Space::User), None);
        if let Some(types) = paging.types() {
            let is = FrameType::Table { level: Level::Pgd, kind: Kind::Alias, linked: true };
            assert_eq!(types.of(root), is);
            assert!(!types.is_root(root, Kind::User));
        }
        victim.system.assert_clean(&[&victim.user]);
    }
}

/// What is planted in the window root, or is an alias with other permissions, is found.
#[test]
fn the_checker_looks_into_the_window_root() {
    for mode in MODES {
        let victim = Victim::new(mode);
        let (root, frame) = (victim.window_root().frame(), victim.table);
        let found = |finding: Finding| victim.system.findings(&[&victim.user]).contains(&finding);

        let kernels = victim
            .system
            .read(victim.system.paging.kernel().frame(), KERNEL.index::<Aarch64>(Level::Pgd));
        victim.system.plant(root, 400, kernels);
        assert!(found(Finding::ForeignRootEntry { root, index: 400, entry: kernels }), "{mode:?}");
        victim.system.plant(root, 400, Entry::EMPTY);

        let place = victim.system.place(victim.window_root(), victim.alias());
        let start = Aarch64::frame(place.level, place.entry);
        let of = |attrs| Aarch64::leaf(place.level, start, attrs).unwrap();
        // For programs; global; read-only; none.
        for entry in [
            of(Attrs::USER_DATA),
            of(Attrs::KERNEL_DATA),
            of(Attrs::KERNEL_DATA.read_only()),
            Entry::EMPTY,
        ] {
            victim.system.plant(place.table, place.index, entry);
            assert!(
                found(Finding::WrongAlias { frame, address: victim.alias(), entry }),
                "{mode:?} {entry:?}"
            );
        }
        victim.system.plant(place.table, place.index, place.entry);
        victim.system.assert_clean(&[&victim.user]);
    }
}

/// The same addresses are a program's, where it has them: they lead to its own memory, and the alias is not touched by that.
#[test]
fn a_program_may_have_memory_at_the_aliass_addresses() {
    for mode in MODES {
        let victim = Victim::new(mode);
        let data = victim.system.data_block(0);
        victim.system.map(&victim.user, pages(victim.alias(), 1), Attrs::USER_DATA, data).unwrap();
        victim.system.assert_clean(&[&victim.user]);
        assert_eq!(
            victim.on_program().store_as(Privilege::User, victim.alias().offset(WORD), 5),
            Ok(())
        );
        assert_eq!(victim.word(), 0);
        let window = open(&victim.system);
        assert_eq!(
            victim.on_program().access(victim.alias(), Want::Write, Privilege::Kernel),
            Ok(victim.table)
        );
        drop(window);
    }
}

/// Where windows load a root, the alias must be in that root's half; and where one register has both halves, there is none to load.
#[test]
fn an_alias_in_the_wrong_half_is_refused() {
    fn build<F: HostedFormat>(in_windows: bool) -> Result<(), Error> {
        let arena = Arc::new(Arena::new(SMALL).expect("the host has memory"));
        let machine: Hosted<F, _, _> =
            Hosted::new(arena, Ttbr0::new(Ttbr0Register), Counter::default(), 1);
        let machine = if in_windows { machine.with_alias_in_windows() } else { machine };
        let frames = Scarce::new(machine.memory());
        Paging::new(machine, frames, Config::of(Mode::Fused)).map(|_| ())
    }
    let misplaced = |start| Err(Error::AliasMisplaced(Some(start)));
    assert_eq!(build::<Aarch64>(true), Ok(()));
    assert_eq!(build::<Aarch64>(false), misplaced(ALIAS_START));
    assert_eq!(build::<X86_64>(true), misplaced(ALIAS_IN_WINDOWS_START));
    assert_eq!(build::<X86_64>(false), misplaced(ALIAS_START));
}
