//! Recording a command, on Linux: elsewhere [`record`] and [`allowed`] say that there is no recorder.
//!
//! There are two methods. **perf** sees everything through perf events: tracepoints of system calls,
//! faults and new tasks, and the records that perf keeps about mappings and exits, all on one clock. It
//! needs root, or CAP_PERFMON and a readable tracefs. **ptrace** stops the command at each call
//! and takes the faults from perf's software events as far as they are allowed; it needs no privilege,
//! costs more and sees less. [`record`] takes perf where it can and says what is missing otherwise.
//!
//! The command runs as it would without the recorder, to its end and not beyond: signals that the recorder
//! is sent reach it, processes that it leaves behind go on, and a program that recording would rob of its
//! privilege is not recorded.
//!
//! The recorder reaps *all* children of the calling process while it runs, as it must adopt those of
//! processes that end early.

use std::ffi::OsString;
use std::io::Write;

use crate::header::{Kinds, Method, Trailer};

#[cfg(not(target_os = "linux"))]
mod elsewhere;
mod error;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(not(target_os = "linux"))]
use elsewhere as recorder;
pub use error::RecordError;
#[cfg(target_os = "linux")]
use linux as recorder;

/// How to observe the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// perf if it is allowed, else ptrace.
    #[default]
    Auto,
    /// perf events or nothing.
    Perf,
    /// ptrace, even where perf would be allowed.
    Ptrace,
}

/// What to record and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// The method.
    pub choice: Choice,
    /// Go on after the command's first process has ended, until the last of its descendants has. Without
    /// it, those left behind go on unrecorded, and are counted and named in the trace.
    pub until_last: bool,
    /// Run the command a second time, without recording, for its times.
    pub compare: bool,
}

/// What was recorded.
#[derive(Debug, Clone)]
pub struct Report {
    /// The trace's trailer.
    pub trailer: Trailer,
    /// How it was recorded.
    pub method: Method,
    /// What could be seen.
    pub kinds: Kinds,
    /// Size of the trace in bytes.
    pub bytes: u64,
    /// What is missing and why, for the user.
    pub notes: Vec<String>,
}

/// What a recorder may do here, found by trying what a recording begins with.
#[derive(Debug)]
pub struct Allowed {
    /// What perf events record, or why they cannot.
    pub perf: Result<Kinds, RecordError>,
    /// Which faults ptrace can have beside what it sees itself, or why none.
    pub faults_for_ptrace: Result<Kinds, String>,
}

/// Tries what is allowed here.
///
/// # Errors
/// [`RecordError::System`], [`RecordError::Architecture`] or [`RecordError::NoRecorder`].
pub fn allowed() -> Result<Allowed, RecordError> {
    recorder::allowed()
}

/// What a recording of `kinds` lacks, for the user.
pub fn missing(kinds: Kinds) -> Vec<String> {
    let mut missing = Vec::new();
    if kinds.contains(Kinds::FAULTS) && !kinds.contains(Kinds::KERNEL_FAULTS) {
        missing.push(
            "faults that the kernel takes on user memory are not recorded (method perf does, with \
             CAP_PERFMON or kernel.perf_event_paranoid 1 or less)"
                .to_owned(),
        );
    }
    if kinds.contains(Kinds::FAULTS) && !kinds.contains(Kinds::FAULT_WRITES) {
        missing.push(
            "whether a fault was a write is not recorded (method perf does, by the \
             exceptions:page_fault tracepoints)"
                .to_owned(),
        );
    }
    missing
}

/// Runs the command of `options` and writes its trace to `out`.
///
/// # Errors
/// [`RecordError`]: the command could not be started, the permission is missing, or the trace could not
/// be written.
pub fn record<W: Write + Send>(options: &Options, out: W) -> Result<Report, RecordError> {
    if options.command.is_empty() {
        return Err(RecordError::NoCommand);
    }
    recorder::record(options, out)
}
