//! The recorder's only unsafe code: kernel interfaces that no crate wraps.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use perf_event::Counter;
use perf_event_open_sys::ioctls;
use seccompiler::BpfProgram;

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

/// What a stopped task is doing.
#[derive(Debug, Clone, Copy)]
pub(super) enum CallInfo {
    /// It is about to make a call.
    Entry { number: i64, arguments: [u64; 6] },
    /// A call has returned.
    Exit { result: i64 },
    /// Neither.
    Other,
}

/// Asks what the stopped task `tid` is doing (PTRACE_GET_SYSCALL_INFO).
pub(super) fn call_info(tid: u32) -> io::Result<CallInfo> {
    let info = nix::sys::ptrace::syscall_info(nix::unistd::Pid::from_raw(tid as i32))?;
    Ok(match info.op {
        libc::PTRACE_SYSCALL_INFO_SECCOMP => {
            // SAFETY: `op` says which variant of the union the kernel filled in.
            let call = unsafe { info.u.seccomp };
            CallInfo::Entry { number: call.nr as i64, arguments: call.args }
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: as above.
            let exit = unsafe { info.u.exit };
            CallInfo::Exit { result: exit.sval }
        }
        _ => CallInfo::Other,
    })
}

/// How a stopped task goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resume {
    /// Until its next observed call, delivering this signal if it is not 0.
    WithSignal(i32),
    /// Until the call it is in returns.
    ToCallsEnd,
    /// Not at all: it stays stopped as job control wants it.
    StayStopped,
    /// Free of us.
    Untraced,
}

/// Lets the stopped task `tid` go on. A task that was killed meanwhile is no error: its end is reported.
pub(super) fn resume(tid: u32, how: Resume) -> io::Result<()> {
    let (request, data) = match how {
        Resume::WithSignal(signal) => (libc::PTRACE_CONT, signal as usize),
        Resume::ToCallsEnd => (libc::PTRACE_SYSCALL, 0),
        Resume::StayStopped => (libc::PTRACE_LISTEN, 0),
        Resume::Untraced => (libc::PTRACE_DETACH, 0),
    };
    let unused = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests take the data argument by value and ignore the address: no memory of ours
    // is touched. The kernel refuses a task that is not our stopped tracee.
    let result = unsafe { libc::ptrace(request, tid as libc::pid_t, unused, data) };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

/// Prepares `command` so that its process, before it becomes the command, writes its number to `hello`,
/// waits for a byte from `leave` that is not 0, and puts itself under `filter`.
pub(super) fn wait_before_exec(
    command: &mut Command,
    hello: OwnedFd,
    leave: OwnedFd,
    filter: BpfProgram,
) {
    let prepare = move || {
        rustix::io::write(&hello, &std::process::id().to_ne_bytes())?;
        let mut answer = [0];
        rustix::io::read(&leave, &mut answer)?;
        if answer == [0] {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        seccompiler::apply_filter(&filter).map_err(|_| io::ErrorKind::Unsupported.into())
    };
    // SAFETY: the closure runs in a new process that has only the calling thread. It makes system calls
    // (getpid, write, read, prctl, seccomp) and builds errors that need no memory; what it uses was
    // made before, and it takes no lock.
    unsafe { command.pre_exec(prepare) };
}
