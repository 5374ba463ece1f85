//! Recording a command on Linux.
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

use crate::gap::{Gap, GapCause};
use crate::header::{Kinds, Method, Trailer};

mod assemble;
mod calls;
mod children;
mod clock;
mod error;
mod exec;
mod launch;
mod machine;
mod perf;
mod perf_session;
mod permission;
mod privilege;
mod ptrace_session;
mod queue;
mod raw;
mod signals;
mod sink;
mod sys;
mod taskstats;
mod tracee;
mod tracepoints;

use children::Children;
pub use error::RecordError;
use machine::Machine;
pub use permission::{Allowed, allowed, missing};
use signals::Signals;
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
    /// Go on after the command's first process has ended, until the last of its descendants has. Without
    /// it, those left behind go on unrecorded, and are counted and named in the trace.
    pub until_last: bool,
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
        Choice::Auto => match permission::perf(&machine) {
            Ok(_) => perf_session::record(options, &machine, out),
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
        signals: &mut Signals,
        mut notes: Vec<String>,
    ) -> Result<Self, RecordError> {
        let tally = sink.assembler.tally;
        let mut gaps = sink.assembler.gaps;
        for (pid, program) in &sink.assembler.left {
            if *pid != children.root() && tracee::is_alive(*pid) {
                Gap::note(&mut gaps, GapCause::Survived, assemble::named(program, *pid));
            }
        }
        let recorded = children.times(tally.root_gone_ns);
        let unrecorded = match options.compare {
            // Who asked the command to end does not want it again.
            true if !signals.end_asked() => children::run_alone(options, signals)?,
            _ => None,
        };
        if options.compare && unrecorded.is_none() {
            notes.push(
                "there are no times without recording: a signal asked for the end".to_owned(),
            );
        }
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
            gaps,
        };
        let (bytes, _) = sink.writer.finish(&trailer)?;
        Ok(Self { trailer, method, kinds, bytes, notes })
    }
}
