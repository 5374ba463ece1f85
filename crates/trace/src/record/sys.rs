//! The recorder's only unsafe code: kernel interfaces that no crate wraps.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use perf_event::Counter;
use perf_event_open_sys::ioctls;

/// Lets the records of `event` go to the ring buffer of `target`.
pub(super) fn redirect_output(event: &Counter, target: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: PERF_EVENT_IOC_SET_OUTPUT takes a file descriptor by value and touches no memory of ours;
    // `event` and `target` keep both descriptors open during the call.
    check(unsafe { ioctls::SET_OUTPUT(event.as_raw_fd(), target.as_raw_fd()) })
}

/// Lets the kernel drop records of the tracepoint `event` for which `filter` is false.
pub(super) fn set_filter(event: &Counter, filter: &str) -> io::Result<()> {
    let filter = CString::new(filter).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: PERF_EVENT_IOC_SET_FILTER reads a NUL-terminated string, which `filter` is and stays during
    // the call; it does not write through the pointer although the binding's type would let it.
    check(unsafe { ioctls::SET_FILTER(event.as_raw_fd(), filter.as_ptr().cast_mut()) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The descriptor of an event, for polling.
pub(super) fn borrow(event: &Counter) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event` lives, and the borrow cannot outlive it.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Adds `weight` to `count` whenever `signal` arrives.
pub(super) fn count_signal(
    signal: libc::c_int,
    count: Arc<AtomicUsize>,
    weight: usize,
) -> io::Result<signal_hook::SigId> {
    let action = move || {
        count.fetch_add(weight, Ordering::Relaxed);
    };
    // SAFETY: the action runs in a signal handler: it is one atomic addition, which neither allocates,
    // locks nor panics, and it owns what it touches.
    unsafe { signal_hook::low_level::register(signal, action) }
}
