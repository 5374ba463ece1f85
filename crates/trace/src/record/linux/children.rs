//! The recorded processes as this process's children: reaping them, and knowing when none is left.
//!
//! While a recording runs this process is a child subreaper: a descendant that outlives its parent
//! becomes our child instead of init's. When wait(2) has no child left, the whole tree is gone. Children
//! are waited for whatever their process group is: `timeout`, `setsid` and shells with job control leave
//! ours.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, set_child_subreaper,
    wait, waitid,
};
use rustix::time::{ClockId, clock_gettime};

use super::error::RecordError;
use super::signals::Signals;
use super::{Options, launch};
use crate::header::{Outcome, RunTimes};

/// Longest time between two looks at signals that arrived.
pub(super) const ROUND: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Now on CLOCK_MONOTONIC, the clock of all times in a recording.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// CPU time of every child waited for so far.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    user_ns: u64,
    system_ns: u64,
}

impl Usage {
    fn now() -> Self {
        let ns = |time: TimeVal| time.num_microseconds().unsigned_abs() * 1000;
        // getrusage fails for an unknown "who" only.
        let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Self::default() };
        Self { user_ns: ns(usage.user_time()), system_ns: ns(usage.system_time()) }
    }
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
    /// Whether job control or a signal has stopped the command's first process.
    stopped: bool,
    began_ns: u64,
    real_ns: Option<u64>,
    /// CPU time of the children reaped before the command's first process, and its own with everything it
    /// waited for once it was.
    others: Usage,
    own: Option<Usage>,
}

impl Children {
    /// `root` is the command's first process, started at `began_ns` of CLOCK_MONOTONIC; no child was
    /// reaped since `meter` was read.
    pub(super) fn new(root: u32, began_ns: u64, meter: Meter) -> Self {
        let outcome = Outcome::Running;
        Self { root, outcome, stopped: false, began_ns, real_ns: None, others: meter.0, own: None }
    }

    /// Reaps every child that has ended.
    pub(super) fn reap(&mut self) -> Left {
        let changes = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
        loop {
            match wait(changes) {
                Ok(None) => return Left::Some,
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_nonzero().get().unsigned_abs();
                    match Status::from(status) {
                        Status::Ended(outcome) => self.note(pid, outcome),
                        Status::Stopped { .. } if pid == self.root => {
                            self.stopped = !status.continued();
                        }
                        Status::Stopped { .. } => {}
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return Left::None,
            }
        }
    }

    /// Takes note of how process `pid` ended.
    pub(super) fn note(&mut self, pid: u32, outcome: Outcome) {
        let now = Usage::now();
        if pid == self.root && self.outcome == Outcome::Running {
            self.outcome = outcome;
            self.real_ns = Some(self.elapsed_ns());
            self.own = Some(Usage {
                user_ns: now.user_ns.saturating_sub(self.others.user_ns),
                system_ns: now.system_ns.saturating_sub(self.others.system_ns),
            });
        }
        self.others = now;
    }

    /// The command's first process.
    pub(super) fn root(&self) -> u32 {
        self.root
    }

    /// How the command ended, if it has.
    pub(super) fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// True once the command has ended.
    pub(super) fn ended(&self) -> bool {
        self.outcome != Outcome::Running
    }

    /// True while the command's first process is stopped.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Elapsed time of the command, CPU time of it and everything it waited for; none before it ended.
    /// `root_gone_ns` is when its first process ended, if that was seen more exactly than by reaping it.
    pub(super) fn times(&self, root_gone_ns: Option<u64>) -> RunTimes {
        let own = self.own.unwrap_or_default();
        let seen_ns = root_gone_ns.map(|gone_ns| gone_ns.saturating_sub(self.began_ns));
        RunTimes {
            real_ns: seen_ns.or(self.real_ns).unwrap_or_else(|| self.elapsed_ns()),
            user_ns: own.user_ns,
            system_ns: own.system_ns,
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

/// Waits for any child or traced task, whatever its process group; `None` when there is none, or when
/// `enough` is set and a signal ended the wait.
pub(super) fn wait_any(enough: &AtomicBool) -> io::Result<Option<(u32, Status)>> {
    // Threads that are traced but not children of ours are waited for with __WALL only.
    let all = WaitOptions::from_bits_retain(libc::__WALL as u32);
    while !enough.load(Ordering::Acquire) {
        match wait(all) {
            Ok(Some((pid, status))) => {
                return Ok(Some((pid.as_raw_nonzero().get().unsigned_abs(), status.into())));
            }
            Ok(None) | Err(Errno::CHILD) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
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

/// Runs the command of `options` once without recording it, until its first process is gone. `None` when a
/// signal asked it to end: its times are then not the command's.
pub(super) fn run_alone(
    options: &Options,
    signals: &mut Signals,
) -> Result<Option<RunTimes>, RecordError> {
    let meter = Meter::start();
    let began_ns = now_ns();
    let root = launch::start(&options.command)?;
    let mut children = Children::new(root, began_ns, meter);
    while !children.ended() && !signals.end_insisted() {
        wait_a_round(root);
        signals.hand_on(root);
        if children.reap() == Left::None {
            break;
        }
        if children.stopped() {
            signals.stop_along();
        }
    }
    Ok((!signals.end_asked()).then(|| children.times(None)))
}

/// Waits until process `pid` has ended, but for one [`ROUND`] at most.
fn wait_a_round(pid: u32) {
    let handle = Pid::from_raw(pid as i32)
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    match handle {
        // An interrupted wait is a short one.
        Some(handle) => drop(poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&ROUND))),
        // Before Linux 5.3.
        None => thread::sleep(Duration::from_millis(1)),
    }
}

/// The CPU time used by children before the command was started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter(Usage);

impl Meter {
    /// Reads it.
    pub(super) fn start() -> Self {
        Self(Usage::now())
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
