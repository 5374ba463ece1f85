//! Writing the sample file, one whole line at a time, and going on with one that was cut off.

use super::{ReadError, Record, Recording, Run, ValueError};
use std::{
    fs::{File, OpenOptions, TryLockError},
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
    /// Another process has it open for writing.
    #[error("another run is writing to this sample file; let it end, or choose another folder")]
    Busy,
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
    /// Starts a new sample file with its header. An existing file is not overwritten. The file is locked as long as the writer lives.
    ///
    /// # Errors
    ///
    /// [`WriteError::Io`] when the file exists already or cannot be written.
    pub fn create(path: &Path, run: &Run) -> Result<Self, WriteError> {
        let file = File::create_new(path)?;
        lock(&file)?;
        Writer::new(file, run)
    }

    /// Goes on with a sample file whose run was killed: cuts off what belongs to no whole block, a
    /// torn last line included, and returns what is left with a writer behind its end.
    /// [`Recording::done`] says which workers need not run again.
    ///
    /// # Errors
    ///
    /// [`WriteError::Busy`] when another run writes to it, [`WriteError::Read`] when it is not a good sample file; it is left as it
    /// was.
    pub fn resume(path: &Path) -> Result<(Recording, Self), WriteError> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        lock(&file)?;
        let mut recording = Recording::read(path)?;
        let end = recording.whole_bytes();
        if end < file.metadata()?.len() {
            file.set_len(end)?;
            recording = Recording::read(path)?;
        }
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

fn lock(file: &File) -> Result<(), WriteError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => WriteError::Busy,
        TryLockError::Error(error) => error.into(),
    })
}

impl<W: Write> Writer<W> {
    /// Writes the header of a new recording to `output`.
    ///
    /// # Errors
    ///
    /// As [`Writer::write`].
    pub fn new(output: W, run: &Run) -> Result<Self, WriteError> {
        let mut writer = Writer { output };
        writer.write(&Record::Run(Box::new(run.clone())))?;
        Ok(writer)
    }

    /// Writes one record as one line, handed to the output in one piece and flushed.
    ///
    /// # Errors
    ///
    /// [`WriteError::Value`] when a reader would refuse the record, which is then not written;
    /// [`WriteError::Io`] when the output fails.
    pub fn write(&mut self, record: &Record) -> Result<(), WriteError> {
        self.write_all(std::slice::from_ref(record))
    }

    /// Writes records that belong together, such as those of a block, handed to the output in one piece.
    ///
    /// # Errors
    ///
    /// As [`Writer::write`]; if a reader would refuse one of them, none is written.
    pub fn write_all(&mut self, records: &[Record]) -> Result<(), WriteError> {
        let mut lines = Vec::new();
        for record in records {
            record.check()?;
            serde_json::to_writer(&mut lines, record).map_err(io::Error::from)?;
            lines.push(b'\n');
        }
        self.output.write_all(&lines)?;
        Ok(self.output.flush()?)
    }
}
