//! Writing the sample file, one whole line at a time, and going on with one that was cut off.

use super::{ReadError, Record, Recording, Run, ValueError};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file could not be created or written.
    #[error("cannot write the sample file: {0}")]
    Io(#[from] io::Error),
    /// The record holds a number that a reader would refuse.
    #[error("refusing to record it: {0}")]
    Value(#[from] ValueError),
    /// The file to continue is not a sample file.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Appends records to a sample file.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl Writer<File> {
    /// Starts a new sample file with its header. An existing file is not overwritten.
    ///
    /// # Errors
    ///
    /// [`WriteError::Io`] when the file exists already or cannot be written.
    pub fn create(path: &Path, run: &Run) -> Result<Self, WriteError> {
        Writer::new(File::create_new(path)?, run)
    }

    /// Goes on with a sample file whose run was killed: reads it, cuts off a torn last line, and
    /// returns what it holds with a writer behind its end. [`Recording::done`] says which workers
    /// need not run again.
    ///
    /// # Errors
    ///
    /// [`WriteError::Read`] when it is not a good sample file; it is left as it was.
    pub fn resume(path: &Path) -> Result<(Recording, Self), WriteError> {
        let recording = Recording::read(path)?;
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let end = recording.good_bytes();
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end.saturating_sub(1)))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        // A kill between a record and its line end leaves a good record.
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
        Ok((recording, Writer { output: file }))
    }
}

impl<W: Write> Writer<W> {
    /// Writes the header of a new recording to `output`.
    ///
    /// # Errors
    ///
    /// As [`Writer::write`].
    pub fn new(output: W, run: &Run) -> Result<Self, WriteError> {
        let mut writer = Writer { output };
        writer.write(&Record::Run(run.clone()))?;
        Ok(writer)
    }

    /// Writes one record as one line, handed to the output in one piece and flushed.
    ///
    /// # Errors
    ///
    /// [`WriteError::Value`] when a reader would refuse the record, which is then not written;
    /// [`WriteError::Io`] when the output fails.
    pub fn write(&mut self, record: &Record) -> Result<(), WriteError> {
        record.check()?;
        let mut line = serde_json::to_vec(record).map_err(io::Error::from)?;
        line.push(b'\n');
        self.output.write_all(&line)?;
        Ok(self.output.flush()?)
    }
}
