//! Threads take turns, whether they give them up or not.

use crate::{cpu, ensure, kernel_test, sched};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

kernel_test! {
    /// A thread's result reaches the one that waits for it.
    fn join_returns_the_result() {
        let handle = sched::spawn("adder", None, || 2 + 3).map_err(|error| error.to_string())?;
        let sum = handle.join();
        ensure!(sum == 5, "got {sum}");
    }

    /// A bound thread runs on its CPU, on each there is.
    fn bound_threads_stay() {
        for target in cpu::online() {
            let thread = sched::spawn("bound", Some(target.id), || {
                (0..20).all(|_| { sched::yield_now(); true }).then(|| cpu::this().id)
            });
            let ran_on = thread.map_err(|error| error.to_string())?.join();
            ensure!(ran_on == Some(target.id), "bound to {}, ran on {ran_on:?}", target.id);
        }
    }

    /// A thread that never gives up its turn loses it to the timer: another one on the same CPU gets to stop it.
    fn timer_preempts() {
        let here = cpu::this().id;
        let cpu = cpu::get(here).ok_or("the CPU went away")?;
        let before = cpu.sched.preemptions.load(Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        let (seen_by_spinner, seen_by_stopper) = (stop.clone(), stop);
        let spinner = sched::spawn("spinner", Some(here), move || {
            let mut turns = 0u64;
            while !seen_by_spinner.load(Ordering::Relaxed) {
                turns += 1;
                core::hint::spin_loop();
            }
            turns
        });
        let stopper = sched::spawn("stopper", Some(here), move || {
            seen_by_stopper.store(true, Ordering::Relaxed);
        });
        let turns = spinner.map_err(|error| error.to_string())?.join();
        stopper.map_err(|error| error.to_string())?.join();
        let preemptions = cpu.sched.preemptions.load(Ordering::Relaxed) - before;
        ensure!(turns > 0 && preemptions > 0, "{turns} turns of the spinner, {preemptions} preemptions");
    }

    /// Many threads on all CPUs: all run, all end, their stacks come back.
    fn many_threads_share_the_cpus() {
        const ROUNDS: u64 = 5;
        const THREADS: u64 = 40;
        let sum = Arc::new(AtomicU64::new(0));
        for _ in 0..ROUNDS {
            let handles: Result<Vec<_>, _> = (0..THREADS).map(|number| {
                let sum = sum.clone();
                sched::spawn("adder", None, move || {
                    for _ in 0..10 {
                        sum.fetch_add(number, Ordering::Relaxed);
                        sched::yield_now();
                    }
                })
            }).collect();
            handles.map_err(|error| error.to_string())?.into_iter().for_each(|handle| handle.join());
        }
        let (sum, expected) = (sum.load(Ordering::Relaxed), ROUNDS * 10 * (0..THREADS).sum::<u64>());
        ensure!(sum == expected, "sum {sum} instead of {expected}");
    }

    /// A thread bound to a CPU that does not run is refused.
    fn offline_cpus_are_refused() {
        let nowhere = cpu::CpuId(cpu::MAX_CPUS);
        let refused = sched::spawn("nowhere", Some(nowhere), || ()).err();
        ensure!(refused == Some(sched::SpawnError::CpuOffline(nowhere)), "got {refused:?}");
    }
}
