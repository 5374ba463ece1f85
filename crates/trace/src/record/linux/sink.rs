//! The way from observations to the file: order them by time, assemble, write.

use std::io::Write;

use super::assemble::Assembler;
use super::raw::Raw;
use crate::error::TraceError;
use crate::writer::TraceWriter;

/// Collects observations and writes the events they make.
#[derive(Debug)]
pub(super) struct Sink<W: Write> {
    /// Arrived and not yet in order.
    pending: Vec<Raw>,
    pub assembler: Assembler,
    pub writer: TraceWriter<W>,
    fed_ns: u64,
    written_ns: u64,
    /// Observations that arrived after later ones had been used.
    pub late: u64,
    /// Events that the format refused.
    pub unwritable: u64,
}

impl<W: Write> Sink<W> {
    pub(super) fn new(assembler: Assembler, writer: TraceWriter<W>) -> Self {
        Self {
            pending: Vec::new(),
            assembler,
            writer,
            fed_ns: 0,
            written_ns: 0,
            late: 0,
            unwritable: 0,
        }
    }

    /// Where new observations are put.
    pub(super) fn pending(&mut self) -> &mut Vec<Raw> {
        &mut self.pending
    }

    /// Uses every observation up to `horizon_ns`: none before it may arrive any more.
    pub(super) fn advance(&mut self, horizon_ns: u64) -> Result<(), TraceError> {
        // Each processor's records are in order already: a stable sort merges the runs.
        self.pending.sort_by_key(|raw| raw.time_ns);
        let ready = self.pending.partition_point(|raw| raw.time_ns <= horizon_ns);
        let later = self.pending.split_off(ready);
        for mut raw in std::mem::replace(&mut self.pending, later) {
            if raw.time_ns < self.fed_ns {
                self.late += 1;
                raw.time_ns = self.fed_ns;
            }
            self.fed_ns = raw.time_ns;
            self.assembler.feed(raw);
        }
        self.write()
    }

    /// Uses everything and ends what is under way.
    pub(super) fn finish(&mut self, now_ns: u64) -> Result<(), TraceError> {
        self.advance(u64::MAX)?;
        self.assembler.finish(now_ns.max(self.fed_ns));
        self.write()
    }

    fn write(&mut self) -> Result<(), TraceError> {
        while let Some(mut entry) = self.assembler.pop() {
            entry.time_ns = entry.time_ns.max(self.written_ns);
            self.written_ns = entry.time_ns;
            match self.writer.push(&entry) {
                Ok(()) => {}
                Err(TraceError::Unwritable { .. }) => self.unwritable += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
