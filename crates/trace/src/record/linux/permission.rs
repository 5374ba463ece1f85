//! What a recorder may not do here, and which setting decides it.

use std::fs;
use std::io;

use super::machine::Machine;
use super::perf::{Observer, Scope};
use super::{Allowed, RecordError};
use crate::header::Kinds;

/// Tries what is allowed here.
///
/// # Errors
/// [`RecordError::Architecture`].
pub(in super::super) fn allowed() -> Result<Allowed, RecordError> {
    let machine = Machine::here()?;
    let faults = Observer::open(Scope::UserFaults, &machine.cpus);
    Ok(Allowed {
        perf: perf(&machine),
        faults_for_ptrace: faults
            .map(|observer| observer.kinds())
            .map_err(|error| faults_refused(&error)),
    })
}

/// What perf events record here.
pub(super) fn perf(machine: &Machine) -> Result<Kinds, RecordError> {
    let observer = Observer::open(Scope::Everything, &machine.cpus);
    observer.map(|observer| observer.kinds()).map_err(|error| perf_refused(&error))
}

/// perf events for everything were refused with `error`.
pub(super) fn perf_refused(error: &io::Error) -> RecordError {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => {
            "Mount tracefs (`mount -t tracefs none /sys/kernel/tracing`) on a kernel with tracepoints \
             (CONFIG_FTRACE_SYSCALLS)."
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => format!(
            "Run as root, or with CAP_PERFMON (or CAP_SYS_ADMIN) and read access to \
             /sys/kernel/tracing; kernel.perf_event_paranoid is {}, and tracepoints need -1 or that \
             capability.",
            paranoid()
        ),
        _ => "The kernel may have been built without CONFIG_PERF_EVENTS or CONFIG_FTRACE_SYSCALLS."
            .to_owned(),
    };
    RecordError::NoPerf { reason: error.to_string(), remedy }
}

/// Software fault events for an unprivileged recording were refused.
pub(super) fn faults_refused(error: &io::Error) -> String {
    format!(
        "page faults are not recorded: {error} (kernel.perf_event_paranoid is {}; 2 or less, or \
         CAP_PERFMON, allows them)",
        paranoid()
    )
}

/// Attaching by ptrace was refused.
pub(super) fn ptrace_refused(error: &io::Error) -> RecordError {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let remedy = match scope.trim() {
        "" => "Nothing on this system says why; a container may filter ptrace.".to_owned(),
        scope => {
            format!("kernel.yama.ptrace_scope is {scope}; 2 needs CAP_SYS_PTRACE, 3 forbids it.")
        }
    };
    RecordError::NoPtrace { reason: error.to_string(), remedy }
}

/// taskstats was refused.
pub(super) fn no_accounting(error: &io::Error) -> String {
    format!(
        "CPU time of each task is not recorded: {error} (taskstats needs CAP_NET_ADMIN and \
         CONFIG_TASKSTATS); the whole run's is"
    )
}

fn paranoid() -> String {
    let value = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    value.map_or_else(|_| "not readable".to_owned(), |value| value.trim().to_owned())
}
