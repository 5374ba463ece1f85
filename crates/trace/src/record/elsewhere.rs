//! Where there is no recorder.

use std::env::consts::OS;
use std::io::Write;

use super::{Allowed, Options, RecordError, Report};

/// Nothing is.
pub(super) fn allowed() -> Result<Allowed, RecordError> {
    Err(RecordError::NoRecorder(OS))
}

/// Starts and writes nothing.
pub(super) fn record<W: Write + Send>(_: &Options, _: W) -> Result<Report, RecordError> {
    Err(RecordError::NoRecorder(OS))
}
