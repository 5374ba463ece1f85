//! The recorder, by what Linux has for it.

use std::io::Write;

use super::{Allowed, Choice, Options, RecordError, Report, error, missing};
use crate::gap::{Gap, GapCause};
use crate::header::{Kinds, Method, Trailer};

mod assemble;
mod calls;
mod children;
mod clock;
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
use machine::Machine;
pub(super) use permission::allowed;
use signals::Signals;
use sink::Sink;

/// Runs the command of `options` and writes its trace to `out`.
pub(super) fn record<W: Write + Send>(options: &Options, out: W) -> Result<Report, RecordError> {
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

impl Options {
    fn command_bytes(&self) -> Vec<Vec<u8>> {
        self.command.iter().map(|part| part.as_encoded_bytes().to_vec()).collect()
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
