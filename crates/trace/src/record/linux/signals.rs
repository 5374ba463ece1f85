//! Signals that reach the recorder are meant for the command.
//!
//! What another process sends is handed on. What the terminal sends goes to its whole foreground process
//! group, and so to the command too, unless that has moved to another group: then it is handed on as well.
//! The recorder itself goes on until the command has ended; only a second request to end, [`PATIENCE`]
//! after the first, ends the recording and leaves the command alone.
//!
//! When job control stops the command, the recorder stops with it, so that the shell takes the terminal
//! back; what lets the recorder continue is handed on to the command.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigAction, Signal, kill};
use nix::unistd::{Pid, getpgid, getpgrp};

use super::sys;

/// A request to end that comes sooner after the first is the same one: many senders signal a process and
/// then its group.
const PATIENCE: Duration = Duration::from_millis(500);

/// Ask for an end.
const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];
/// Ask for a stop, as job control does.
const STOPPING: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];
const OTHERS: [Signal; 3] = [Signal::SIGCONT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Signals that have arrived, a bit each: signal handlers have no other place to put them. There is one
/// recording at a time in a process.
static FROM_PROCESSES: AtomicU32 = AtomicU32::new(0);
static FROM_TERMINAL: AtomicU32 = AtomicU32::new(0);

/// Takes note of a signal; runs in a signal handler.
pub(super) fn arrived(signal: i32, from_process: bool) {
    let inbox = if from_process { &FROM_PROCESSES } else { &FROM_TERMINAL };
    inbox.fetch_or(1_u32.checked_shl(signal as u32).unwrap_or(0), Ordering::Relaxed);
}

/// The signals of one recording, caught as long as this lives.
#[derive(Debug)]
pub(super) struct Signals {
    before: Vec<(Signal, SigAction)>,
    first_end: Option<Instant>,
    second_end: bool,
    stop_asked: Option<Instant>,
}

impl Signals {
    /// Begins to catch them. Those that this process was told to ignore stay ignored, here and in the
    /// command.
    pub(super) fn catch() -> io::Result<Self> {
        FROM_PROCESSES.store(0, Ordering::Relaxed);
        FROM_TERMINAL.store(0, Ordering::Relaxed);
        let mut signals =
            Self { before: Vec::new(), first_end: None, second_end: false, stop_asked: None };
        for signal in ENDING.into_iter().chain(STOPPING).chain(OTHERS) {
            if let Some(before) = sys::catch(signal)? {
                signals.before.push((signal, before));
            }
        }
        Ok(signals)
    }

    /// Hands on to the command's first process what has arrived.
    pub(super) fn hand_on(&mut self, root: u32) {
        let root = Pid::from_raw(root as i32);
        let sent = FROM_PROCESSES.swap(0, Ordering::Relaxed);
        let typed = FROM_TERMINAL.swap(0, Ordering::Relaxed);
        // A process that is gone has no group; nothing reaches it either way.
        let apart = getpgid(Some(root)).is_ok_and(|group| group != getpgrp());
        let has = |set: u32, signal: Signal| set >> signal as i32 & 1 == 1;
        for signal in ENDING.into_iter().chain(STOPPING).chain(OTHERS) {
            if has(sent, signal) || apart && has(typed, signal) {
                // It may have ended meanwhile.
                let _ = kill(root, signal);
            }
        }
        let any = |signals: &[Signal]| signals.iter().any(|&signal| has(sent | typed, signal));
        if any(&STOPPING) {
            self.stop_asked = Some(Instant::now());
        }
        if any(&ENDING) {
            let first = *self.first_end.get_or_insert_with(Instant::now);
            self.second_end |= first.elapsed() >= PATIENCE;
        }
    }

    /// True once somebody asked for an end.
    pub(super) fn end_asked(&self) -> bool {
        self.first_end.is_some()
    }

    /// True when the recording shall end although the command has not.
    pub(super) fn end_insisted(&self) -> bool {
        self.second_end
    }

    /// The command is stopped. If job control asked for it, so is this process now, until it is continued.
    /// A command that was stopped by anything else may be continued by anything else: then nobody would
    /// continue the recorder.
    pub(super) fn stop_along(&mut self) {
        if self.stop_asked.take().is_some_and(|asked| asked.elapsed() < PATIENCE) {
            // Stopping oneself needs no permission.
            let _ = kill(Pid::this(), Signal::SIGSTOP);
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (signal, before) in self.before.drain(..) {
            sys::restore(signal, &before);
        }
    }
}
