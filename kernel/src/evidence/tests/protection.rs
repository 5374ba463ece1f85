//! Windows: open where they must be, closed everywhere else.
//!
//! These hold for every backend with a register. Whether hardware refuses stores is shown by the attacks.

use crate::arch::backend::Selected;
use crate::cpu::calls;
use crate::evidence::attack::Here;
use crate::evidence::probe;
use crate::lock::{IrqLock, IrqsOff};
use crate::memory::paging::{self, memories};
use crate::protection::{backend, has_gates, selected};
use crate::{arch, cpu, ensure, kernel_test, sched, skip};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use kpkeys::{Access, Guard, context};
use kpkeys_workloads::attack::execute::inside_window;
use kpkeys_workloads::attack::{Aim, Site, Store};

/// What the register allows to page tables now; `None` with a backend that has none.
fn access() -> Option<Access> {
    selected().page_table_access()
}

/// Outside windows.
fn closed() -> Option<Access> {
    access().map(|_| Access::ReadOnly)
}

/// Inside.
fn open() -> Option<Access> {
    access().map(|_| Access::ReadWrite)
}

fn is_enforced() -> bool {
    memories().paging().is_protected() && selected().enforces()
}

/// Whether a store to a page-table page gets through, here and now.
fn can_store() -> bool {
    let site = Here { cpu: cpu::this().id };
    site.store(Store::Word, Aim::of_table(memories(), site.early_table(), 4088)).is_ok()
}

/// A window of this CPU, with interrupts off if it is a gate.
struct Opened {
    guard: Guard<'static, Selected, context::PageTables>,
    _irqs_off: Option<IrqsOff>,
}

fn open_window() -> Opened {
    let irqs_off = has_gates().then(IrqsOff::new);
    // SAFETY: the only window of this CPU; what runs in it is meant to show that it is open.
    Opened { guard: unsafe { Guard::enter(backend()) }, _irqs_off: irqs_off }
}

/// A window that is not kept from being interrupted, which a gate must be.
fn open_carelessly() -> Guard<'static, Selected, context::PageTables> {
    // SAFETY: as before. In a gate it will be lost, which is what is looked at.
    unsafe { Guard::enter(backend()) }
}

/// What a window that was interrupted and switched away from is afterwards.
fn after_switch() -> Option<Access> {
    if has_gates() { closed() } else { open() }
}

kernel_test! {
    /// A context inside a window closes it for a while, and then it is open again.
    fn contexts_nest() {
        let mut outer = open_window();
        let before = (access(), can_store());
        // SAFETY: nothing is meant to have more access than is left.
        let inner = unsafe { outer.guard.within::<context::Default>() };
        let in_inner = (access(), can_store());
        drop(inner);
        let in_outer = (access(), can_store());
        drop(outer);
        let after = (access(), can_store());
        ensure!(before == (open(), true), "in the window: {before:?}");
        ensure!(in_inner == (closed(), !is_enforced()), "in the default context inside: {in_inner:?}");
        ensure!(in_outer == (open(), true), "after it: {in_outer:?}");
        ensure!(after == (closed(), !is_enforced()), "after both: {after:?}");
    }

    /// Handlers of interrupts, NMIs, page faults and asynchronous errors start closed, and what they interrupted is open again afterwards.
    fn exceptions_reset_and_restore() {
        // No interrupt arrives in a gate.
        let first = usize::from(has_gates());
        let handlers = if arch::error::can_be_raised() { 4 } else { 3 };
        if handlers == 3 {
            skip!("asynchronous errors cannot be raised here");
        }
        let seen = IrqLock::new(Vec::with_capacity(handlers));
        let look = || seen.lock().push((access(), can_store()));
        let mut restored = Vec::with_capacity(handlers);
        for handler in first..handlers {
            let window = open_window();
            match handler {
                0 => calls::run_in_interrupt(cpu::this().id, &look),
                1 => calls::run_in_nmi(cpu::this().id, &look),
                2 => probe::run_in_page_fault(&look),
                _ => calls::run_in_error(&look),
            }
            restored.push((access(), can_store()));
            drop(window);
        }
        let seen = seen.lock().clone();
        let expected = alloc::vec![(closed(), !is_enforced()); handlers - first];
        ensure!(seen == expected, "inside the handlers: {seen:?}");
        let expected = alloc::vec![(open(), true); handlers - first];
        ensure!(restored == expected, "after them, in the window: {restored:?}");
    }

    /// The same one inside the other: a fault in an NMI in an interrupt in a window.
    fn nested_exceptions_reset_and_restore() {
        let seen = IrqLock::new(Vec::with_capacity(4));
        let look = || seen.lock().push(access());
        let in_nmi = || {
            probe::run_in_page_fault(&look);
            look();
        };
        let window = open_window();
        if has_gates() {
            calls::run_in_nmi(cpu::this().id, &in_nmi);
        } else {
            calls::run_in_interrupt(cpu::this().id, &|| {
                let inner = open_window();
                calls::run_in_nmi(cpu::this().id, &in_nmi);
                look();
                drop(inner);
                look();
            });
        }
        let after = access();
        drop(window);
        let seen = seen.lock().clone();
        let expected = [closed(), closed(), open(), closed()];
        let expected = if has_gates() { &expected[..2] } else { &expected[..] };
        ensure!(seen == expected, "fault, NMI, window in the interrupt, interrupt: {seen:?}");
        ensure!(after == open(), "back in the window: {after:?}");
    }

    /// Whatever registers a gate had when an NMI came, it has them afterwards, many times; and it gets on.
    fn a_gate_gets_on_in_a_storm_of_nmis() {
        static STOP: AtomicBool = AtomicBool::new(false);
        STOP.store(false, Ordering::Relaxed);
        let here = cpu::this().id;
        let Some(other) = cpu::online().map(|cpu| cpu.id).find(|&id| id != here) else {
            skip!("there is no other CPU to send NMIs");
            return Ok(());
        };
        let in_storm = move || {
            let storm = sched::spawn("storm", Some(other), move || {
                let mut sent = 0u64;
                while !STOP.load(Ordering::Relaxed) {
                    calls::run_in_nmi(here, &|| ());
                    sent += 1;
                }
                sent
            });
            let storm = storm.map_err(|error| error.to_string())?;
            let area = memories().vmalloc(1).map_err(|error| error.to_string())?;
            let end = arch::time::since_boot() + Duration::from_millis(300);
            let (mut gates, mut in_gates) = (0u64, 0u64);
            while arch::time::since_boot() < end {
                inside_window(memories(), area, || {
                    for _ in 0..50 {
                        core::hint::spin_loop();
                    }
                })
                .map_err(|failure| failure.to_string())?;
                gates += 1;
                in_gates += u64::from(!can_store() || !is_enforced());
            }
            STOP.store(true, Ordering::Relaxed);
            memories().vfree(area).map_err(|error| error.to_string())?;
            Ok::<_, alloc::string::String>((storm.join(), gates, in_gates))
        };
        let storm = sched::spawn("in the storm", Some(here), in_storm);
        let (sent, gates, closed) = storm.map_err(|error| error.to_string())?.join()?;
        log::info!("{gates} gates in a storm of {sent} NMIs");
        ensure!(sent > 0 && gates > 0, "{sent} NMIs, {gates} gates");
        ensure!(closed == gates, "{closed} of {gates} gates were closed afterwards");
    }

    /// A thread that is switched to does not get the window of the one before, which finds it again, unless it is a gate: that is lost.
    fn thread_switch_carries_the_window() {
        static OPENED: AtomicBool = AtomicBool::new(false);
        static DONE: AtomicBool = AtomicBool::new(false);
        let in_thread = |cpu| {
            let other = sched::spawn("other", Some(cpu), || {
                // It may run before there is a window, which would show nothing.
                while !OPENED.load(Ordering::Relaxed) {
                    sched::yield_now();
                }
                let seen = (access(), can_store());
                DONE.store(true, Ordering::Relaxed);
                seen
            });
            let other = other.map_err(|error| error.to_string())?;
            let window = open_carelessly();
            OPENED.store(true, Ordering::Relaxed);
            while !DONE.load(Ordering::Relaxed) {
                sched::yield_now();
            }
            let after = (access(), can_store());
            drop(window);
            Ok::<_, alloc::string::String>((other.join(), after))
        };
        let here = cpu::this().id;
        OPENED.store(false, Ordering::Relaxed);
        DONE.store(false, Ordering::Relaxed);
        let seen = sched::spawn("window", Some(here), move || in_thread(here));
        let (other, after) = seen.map_err(|error| error.to_string())?.join()?;
        ensure!(other == (closed(), !is_enforced()), "the other thread: {other:?}");
        let expected = (after_switch(), !has_gates() || !is_enforced());
        ensure!(after == expected, "back in the window: {after:?}");
    }

    /// A window moves to another CPU with its thread, and closes there; a gate does not outlive the switch.
    fn windows_move_with_their_thread() {
        let end = arch::time::since_boot() + Duration::from_millis(300);
        let start = cpu::this().id;
        let window = open_carelessly();
        // Some other thread must want this CPU, or this one stays.
        let busy = sched::spawn("busy", Some(start), move || {
            while arch::time::since_boot() < end {
                core::hint::spin_loop();
            }
        });
        while cpu::this().id == start && arch::time::since_boot() < end {
            sched::yield_now();
        }
        let moved = cpu::this().id != start;
        let inside = access();
        drop(window);
        let after = access();
        busy.map_err(|error| error.to_string())?.join();
        if cpu::online().count() == 1 {
            skip!("there is no other CPU to move to");
        } else {
            ensure!(moved, "the thread stayed on CPU {start}");
        }
        let expected = if moved { after_switch() } else { inside };
        ensure!((inside, after) == (expected, closed()), "in the window, after it: {inside:?}, {after:?}");
    }

    /// While all other CPUs open windows as fast as they can, stores of this one are refused, every one.
    fn other_cpus_windows_do_not_help() {
        static STOP: AtomicBool = AtomicBool::new(false);
        static WINDOWS: AtomicU64 = AtomicU64::new(0);
        STOP.store(false, Ordering::Relaxed);
        WINDOWS.store(0, Ordering::Relaxed);
        let mut openers = Vec::new();
        for other in cpu::online().filter(|cpu| cpu.id.0 != 0) {
            let opener = sched::spawn("opener", Some(other.id), || {
                let area = memories().vmalloc(1).map_err(|error| error.to_string())?;
                while !STOP.load(Ordering::Relaxed) {
                    inside_window(memories(), area, || ()).map_err(|failure| failure.to_string())?;
                    WINDOWS.fetch_add(1, Ordering::Relaxed);
                }
                memories().vfree(area).map_err(|error| error.to_string())
            });
            openers.push(opener.map_err(|error| error.to_string())?);
        }
        let attacker = sched::spawn("attacker", Some(cpu::CpuId(0)), || {
            let end = arch::time::since_boot() + Duration::from_millis(300);
            let (mut tried, mut through) = (0u64, 0u64);
            while arch::time::since_boot() < end || tried < 100 {
                tried += 1;
                through += u64::from(can_store());
            }
            (tried, through)
        });
        let (tried, through) = attacker.map_err(|error| error.to_string())?.join();
        STOP.store(true, Ordering::Relaxed);
        for opener in openers {
            opener.join()?;
        }
        let windows = WINDOWS.load(Ordering::Relaxed);
        if cpu::online().count() == 1 {
            skip!("there are no other CPUs to open windows");
        } else {
            ensure!(windows > 0, "no window was opened meanwhile");
        }
        let expected = if is_enforced() { 0 } else { tried };
        ensure!(through == expected, "{through} of {tried} stores got through, {windows} windows meanwhile");
    }

    /// Every CPU's backend still is in force after whatever ran before.
    fn every_cpu_verifies() {
        paging::verify_every_cpu().map_err(|error| error.to_string())?;
    }
}
