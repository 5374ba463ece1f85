//! A window is one thread's.

use std::sync::Barrier;
use std::thread;

use kpkeys::context::PageTables;
use kpkeys::{Access, Guard};
use kpkeys_hosted::{HostedFormat, cpu, pku};
use kpkeys_pgtable::{Machine, Mode};

use crate::stray::{access, store};
use crate::{boot, load, on_keys, word};

on_keys!(a_window_opens_no_other_thread, a_thread_made_in_a_window_closes_it_for_itself);

fn a_window_opens_no_other_thread<F: HostedFormat>() {
    let kernel = boot::<F>(Mode::Batched);
    let root = kernel.paging().kernel().frame();
    let step = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            cpu::become_cpu(1);
            let root = word(&kernel, root);
            assert!(store(root, load(root)).is_err(), "before the window");
            step.wait();
            step.wait();
            assert!(store(root, load(root)).is_err(), "while another thread has one open");
            step.wait();
        });
        let root = word(&kernel, root);
        step.wait();
        let guard: Guard<'_, _, PageTables> =
            // SAFETY: the only window of this thread; what runs in it stores what the table holds.
            unsafe { Guard::enter(kernel.machine().backend()) };
        step.wait();
        assert_eq!(store(root, load(root)), Ok(()), "the thread that opened it");
        step.wait();
        drop(guard);
        assert!(store(root, load(root)).is_err(), "after it");
    });
}

/// Linux gives a new thread the register of the one that made it.
fn a_thread_made_in_a_window_closes_it_for_itself<F: HostedFormat>() {
    let kernel = boot::<F>(Mode::Batched);
    let root = kernel.paging().kernel().frame();
    let backend = kernel.machine().backend();
    thread::scope(|scope| {
        let guard: Guard<'_, _, PageTables> =
            // SAFETY: the only window of this thread, which makes another thread in it and nothing else.
            unsafe { Guard::enter(backend) };
        let made = scope.spawn(|| {
            assert_eq!(access(backend), Some(Access::ReadWrite), "as the thread that made it");
            pku::ready().expect("the host has keys");
            let root = word(&kernel, root);
            assert!(store(root, load(root)).is_err());
        });
        made.join().expect("the other thread found what it expected");
        drop(guard);
    });
}
