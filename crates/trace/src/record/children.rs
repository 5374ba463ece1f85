//! The recorded processes as this process's children: reaping them, and knowing when none is left.
//!
//! While a recording runs this process is a child subreaper: a descendant that outlives its parent
//! becomes our child instead of init's. When wait(2) has no child left, the whole tree is gone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::io::Errno;
use rustix::process::{
    Pid, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, set_child_subreaper, waitid,
    waitpid,
};
use rustix::time::{ClockId, clock_gettime};
use signal_hook::SigId;

use super::error::RecordError;
use super::{Options, launch};
use crate::header::{Outcome, RunTimes};

/// Now on CLOCK_MONOTONIC, the clock of all times in a recording.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// CPU time of every child waited for so far.
#[derive(Debug, Clone, Copy)]
struct Usage {
    user_ns: u64,
    system_ns: u64,
}

fn usage() -> Usage {
    let ns = |time: TimeVal| time.num_microseconds().unsigned_abs() * 1000;
    // getrusage fails for an unknown "who" only.
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return Usage { user_ns: 0, system_ns: 0 };
    };
    Usage { user_ns: ns(usage.user_time()), system_ns: ns(usage.system_time()) }
}

/// What reaping found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Processes of the tree are alive.
    Some,
    /// None is.
    None,
}

/// The children of this process during a recording.
#[derive(Debug)]
pub(super) struct Children {
    root: u32,
    outcome: Outcome,
    began_ns: u64,
    before: Usage,
    real_ns: Option<u64>,
}

impl Children {
    /// `root` is the command's first process, started at `began_ns` of CLOCK_MONOTONIC.
    pub(super) fn new(root: u32, began_ns: u64, meter: Meter) -> Self {
        Self { root, outcome: Outcome::Running, began_ns, before: meter.0, real_ns: None }
    }

    /// Reaps every child that has ended.
    pub(super) fn reap(&mut self) -> Left {
        loop {
            match waitpid(None, WaitOptions::NOHANG) {
                Ok(None) => return Left::Some,
                Ok(Some((pid, status))) => {
                    if let Status::Ended(outcome) = Status::from(status) {
                        self.note(pid.as_raw_nonzero().get().unsigned_abs(), outcome);
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return Left::None,
            }
        }
    }

    /// Takes note of how process `pid` ended.
    pub(super) fn note(&mut self, pid: u32, outcome: Outcome) {
        if pid == self.root && self.outcome == Outcome::Running {
            self.outcome = outcome;
            self.real_ns = Some(self.elapsed_ns());
        }
    }

    /// How the command ended, if it has.
    pub(super) fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Elapsed time of the command, CPU time of everything that was waited for.
    /// `root_gone_ns` is when the command's first process ended, if that was seen more exactly than by
    /// reaping it.
    pub(super) fn times(&self, root_gone_ns: Option<u64>) -> RunTimes {
        let now = usage();
        let seen_ns = root_gone_ns.map(|gone_ns| gone_ns.saturating_sub(self.began_ns));
        RunTimes {
            real_ns: seen_ns.or(self.real_ns).unwrap_or_else(|| self.elapsed_ns()),
            user_ns: now.user_ns.saturating_sub(self.before.user_ns),
            system_ns: now.system_ns.saturating_sub(self.before.system_ns),
        }
    }

    fn elapsed_ns(&self) -> u64 {
        now_ns().saturating_sub(self.began_ns)
    }
}

/// What waiting for a task reported. Signals are plain numbers: real-time signals have no names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// It is gone.
    Ended(Outcome),
    /// It is stopped, by a signal or by a ptrace event.
    Stopped { signal: i32, event: i32 },
}

impl From<WaitStatus> for Status {
    fn from(status: WaitStatus) -> Self {
        if let Some(code) = status.exit_status() {
            Self::Ended(Outcome::Exited(code as u8))
        } else if let Some(signal) = status.terminating_signal() {
            Self::Ended(Outcome::Signalled(signal as u8))
        } else {
            let raw = status.as_raw();
            Self::Stopped { signal: raw >> 8 & 0xff, event: raw >> 16 }
        }
    }
}

/// Waits for any child or traced task; `None` when there is none.
pub(super) fn wait_any() -> io::Result<Option<(u32, Status)>> {
    // Threads that are traced but not children of ours are waited for with __WALL only.
    let all = WaitOptions::from_bits_retain(libc::__WALL as u32);
    loop {
        match waitpid(None, all) {
            Ok(Some((pid, status))) => {
                return Ok(Some((pid.as_raw_nonzero().get().unsigned_abs(), status.into())));
            }
            Ok(None) | Err(Errno::CHILD) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for `pid` to stop, without taking notice of its end; `None` when it is gone.
pub(super) fn wait_stopped(pid: u32) -> io::Result<Option<(u32, Status)>> {
    let Some(id) = Pid::from_raw(pid as i32) else { return Ok(None) };
    let stops = WaitIdOptions::STOPPED | WaitIdOptions::from_bits_retain(libc::__WALL as u32);
    loop {
        match waitid(WaitId::Pid(id), stops) {
            Ok(Some(status)) => {
                let code = status.trapping_signal().or(status.stopping_signal()).unwrap_or(0);
                return Ok(Some((pid, Status::Stopped { signal: code & 0xff, event: code >> 8 })));
            }
            Ok(None) | Err(Errno::CHILD) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs the command of `options` once without recording it, until its whole tree, or with `until_parent`
/// its first process, is gone.
pub(super) fn run_alone(options: &Options) -> Result<RunTimes, RecordError> {
    let meter = Meter::start();
    let began_ns = now_ns();
    let root = launch::start(&options.command)?;
    let mut children = Children::new(root, began_ns, meter);
    while !options.until_parent || children.outcome == Outcome::Running {
        match wait_any() {
            Ok(Some((pid, Status::Ended(outcome)))) => children.note(pid, outcome),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    Ok(children.times(None))
}

/// The CPU time used by children before the command was started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter(Usage);

impl Meter {
    /// Reads it.
    pub(super) fn start() -> Self {
        Self(usage())
    }
}

/// Makes this process a subreaper as long as it lives.
#[derive(Debug)]
pub(super) struct Subreaper;

impl Subreaper {
    pub(super) fn become_one() -> io::Result<Self> {
        set_child_subreaper(Some(getpid()))?;
        Ok(Self)
    }
}

impl Drop for Subreaper {
    fn drop(&mut self) {
        // Turning it off cannot fail where turning it on did not.
        let _ = set_child_subreaper(None::<Pid>);
    }
}

/// Signals that would end the recorder. The terminal sends an interrupt to the command too, which decides
/// what to do about it; so the first one only waits for that, and the second ends the recording. A
/// SIGTERM is for the recorder alone and ends it at once.
#[derive(Debug)]
pub(super) struct Interrupts {
    count: Arc<AtomicUsize>,
    handlers: Vec<SigId>,
}

impl Interrupts {
    /// Interrupts after which recording stops.
    const LIMIT: usize = 2;

    pub(super) fn catch() -> io::Result<Self> {
        use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
        let count = Arc::new(AtomicUsize::new(0));
        let mut handlers = Vec::new();
        for (signal, weight) in [(SIGINT, 1), (SIGQUIT, 1), (SIGTERM, Self::LIMIT)] {
            handlers.push(super::sys::count_signal(signal, Arc::clone(&count), weight)?);
        }
        Ok(Self { count, handlers })
    }

    /// True when recording shall stop.
    pub(super) fn stop(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= Self::LIMIT
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}
