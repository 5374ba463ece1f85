//! The recorder's only unsafe code: kernel interfaces that no crate wraps.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use perf_event::Counter;
use perf_event_open_sys::ioctls;

use super::signals;

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

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The descriptor of an event, for polling.
pub(super) fn borrow(event: &Counter) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event` lives, and the borrow cannot outlive it.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Lets [`signals::arrived`] take note of `signal`; gives what was done about it before. `None` when this
/// process was told to ignore it: then it still does.
pub(super) fn catch(signal: Signal) -> io::Result<Option<SigAction>> {
    extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
        let code = unsafe { (*info).si_code };
        // Codes above 0 are the kernel's, as for a key on the terminal (sigaction(2)).
        signals::arrived(signal, code <= 0);
    }
    let action =
        SigAction::new(SigHandler::SigAction(handler), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler makes one atomic operation: it neither allocates, locks nor panics.
    let before = unsafe { sigaction(signal, &action) }?;
    if matches!(before.handler(), SigHandler::SigIgn) {
        restore(signal, &before);
        return Ok(None);
    }
    Ok(Some(before))
}

/// Lets `signal` interrupt what the thread waits for that it is sent to, and do nothing else.
pub(super) fn let_interrupt(signal: Signal) -> io::Result<SigAction> {
    extern "C" fn handler(_: c_int) {}
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    Ok(unsafe { sigaction(signal, &action) }?)
}

/// Undoes either.
pub(super) fn restore(signal: Signal, before: &SigAction) {
    // SAFETY: `before` was in force before, so whoever put it there had it safe. It fails for an
    // unknown signal only.
    let _ = unsafe { sigaction(signal, before) };
}

/// What a stopped task is doing.
#[derive(Debug, Clone, Copy)]
pub(super) enum CallInfo {
    /// It is about to make a call; `foreign` if by another ABI, whose numbers mean something else.
    Entry { number: i64, arguments: [u64; 6], foreign: bool },
    /// A call has returned.
    Exit { result: i64 },
    /// Neither.
    Other,
}

/// Asks what the stopped task `tid` is doing (PTRACE_GET_SYSCALL_INFO).
pub(super) fn call_info(tid: u32) -> io::Result<CallInfo> {
    let info = nix::sys::ptrace::syscall_info(nix::unistd::Pid::from_raw(tid as i32))?;
    Ok(match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: `op` says which variant of the union the kernel filled in.
            let call = unsafe { info.u.entry };
            let foreign = info.arch != ARCHITECTURE || call.nr & X32_BIT != 0;
            CallInfo::Entry { number: call.nr as i64, arguments: call.args, foreign }
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: as above.
            let exit = unsafe { info.u.exit };
            CallInfo::Exit { result: exit.sval }
        }
        _ => CallInfo::Other,
    })
}

/// AUDIT_ARCH_ of this architecture (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: u32 = 0xc000_00f3;

/// Set in the number of a call by x86's x32 ABI (asm/unistd.h); no other has such numbers.
const X32_BIT: u64 = 0x4000_0000;

/// How a stopped task goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resume {
    /// Until its next call begins or ends, delivering this signal if it is not 0.
    ToNextCall(i32),
    /// Not at all: it stays stopped as job control wants it.
    StayStopped,
    /// Free of us.
    Untraced,
}

/// Lets the stopped task `tid` go on. A task that was killed meanwhile is no error: its end is reported.
pub(super) fn resume(tid: u32, how: Resume) -> io::Result<()> {
    let (request, data) = match how {
        Resume::ToNextCall(signal) => (libc::PTRACE_SYSCALL, signal as usize),
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

/// Prepares `command` so that its process, before it becomes the command, writes its number to `hello` and
/// waits for a byte from `leave` that is not 0.
pub(super) fn wait_before_exec(command: &mut Command, hello: OwnedFd, leave: OwnedFd) {
    let prepare = move || {
        rustix::io::write(&hello, &std::process::id().to_ne_bytes())?;
        let mut answer = [0];
        rustix::io::read(&leave, &mut answer)?;
        if answer == [0] {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(())
    };
    // SAFETY: the closure runs in a new process that has only the calling thread. It makes system calls
    // (getpid, write, read) and builds errors that need no memory; what it uses was made before, and it
    // takes no lock.
    unsafe { command.pre_exec(prepare) };
}
