//! Attacks on page tables behind an alias, on a model of an arm64 CPU: by the kernel, by a program, and by a user copy.
//!
//! Each attack is shown to work where what stops it is off, and to fault where it is on.

use crate::support::attacked::{Attacked, MODES, WORD, open};
use crate::support::{Aliased, KERNEL, MachineOf, SMALL, System, USER};
use kpkeys::Backend;
use kpkeys_hosted::mmu::{Fault, Mmu, Privilege, Want};
use kpkeys_hosted::register::PanFlag;
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::{Config, Entry, Level, Machine, Mode, VirtAddr};

type Victim = Attacked<Aliased>;

impl Victim {
    fn mmu(&self) -> Mmu<'_, MachineOf<Aarch64, Aliased>> {
        self.system.mmu(Some(&self.user))
    }

    fn linear(&self) -> VirtAddr {
        self.system.linear(self.table)
    }
}

#[test]
fn a_kernel_store_to_the_alias_works_with_pan_clear_and_faults_with_it_set() {
    for mode in MODES {
        let victim = Victim::new(mode);
        let level = if mode.fuses() { Level::Pmd } else { Level::Pte };
        let stored = victim.mmu().store(victim.alias().offset(WORD), 0xbad);
        assert_eq!(stored, Err(Fault::Permission(level)), "{mode:?}");
        // Loads of the alias fault as well: there is nothing to be learned by probing for open windows.
        let read = victim.mmu().access(victim.alias(), Want::Read, Privilege::Kernel);
        assert_eq!(read, Err(Fault::Permission(level)), "{mode:?}");
        assert_eq!(victim.word(), 0, "{mode:?}");

        let mut cleared = victim.mmu();
        cleared.cpu.pan = false;
        assert_eq!(cleared.store(victim.alias().offset(WORD), 0xbad), Ok(()), "{mode:?}");
        assert_eq!(victim.word(), 0xbad, "{mode:?}");
    }
}

#[test]
fn a_kernel_store_to_the_linear_map_faults_even_with_pan_clear() {
    for mode in MODES {
        let victim = Victim::new(mode);
        for pan in [true, false] {
            let mut mmu = victim.mmu();
            mmu.cpu.pan = pan;
            let fault = mmu.store(victim.linear().offset(WORD), 0xbad);
            assert!(matches!(fault, Err(Fault::Permission(_))), "{mode:?}: {fault:?}");
            let read = mmu.access(victim.linear(), Want::Read, Privilege::Kernel);
            assert_eq!(read, Ok(victim.table), "{mode:?}: tables stay readable there");
        }
        assert_eq!(victim.word(), 0, "{mode:?}");
    }
    // And where nothing is protected, it works, and there is no alias.
    let off = System::<Aarch64, Aliased>::boot(Config::of(Mode::Off), SMALL);
    let root = off.paging.kernel().frame();
    assert_eq!(off.mmu(None).store(off.linear(root).offset(WORD), 0xbad), Ok(()));
    assert_eq!(off.read(root, 7), Entry(0xbad));
    assert_eq!(off.paging.alias_of(root), None);
}

/// The store of a program, and of a user copy of the kernel (LDTR, STTR) that was handed the alias for its user pointer: the hardware checks
/// both as the program's. Neither minds PAN.
#[test]
fn a_programs_store_to_the_alias_works_without_e0pd_and_faults_with_it() {
    for mode in MODES {
        for pan in [true, false] {
            let victim = Victim::new(mode);
            let mut mmu = victim.mmu();
            mmu.cpu.pan = pan;
            let attack = |mmu: &Mmu<'_, _>| {
                mmu.store_as(Privilege::User, victim.alias().offset(WORD), 0xbad)
            };
            assert!(mmu.cpu.e0pd);
            assert_eq!(attack(&mmu), Err(Fault::NotPresent(Level::Pgd)), "{mode:?}: at level 0");
            for want in [Want::Read, Want::Execute] {
                let refused = mmu.access(victim.alias(), want, Privilege::User);
                assert_eq!(refused, Err(Fault::NotPresent(Level::Pgd)), "{mode:?} {want:?}");
            }
            assert_eq!(victim.word(), 0);

            mmu.cpu.e0pd = false;
            assert_eq!(
                attack(&mmu),
                Ok(()),
                "{mode:?}: why the backend refuses a CPU without E0PD"
            );
            assert_eq!(victim.word(), 0xbad);
            // What is the kernel's alone is out of a program's reach with and without.
            let linear = mmu.store_as(Privilege::User, victim.linear(), 0xbad);
            assert!(matches!(linear, Err(Fault::Permission(_))), "{mode:?}: {linear:?}");
        }
    }
}

#[test]
fn e0pd_leaves_a_program_its_own_half() {
    let victim = Victim::new(Mode::Batched);
    for e0pd in [true, false] {
        let mut mmu = victim.mmu();
        mmu.cpu.e0pd = e0pd;
        assert!(mmu.access(USER, Want::Write, Privilege::User).is_ok());
        assert!(mmu.access(KERNEL, Want::Write, Privilege::Kernel).is_ok(), "and the kernel all");
    }
}

#[test]
fn nobody_executes_the_alias() {
    for mode in MODES {
        let victim = Victim::new(mode);
        for pan in [true, false] {
            for who in [Privilege::Kernel, Privilege::User] {
                let mut mmu = victim.mmu();
                (mmu.cpu.pan, mmu.cpu.e0pd) = (pan, false);
                let fetch = mmu.access(victim.alias(), Want::Execute, who);
                assert!(matches!(fetch, Err(Fault::Permission(_))), "{mode:?} {who:?}: {fetch:?}");
            }
        }
    }
}

/// Windows as they are really opened, and the register as it really is.
#[test]
fn the_alias_is_open_in_a_window_and_closed_in_every_exception_that_interrupts_it() {
    for mode in MODES {
        let victim = Victim::new(mode);
        let attack = || victim.mmu().store(victim.alias().offset(WORD), 0);
        let window = open(&victim.system);
        assert_eq!(attack(), Ok(()), "{mode:?}: the page-table code itself");

        // An interrupt, an SError and a fault are the same to PAN; and one in the other.
        let spsr = victim.system.register.take_exception();
        assert!(attack().is_err(), "{mode:?}: a handler");
        let nested = victim.system.register.take_exception();
        assert!(attack().is_err(), "{mode:?}: a handler of a fault in the handler");
        // SAFETY: the tests stand for hardware, or for who forges what it keeps.
        unsafe { victim.system.register.exception_return(nested) };
        let handlers = open(&victim.system);
        assert_eq!(attack(), Ok(()), "{mode:?}: the handler's own window");
        drop(handlers);
        assert!(attack().is_err(), "{mode:?}: after it");
        // SAFETY: the tests stand for hardware, or for who forges what it keeps.
        unsafe { victim.system.register.exception_return(spsr) };

        assert_eq!(attack(), Ok(()), "{mode:?}: the interrupted window goes on");
        drop(window);
        assert!(attack().is_err(), "{mode:?}");
    }
}

#[test]
fn another_thread_has_no_part_in_a_window() {
    let victim = Victim::new(Mode::Batched);
    let backend = victim.system.machine().backend();
    let attack = || victim.mmu().store(victim.alias().offset(WORD), 0);
    let (mut first, mut second) = (backend.initial(), backend.initial());
    let window = open(&victim.system);
    // SAFETY: the states are those of the two threads of this test.
    unsafe { backend.thread_switch(&mut first, &mut second) };
    assert!(attack().is_err(), "the other thread");
    // SAFETY: as before.
    unsafe { backend.thread_switch(&mut second, &mut first) };
    assert_eq!(attack(), Ok(()), "resumed");
    drop(window);
    assert!(attack().is_err());
}

/// PAN is a bit of each CPU: that one has a window open says nothing of another.
#[test]
fn another_cpu_has_no_part_in_a_window() {
    let victim = Victim::new(Mode::Batched);
    let window = open(&victim.system);
    let mut other = victim.mmu();
    assert!(!other.cpu.pan);
    other.cpu.pan = true;
    assert!(other.store(victim.alias().offset(WORD), 0).is_err());
    drop(window);
}

/// What is not stopped, as the documentation says: who clears PAN for a purpose of their own opens page tables, and a forged SPSR does
/// the same.
#[test]
fn clearing_pan_for_something_else_opens_the_alias_too() {
    let victim = Victim::new(Mode::Batched);
    let mut copying = victim.mmu();
    copying.cpu.pan = false;
    assert!(
        copying.access(USER, Want::Write, Privilege::Kernel).is_ok(),
        "what it was cleared for"
    );
    assert!(copying.access(victim.alias(), Want::Write, Privilege::Kernel).is_ok(), "and this");
    // A user copy by unprivileged accesses needs no such thing.
    assert!(victim.mmu().access(USER, Want::Write, Privilege::User).is_ok());

    victim.system.register.take_exception();
    // SAFETY: the tests stand for hardware, or for who forges what it keeps.
    unsafe { victim.system.register.exception_return(0) };
    assert!(victim.mmu().store(victim.alias().offset(WORD), 0).is_ok(), "a forged SPSR");
}

#[test]
fn the_flag_opens_where_it_is_clear() {
    use kpkeys_hosted::register::Opens;
    assert!(PanFlag::opens(0) && PanFlag::opens(!kpkeys::pan::PAN));
    assert!(!PanFlag::opens(kpkeys::pan::PAN) && !PanFlag::opens(u64::MAX));
}
