//! Every planted fault is found, by the rule that it breaks; and what is explored is what it should be: windows that are interrupted, threads that migrate,
//! locks that are waited for. (That nothing is found without a fault is what the program of this package says.)

use kpkeys_pgtable::Mode;
use kpkeys_protocol::explore::{Exploration, Found, explore};
use kpkeys_protocol::fault::Fault;
use kpkeys_protocol::machine::{PanAlias, Pks, Poe, RootAlias, System};
use kpkeys_protocol::scenario::Scenario;
use kpkeys_protocol::world::{Reached, Rule};

fn run<S: System>(scenario: Scenario, mode: Mode, fault: Option<Fault>) -> Found {
    explore::<S>(Exploration { scenario, mode, fault, cpus: 2, disturbances: 1 })
}

#[track_caller]
fn finds<S: System>(fault: Fault, scenario: Scenario, mode: Mode, rule: Rule) {
    let found = run::<S>(scenario, mode, Some(fault));
    let (violation, path) = found.violation.unwrap_or_else(|| {
        panic!("{fault:?} is not found in {} executions of {scenario:?} {mode:?}", found.executions)
    });
    println!(
        "{fault:?}, {} {mode:?} {scenario:?}: {} after {} steps",
        S::NAME,
        violation.what,
        path.len()
    );
    assert_eq!(violation.rule, rule, "{fault:?}: {}", violation.what);
}

#[test]
fn the_crash_of_the_linux_series_is_found() {
    // An interrupt in a lazy section takes the section's window for open, and stores; exception entry has closed it.
    finds::<Poe>(Fault::LazySeenByHandler, Scenario::Lazy, Mode::Batched, Rule::Register);
    finds::<Pks>(Fault::LazySeenByHandler, Scenario::Lazy, Mode::Batched, Rule::Register);
}

#[test]
fn a_forgotten_reset_on_entry_is_found() {
    finds::<Pks>(Fault::EntryKeepsRegister, Scenario::Lazy, Mode::Batched, Rule::Register);
    finds::<Pks>(Fault::EntryKeepsRegister, Scenario::Link, Mode::Fused, Rule::Register);
    // SPAN set: taking an exception leaves PAN clear.
    finds::<PanAlias>(Fault::EntryKeepsRegister, Scenario::Link, Mode::Unbatched, Rule::Register);
    finds::<RootAlias>(Fault::EntryKeepsRegister, Scenario::Link, Mode::Unbatched, Rule::Register);
}

#[test]
fn a_return_by_what_an_attacker_wrote_is_found() {
    finds::<Pks>(Fault::ReturnBelievesFrame, Scenario::Link, Mode::Fused, Rule::Register);
    finds::<Poe>(Fault::ReturnBelievesFrame, Scenario::Link, Mode::Fused, Rule::Register);
    finds::<PanAlias>(Fault::ReturnBelievesFrame, Scenario::Link, Mode::Fused, Rule::Register);
    finds::<RootAlias>(Fault::ReturnBelievesFrame, Scenario::Link, Mode::Fused, Rule::Register);
}

#[test]
fn a_switch_with_the_window_open_is_found() {
    finds::<Pks>(Fault::SwitchKeepsRegister, Scenario::Lazy, Mode::Batched, Rule::Register);
    finds::<PanAlias>(Fault::SwitchKeepsRegister, Scenario::Lazy, Mode::FusedLean, Rule::Register);
}

#[test]
fn a_switch_by_what_an_attacker_wrote_is_found() {
    finds::<Pks>(Fault::SwitchBelievesThread, Scenario::Lazy, Mode::Fused, Rule::Register);
    finds::<PanAlias>(Fault::SwitchBelievesThread, Scenario::Lazy, Mode::Fused, Rule::Register);
}

#[test]
fn a_gate_that_can_be_interrupted_is_found() {
    finds::<Pks>(Fault::GateWithInterrupts, Scenario::Link, Mode::Fused, Rule::Register);
    finds::<PanAlias>(Fault::GateWithInterrupts, Scenario::Link, Mode::Fused, Rule::Register);
}

#[test]
fn a_gate_that_is_not_given_back_after_an_nmi_is_found() {
    finds::<Pks>(Fault::NoRecord, Scenario::Link, Mode::Fused, Rule::Register);
    finds::<Poe>(Fault::NoRecord, Scenario::Link, Mode::Fused, Rule::Register);
}

#[test]
fn a_record_that_serves_any_frame_is_found() {
    // It takes two NMIs: one leaves its record, the other uses it.
    let exploration = Exploration {
        scenario: Scenario::Lazy,
        mode: Mode::Fused,
        fault: Some(Fault::RecordForAnyFrame),
        cpus: 2,
        disturbances: 2,
    };
    let found = explore::<Pks>(exploration).violation.expect("it is found");
    assert_eq!(found.0.rule, Rule::Register, "{}", found.0.what);
}

#[test]
fn a_flush_that_does_not_reach_every_cpu_is_found() {
    // The page is freed while another CPU still has it.
    finds::<Pks>(Fault::FlushIsLocal, Scenario::Free, Mode::Fused, Rule::Frame);
    finds::<Poe>(Fault::FlushIsNone, Scenario::Free, Mode::Fused, Rule::Frame);
    // A new table can still be written by the CPU that has it as it was.
    finds::<Pks>(Fault::FlushIsLocal, Scenario::Link, Mode::Batched, Rule::Table);
    finds::<PanAlias>(Fault::FlushIsNone, Scenario::Link, Mode::Unbatched, Rule::Table);
}

#[test]
fn a_flush_that_leaves_idle_cpus_out_is_found() {
    let fault = Some(Fault::FlushLeavesIdleOut);
    let (scenario, mode) = (Scenario::Free, Mode::Fused);
    let with = |fault| Exploration { scenario, mode, fault, cpus: 3, disturbances: 0 };
    let found = explore::<Pks>(with(fault)).violation.expect("it is found");
    assert_eq!(found.0.rule, Rule::Frame, "{}", found.0.what);
    let found = explore::<Pks>(with(None));
    assert_eq!(found.violation, None);
    assert!(found.has_reached(Reached::Done));
}

#[test]
fn threads_move_to_a_cpu_that_was_idle() {
    let (scenario, mode) = (Scenario::Lazy, Mode::Batched);
    let found =
        explore::<Poe>(Exploration { scenario, mode, fault: None, cpus: 3, disturbances: 0 });
    assert_eq!(found.violation, None);
    assert!(found.has_reached(Reached::Migration));
}

#[test]
fn what_is_mapped_anew_before_it_is_flushed_is_found() {
    // Addresses and frames that a TLB still has are mapped anew.
    for mode in [Mode::Batched, Mode::Fused] {
        finds::<Pks>(Fault::FlushIsLocal, Scenario::Purge, mode, Rule::Frame);
        finds::<Poe>(Fault::FlushIsNone, Scenario::Purge, mode, Rule::Frame);
        finds::<Pks>(Fault::FlushIsLocal, Scenario::Gather, mode, Rule::Frame);
        finds::<PanAlias>(Fault::FlushIsNone, Scenario::Gather, mode, Rule::Frame);
    }
    let found = run::<PanAlias>(Scenario::Purge, Mode::Fused, None);
    assert_eq!(found.violation, None);
    for reached in [Reached::Done, Reached::Contention, Reached::Migration] {
        assert!(found.has_reached(reached), "{reached:?}");
    }
}

#[test]
fn a_page_that_is_freed_before_the_flush_is_found() {
    for mode in [Mode::Unbatched, Mode::Batched, Mode::FusedLean, Mode::Fused] {
        finds::<Pks>(Fault::FreeBeforeFlush, Scenario::Free, mode, Rule::Frame);
    }
}

#[test]
fn a_page_that_becomes_a_table_before_the_flush_is_found() {
    finds::<Pks>(Fault::RetypeBeforeFlush, Scenario::Free, Mode::Batched, Rule::Table);
    finds::<PanAlias>(Fault::RetypeBeforeFlush, Scenario::Free, Mode::Unbatched, Rule::Table);
}

#[test]
fn a_handler_that_takes_locks_is_found() {
    finds::<Pks>(Fault::HandlerTakesLocks, Scenario::Link, Mode::Batched, Rule::Progress);
    finds::<Poe>(Fault::HandlerTakesLocks, Scenario::Link, Mode::Fused, Rule::Progress);
}

#[test]
fn two_cpus_that_wait_for_each_others_flush_are_found() {
    // x86-64: a CPU that is flushed must take an interrupt.
    finds::<Pks>(Fault::FlushWithInterruptsOff, Scenario::Free, Mode::Unbatched, Rule::Progress);
}

#[test]
fn what_is_to_be_explored_is_reached() {
    let all = |found: &[Found]| found.iter().fold(0, |all, found| all | found.reached);
    let batched = [
        run::<Pks>(Scenario::Lazy, Mode::Batched, None),
        run::<Pks>(Scenario::Link, Mode::Batched, None),
    ];
    let fused = [
        run::<Pks>(Scenario::Lazy, Mode::Fused, None),
        run::<Pks>(Scenario::Link, Mode::Fused, None),
    ];
    for found in batched.iter().chain(&fused) {
        assert_eq!(found.violation, None);
        assert!(found.has_reached(Reached::Done));
    }
    let (batched, fused) = (all(&batched), all(&fused));
    for reached in [Reached::ExceptionInWindow, Reached::NmiInWindow, Reached::SwitchInWindow] {
        assert_ne!(batched & reached as u32, 0, "{reached:?} in batched");
    }
    for reached in [Reached::Migration, Reached::Contention] {
        assert_ne!(batched & reached as u32, 0, "{reached:?} in batched");
        assert_ne!(fused & reached as u32, 0, "{reached:?} in fused");
    }
    assert_ne!(fused & Reached::NmiInWindow as u32, 0);
    assert_ne!(batched & fused & Reached::OutOfMemory as u32, 0);
    assert_ne!(fused & Reached::FlushWaited as u32, 0);
    assert_eq!(fused & Reached::SwitchInWindow as u32, 0, "a gate is never switched away from");
}
