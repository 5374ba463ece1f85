//! A signal handler is to a process what an exception handler is to a kernel: it starts outside of the window it interrupted.

use std::cell::Cell;
use std::mem;
use std::ptr;

use kpkeys::context::PageTables;
use kpkeys::{Access, Guard};
use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::{Machine, Mode};

use crate::stray::{Refused, SEGV_PKUERR, access, store};
use crate::{boot, load, on_keys, word};

on_keys!(a_handler_starts_closed_and_the_window_goes_on_after_it);

thread_local! {
    static TARGET: Cell<*mut u64> = const { Cell::new(ptr::null_mut()) };
    static CAME_OF_IT: Cell<Option<Result<(), Refused>>> = const { Cell::new(None) };
}

/// Stores to the table that the interrupted window is for.
extern "C" fn attack(_signal: i32) {
    CAME_OF_IT.set(Some(store(TARGET.get(), 0)));
}

fn a_handler_starts_closed_and_the_window_goes_on_after_it<F: HostedFormat>() {
    let kernel = boot::<F>(Mode::Batched);
    let backend = kernel.machine().backend();
    let root = word(&kernel, kernel.paging().kernel().frame());
    let before = load(root);
    TARGET.set(root);
    // SAFETY: all zeroes is a value of this type; the handler touches this thread's cells and makes a store that is refused.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = attack as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut()), 0);
    }
    let guard: Guard<'_, _, PageTables> =
        // SAFETY: the only window of this thread; what runs in it stores what the table holds, or is the attack.
        unsafe { Guard::enter(backend) };
    assert_eq!(store(root, before), Ok(()), "the window is open");
    // SAFETY: a signal to this thread, which has a handler for it.
    assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
    let refused = CAME_OF_IT.take().expect("the handler ran").expect_err("it was in the window");
    assert_eq!(refused.code, SEGV_PKUERR);
    assert_eq!(refused.in_handler, Some(Access::NoAccess), "as Linux resets it");
    assert_eq!(access(backend), Some(Access::ReadWrite), "as before the signal");
    assert_eq!(store(root, before), Ok(()), "the window goes on");
    drop(guard);
    assert!(store(root, before).is_err(), "and ends");
    assert_eq!(load(root), before);
}
