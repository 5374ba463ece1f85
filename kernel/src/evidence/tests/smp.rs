//! CPUs agree on their control bits and hear each other.

use crate::arch::tlb;
use crate::arch::{Flush, PageRange};
use crate::cpu::calls;
use crate::lock::{IrqLock, IrqsOff};
use crate::memory::boot::PAGE_SIZE;
use crate::protection::control;
use crate::{arch, cpu, ensure, kernel_test};
use alloc::string::{String, ToString};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use kpkeys_pgtable::VirtAddr;

/// Two pages of the kernel's half.
fn some_range() -> Result<PageRange, String> {
    let start = VirtAddr(arch::layout::LINEAR_MAP + PAGE_SIZE);
    PageRange::new(start, 2).map_err(|error| error.to_string())
}

kernel_test! {
    /// Every CPU reads its own control bits: all have the required ones, and all the same.
    fn control_bits_agree() {
        let first = arch::control::active();
        ensure!(first.contains(arch::control::Features::REQUIRED), "this CPU has only {first}");
        for target in cpu::online() {
            calls::run_in_interrupt(target.id, &|| { control::report(); });
            let bits = control::reported(target);
            ensure!(bits == first, "CPU {} has {bits}, this one {first}", target.id);
        }
    }

    /// Every CPU's backend is in force and closed, and the CPU's key feature is on exactly where it was selected.
    fn every_cpu_has_the_backend() {
        let selected = crate::protection::selected();
        for target in cpu::online() {
            let found = IrqLock::new(None);
            calls::run_in_interrupt(target.id, &|| {
                *found.lock() = Some((selected.verify(), arch::control::keys_are_on()));
            });
            let expected = Some((Ok(()), selected.choice().is_of_keys()));
            let found = *found.lock();
            ensure!(found == expected, "CPU {}: (verified, keys on) = {found:?}", target.id);
        }
    }

    /// A function sent to a CPU runs on that CPU.
    fn calls_run_where_they_are_sent() {
        for target in cpu::online() {
            let ran_on = AtomicUsize::new(usize::MAX);
            calls::run_in_interrupt(target.id, &|| ran_on.store(cpu::this().id.0, Ordering::Relaxed));
            let ran_on = ran_on.into_inner();
            ensure!(ran_on == target.id.0, "sent to {}, ran on {ran_on}", target.id);
        }
    }

    /// All CPUs acknowledge a shootdown, of a range and of everything.
    fn shootdowns_are_acknowledged() {
        let cpus = cpu::online().count();
        for flush in [Flush::AllKernel, Flush::Kernel(some_range()?)] {
            let acknowledged = tlb::flush_everywhere(flush);
            ensure!(acknowledged == cpus, "{acknowledged} of {cpus} CPUs acknowledged {flush:?}");
        }
    }

    /// Shootdowns from all CPUs at once, half of them under a lock that the others wait for
    /// with interrupts off, all end.
    fn shootdowns_do_not_deadlock() {
        static LOCK: IrqLock<u64> = IrqLock::new(0);
        /// Of all CPUs together: emulated CPUs that wait for each other share few real ones.
        const ROUNDS: u64 = 80;
        let rounds = ROUNDS / cpu::online().count() as u64;
        let (range, before) = (some_range()?, *LOCK.lock());
        let mut handles = alloc::vec::Vec::new();
        for target in cpu::online() {
            let thread = crate::sched::spawn("shooter", Some(target.id), move || {
                for _ in 0..rounds {
                    let mut count = LOCK.lock();
                    tlb::flush_everywhere(Flush::AllKernel);
                    *count += 1;
                    drop(count);
                    tlb::flush_everywhere(Flush::Kernel(range));
                }
            });
            handles.push(thread.map_err(|error| error.to_string())?);
        }
        let expected = before + rounds * handles.len() as u64;
        handles.into_iter().for_each(|handle| handle.join());
        let count = *LOCK.lock();
        ensure!(count == expected, "{count} rounds instead of {expected}");
    }

    /// An NMI gets through where interrupts are off, on this CPU in a critical section too.
    fn nmi_interrupts_a_critical_section() {
        for target in cpu::online() {
            let ran_on = AtomicUsize::new(usize::MAX);
            let critical_section = IrqsOff::new();
            calls::run_in_nmi(target.id, &|| ran_on.store(cpu::this().id.0, Ordering::Relaxed));
            let still_off = !arch::irq::enabled();
            drop(critical_section);
            let ran_on = ran_on.into_inner();
            ensure!(ran_on == target.id.0, "sent to {}, ran on {ran_on}", target.id);
            ensure!(still_off, "the NMI's return turned interrupts on");
        }
    }

    /// A fault inside an NMI handler does not let the next NMI in before the handler ends.
    fn nmi_stays_blocked_after_a_fault_inside() {
        let critical_section = IrqsOff::new();
        let this = cpu::this();
        let unasked = &this.arch.nmis_without_request;
        let before = unasked.load(Ordering::Relaxed);
        let seen_inside = AtomicU64::new(0);
        calls::run_in_nmi(this.id, &|| {
            let _ = crate::evidence::probe::load_u64(cpu::stack::some_guard().cast());
            arch::ipi::send_nmi(this);
            for _ in 0..1000 {
                core::hint::spin_loop();
            }
            seen_inside.store(unasked.load(Ordering::Relaxed) - before, Ordering::Relaxed);
        });
        let seen_after = unasked.load(Ordering::Relaxed) - before;
        drop(critical_section);
        let seen = (seen_inside.into_inner(), seen_after);
        ensure!(seen == (0, 1), "(NMIs let in inside, after) = {seen:?} instead of (0, 1)");
    }
}
