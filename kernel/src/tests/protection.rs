//! Windows: open where they must be, closed everywhere else.
//!
//! These hold for every backend with a register. Whether hardware refuses stores is shown by the attacks.

use crate::attack::Here;
use crate::lock::IrqLock;
use crate::paging::{self, memories};
use crate::protection::selected;
use crate::{arch, calls, cpu, ensure, kernel_test, probe, sched, skip};
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

kernel_test! {
    /// A window in a window opens nothing and closes nothing.
    fn windows_nest() {
        let backend = selected();
        let outer: Guard<'_, _, context::PageTables> = Guard::enter(&backend);
        let inner: Guard<'_, _, context::PageTables> = Guard::enter(&backend);
        let switched = (outer.switched(), inner.switched());
        let in_inner = (access(), can_store());
        drop(inner);
        let in_outer = (access(), can_store());
        drop(outer);
        let after = (access(), can_store());
        ensure!(switched == (access().is_some(), false), "(outer, inner) switched: {switched:?}");
        ensure!(in_inner == (open(), true), "in the inner window: {in_inner:?}");
        ensure!(in_outer == (open(), true), "after it, in the outer: {in_outer:?}");
        ensure!(after == (closed(), !is_enforced()), "after both: {after:?}");
    }

    /// Handlers of interrupts, NMIs, page faults and asynchronous errors start closed, and what they interrupted is open again afterwards.
    fn exceptions_reset_and_restore() {
        let backend = selected();
        let handlers = if arch::error::can_be_raised() { 4 } else { 3 };
        if handlers == 3 {
            skip!("asynchronous errors cannot be raised here");
        }
        let seen = IrqLock::new(Vec::with_capacity(handlers));
        let look = || seen.lock().push((access(), can_store()));
        let mut restored = Vec::new();
        for handler in 0..handlers {
            let window: Guard<'_, _, context::PageTables> = Guard::enter(&backend);
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
        let expected = alloc::vec![(closed(), !is_enforced()); handlers];
        ensure!(seen == expected, "inside the handlers: {seen:?}");
        let expected = alloc::vec![(open(), true); handlers];
        ensure!(restored == expected, "after them, in the window: {restored:?}");
    }

    /// The same one inside the other: a fault in an NMI in an interrupt in a window.
    fn nested_exceptions_reset_and_restore() {
        let backend = selected();
        let seen = IrqLock::new(Vec::with_capacity(3));
        let look = || seen.lock().push(access());
        let window: Guard<'_, _, context::PageTables> = Guard::enter(&backend);
        calls::run_in_interrupt(cpu::this().id, &|| {
            let inner: Guard<'_, _, context::PageTables> = Guard::enter(&backend);
            calls::run_in_nmi(cpu::this().id, &|| {
                probe::run_in_page_fault(&look);
                look();
            });
            seen.lock().push(access());
            drop(inner);
            seen.lock().push(access());
        });
        let after = access();
        drop(window);
        let seen = seen.lock().clone();
        let expected = [closed(), closed(), open(), closed()];
        ensure!(seen == expected, "fault, NMI, window in the interrupt, interrupt: {seen:?}");
        ensure!(after == open(), "back in the window: {after:?}");
    }

    /// A thread that is switched to does not get the window of the one before, which finds it again.
    fn thread_switch_carries_the_window() {
        static DONE: AtomicBool = AtomicBool::new(false);
        let in_thread = |cpu| {
            let other = sched::spawn("other", Some(cpu), || {
                let seen = (access(), can_store());
                DONE.store(true, Ordering::Relaxed);
                seen
            });
            let other = other.map_err(|error| error.to_string())?;
            let backend = selected();
            let window: Guard<'_, _, context::PageTables> = Guard::enter(&backend);
            while !DONE.load(Ordering::Relaxed) {
                sched::yield_now();
            }
            let after = (access(), can_store());
            drop(window);
            Ok::<_, alloc::string::String>((other.join(), after))
        };
        let here = cpu::this().id;
        DONE.store(false, Ordering::Relaxed);
        let seen = sched::spawn("window", Some(here), move || in_thread(here));
        let (other, after) = seen.map_err(|error| error.to_string())?.join()?;
        ensure!(other == (closed(), !is_enforced()), "the other thread: {other:?}");
        ensure!(after == (open(), true), "back in the window: {after:?}");
    }

    /// A window moves to another CPU with its thread, and closes there.
    fn windows_move_with_their_thread() {
        let backend = selected();
        let end = arch::time::since_boot() + Duration::from_millis(300);
        let start = cpu::this().id;
        let window: Guard<'_, _, context::PageTables> = Guard::enter(&backend);
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
        ensure!((inside, after) == (open(), closed()), "in the window, after it: {inside:?}, {after:?}");
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
