//! Threads take turns, whether they give them up or not.

use crate::{arch, cpu, ensure, kernel_test, sched};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

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

    /// A thread that never gives up its turn loses it to the timer: another one on the same
    /// CPU gets to stop it.
    fn timer_preempts() {
        const PATIENCE: Duration = Duration::from_secs(10);
        static STARTED: AtomicBool = AtomicBool::new(false);
        static STOP: AtomicBool = AtomicBool::new(false);
        let here = Some(cpu::this().id);
        let spinner = sched::spawn("spinner", here, || {
            let end = arch::time::since_boot() + PATIENCE;
            STARTED.store(true, Ordering::Relaxed);
            while !STOP.load(Ordering::Relaxed) && arch::time::since_boot() < end {
                core::hint::spin_loop();
            }
            STOP.load(Ordering::Relaxed)
        });
        let stopper = sched::spawn("stopper", here, || {
            while !STARTED.load(Ordering::Relaxed) {
                sched::yield_now();
            }
            STOP.store(true, Ordering::Relaxed);
        });
        let was_stopped = spinner.map_err(|error| error.to_string())?.join();
        stopper.map_err(|error| error.to_string())?.join();
        ensure!(was_stopped, "the spinner kept its CPU for {PATIENCE:?}");
    }

    /// The timer ticks on every CPU, and keeps ticking.
    fn every_cpu_ticks() {
        const PATIENCE: Duration = Duration::from_secs(10);
        let end = arch::time::since_boot() + PATIENCE;
        for target in cpu::online() {
            let enough = target.ticks.load(Ordering::Relaxed) + 3;
            while target.ticks.load(Ordering::Relaxed) < enough && arch::time::since_boot() < end {
                sched::yield_now();
            }
            let ticks = target.ticks.load(Ordering::Relaxed);
            ensure!(ticks >= enough, "CPU {} is at tick {ticks}, not yet {enough}", target.id);
        }
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
