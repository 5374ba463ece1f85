//! Recording a command on Linux.
//!
//! There are two methods. **perf** sees everything through perf events: tracepoints of system calls,
//! faults and new tasks, and the records that perf keeps about mappings and exits, all on one clock. It
//! needs root, or CAP_PERFMON and a readable tracefs. **ptrace** stops the command at each memory call
//! and takes the faults from perf's software events as far as they are allowed; it needs no privilege,
//! costs more and sees less. [`record`] takes perf where it can and says what is missing otherwise.
//!
//! The recorder reaps *all* children of the calling process while it runs, as it must adopt those of
//! processes that end early.

use std::ffi::OsString;
use std::io::Write;

use crate::header::{Kinds, Method, Trailer};

mod assemble;
mod calls;
mod children;
mod error;
mod exec;
mod launch;
mod machine;
mod perf;
mod perf_session;
mod permission;
mod ptrace_session;
mod queue;
mod raw;
mod seccomp;
mod sink;
mod sys;
mod taskstats;
mod tracee;
mod tracepoints;

use children::Children;
pub use error::RecordError;
use machine::Machine;
use sink::Sink;

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
    /// Stop when the command's first process has ended, even if others are left. Without it, recording
    /// goes on until the whole tree is gone.
    pub until_parent: bool,
    /// Run the command a second time, without recording, for its times.
    pub compare: bool,
}

impl Options {
    fn command_bytes(&self) -> Vec<Vec<u8>> {
        self.command.iter().map(|part| part.as_encoded_bytes().to_vec()).collect()
    }
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

/// Runs the command of `options` and writes its trace to `out`.
///
/// # Errors
/// [`RecordError`]: the command could not be started, the permission is missing, or the trace could not
/// be written.
pub fn record<W: Write + Send>(options: &Options, out: W) -> Result<Report, RecordError> {
    if options.command.is_empty() {
        return Err(RecordError::NoCommand);
    }
    let machine = Machine::here()?;
    match options.choice {
        Choice::Perf => perf_session::record(options, &machine, out),
        Choice::Ptrace => ptrace_session::record(options, &machine, Vec::new(), out),
        // perf refuses before anything is written or started.
        Choice::Auto => match perf_session::allowed(&machine) {
            Ok(()) => perf_session::record(options, &machine, out),
            Err(refusal) => {
                let notes = vec![format!("recording by ptrace, the weaker method: {refusal}")];
                ptrace_session::record(options, &machine, notes, out)
            }
        },
    }
}

impl Report {
    /// Ends the trace.
    fn conclude<W: Write>(
        options: &Options,
        sink: Sink<W>,
        kinds: Kinds,
        method: Method,
        children: &Children,
        mut notes: Vec<String>,
    ) -> Result<Self, RecordError> {
        let tally = sink.assembler.tally;
        let recorded = children.times(tally.root_gone_ns);
        let unrecorded = options.compare.then(|| children::run_alone(options)).transpose()?;
        if sink.unwritable > 0 {
            notes
                .push(format!("{} events were left out: no valid trace has them", sink.unwritable));
        }
        let trailer = Trailer {
            events: sink.writer.events(),
            lost: tally.lost,
            late: sink.late,
            failed_calls: tally.failed_calls,
            foreign_calls: tally.foreign_calls,
            teardown_ns: tally.teardown_ns,
            outcome: children.outcome(),
            recorded,
            unrecorded,
        };
        let (bytes, _) = sink.writer.finish(&trailer)?;
        Ok(Self { trailer, method, kinds, bytes, notes })
    }
}
