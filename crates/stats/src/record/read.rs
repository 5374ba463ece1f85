//! Reading the sample file, line by line, without trusting it.
//!
//! A line that was torn by a kill is the last one and has no line end; it is dropped and reported
//! as a notice. Every other departure from the format is an error that names file and line.

use super::{BEFORE_INTEGRITY, Done, FORMAT, Mode, Record, Run, Sample, ValueError};
use crate::notice::Notice;
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

/// What was wrong with a sample file, and where.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct ReadError {
    /// The file as the caller named it.
    pub file: String,
    /// The line, counted from 1; 0 when the file could not be opened.
    pub line: u64,
    /// What is wrong there.
    pub problem: Problem,
}

/// The ways in which a sample file can be wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file could not be opened or read.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// There is nothing in it.
    #[error("the file holds no complete line; expected a `run` record first")]
    Empty,
    /// The first line is something else than the header.
    #[error("found a record before the header; expected a `run` record on the first line")]
    NoHeader,
    /// A header after the first line.
    #[error("a second `run` record; expected one header, then samples of that run only")]
    SecondHeader,
    /// A header of another version.
    #[error(
        "format version {found}; expected {BEFORE_INTEGRITY} or {FORMAT}: use the program that wrote the file"
    )]
    Format {
        /// The version found.
        found: u32,
    },
    /// Not a JSON object of the format.
    #[error(
        "malformed record: {0}; expected one JSON object of kind run, sample, counts, done or noise"
    )]
    Malformed(serde_json::Error),
    /// Not text.
    #[error("the line is not UTF-8; expected one JSON object")]
    NotText,
    /// A number that no measurement can have.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The same iteration of the same row, twice.
    #[error("{}, mode {}: a second sample of iteration {} in block {}; expected each once", .0.result_class, .0.mode, .0.iteration, .0.block)]
    Duplicate(Box<Sample>),
    /// A sample of a worker that had already finished.
    #[error("a sample of mode {} in block {} after its `done` record; expected none", .0.mode, .0.block)]
    AfterDone(Done),
}

/// Streams the records of a sample file, checking each.
pub struct Reader<R> {
    input: R,
    file: String,
    line: u64,
    buffer: Vec<u8>,
    torn: bool,
    /// Whether the file is of the version before there was integrity.
    is_old: bool,
    /// Bytes up to the end of the last good line.
    good_bytes: u64,
}

impl<R: BufRead> Reader<R> {
    /// Reads records from `input`; `file` is the name used in errors.
    pub fn new(input: R, file: &str) -> Self {
        let (buffer, file) = (Vec::new(), file.to_owned());
        Reader { input, file, line: 0, buffer, torn: false, is_old: false, good_bytes: 0 }
    }

    /// Whether the last line was torn and therefore dropped. Meaningful once the records ended.
    #[must_use]
    pub fn torn(&self) -> bool {
        self.torn
    }

    fn next_record(&mut self) -> Result<Option<Record>, Problem> {
        self.buffer.clear();
        self.line += 1;
        let bytes = self.input.read_until(b'\n', &mut self.buffer)?;
        if bytes == 0 {
            return if self.line == 1 { Err(Problem::Empty) } else { Ok(None) };
        }
        match parse(&self.buffer).and_then(|record| self.in_its_place(record)) {
            Ok(record) => {
                self.good_bytes += bytes as u64;
                Ok(Some(if self.is_old { record.renamed_as_lean() } else { record }))
            }
            // Every record ends with a brace, so a torn one never parses: what is malformed and
            // lacks its line end was torn.
            Err(Problem::Malformed(_) | Problem::NotText) if !self.buffer.ends_with(b"\n") => {
                self.torn = true;
                if self.line == 1 { Err(Problem::Empty) } else { Ok(None) }
            }
            Err(problem) => Err(problem),
        }
    }

    fn in_its_place(&mut self, record: Record) -> Result<Record, Problem> {
        match (&record, self.line) {
            (Record::Run(run), 1) => match run.format {
                FORMAT | BEFORE_INTEGRITY => {
                    self.is_old = run.format == BEFORE_INTEGRITY;
                    Ok(record)
                }
                found => Err(Problem::Format { found }),
            },
            (Record::Run(_), _) => Err(Problem::SecondHeader),
            (_, 1) => Err(Problem::NoHeader),
            _ => Ok(record),
        }
    }

    fn error(&self, problem: Problem) -> ReadError {
        ReadError { file: self.file.clone(), line: self.line, problem }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().map_err(|problem| self.error(problem)).transpose()
    }
}

fn parse(line: &[u8]) -> Result<Record, Problem> {
    let text = str::from_utf8(line).map_err(|_| Problem::NotText)?;
    let record: Record = serde_json::from_str(text).map_err(Problem::Malformed)?;
    record.check()?;
    Ok(record)
}

/// A whole sample file in memory, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    run: Run,
    records: Vec<Record>,
    done: BTreeSet<Done>,
    notices: Vec<Notice>,
    seen: BTreeSet<Iteration>,
    whole_bytes: u64,
}

/// What may be there once: row, mode, block and number.
type Iteration = (String, Mode, u32, u32);

impl Recording {
    /// Reads the sample file at `path`.
    ///
    /// # Errors
    ///
    /// A [`ReadError`] for the first thing that is not as the format says, except a torn last
    /// line, which is dropped and appears in [`Recording::notices`].
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Self::read_from(BufReader::new(file), &name),
            Err(error) => Err(ReadError { file: name, line: 0, problem: error.into() }),
        }
    }

    /// Reads a sample file from `input`; `name` is used in errors.
    ///
    /// # Errors
    ///
    /// As [`Recording::read`].
    pub fn read_from(input: impl BufRead, name: &str) -> Result<Self, ReadError> {
        let mut reader = Reader::new(input, name);
        let run = match reader.next().transpose()? {
            Some(Record::Run(run)) => *run,
            // The reader has refused both; kept as errors, since this is input.
            Some(_) => return Err(reader.error(Problem::NoHeader)),
            None => return Err(reader.error(Problem::Empty)),
        };
        let mut recording = Recording::of(run);
        recording.whole_bytes = reader.good_bytes;
        while let Some(record) = reader.next().transpose()? {
            let samples = matches!(record, Record::Sample(_));
            recording.push(record).map_err(|problem| reader.error(problem))?;
            if !samples && recording.blocks_are_whole() {
                recording.whole_bytes = reader.good_bytes;
            }
        }
        if reader.torn() {
            recording.notices.push(Notice::TornLine { line: reader.line });
        }
        Ok(recording)
    }

    /// A recording made in memory.
    ///
    /// # Errors
    ///
    /// The [`Problem`] that reading the same records from a file would have met.
    pub fn new(run: Run, records: impl IntoIterator<Item = Record>) -> Result<Self, Problem> {
        let mut recording = Recording::of(run);
        for record in records {
            record.check()?;
            recording.push(record)?;
        }
        Ok(recording)
    }

    fn of(run: Run) -> Self {
        let (records, notices) = (Vec::new(), Vec::new());
        let (done, seen) = (BTreeSet::new(), BTreeSet::new());
        Recording { run, records, done, notices, seen, whole_bytes: 0 }
    }

    fn push(&mut self, record: Record) -> Result<(), Problem> {
        match &record {
            Record::Run(_) => return Err(Problem::SecondHeader),
            Record::Sample(sample) => {
                let worker = Done { mode: sample.mode, block: sample.block };
                if self.done.contains(&worker) {
                    return Err(Problem::AfterDone(worker));
                }
                let Sample { mode, block, iteration, .. } = *sample;
                let name = (sample.result_class.clone(), mode, block, iteration);
                // Older files may hold what a worker measured before it was killed beside its second attempt.
                if !self.seen.insert(name) && self.run.origin.is_some() {
                    return Err(Problem::Duplicate(Box::new(sample.clone())));
                }
            }
            Record::Done(done) => {
                self.done.insert(*done);
            }
            Record::Counts(_) | Record::Noise(_) => {}
        }
        self.records.push(record);
        Ok(())
    }

    /// The header.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Everything after the header.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Workers that finished; a continued run need not repeat these.
    #[must_use]
    pub fn done(&self) -> &BTreeSet<Done> {
        &self.done
    }

    /// What was tolerated while reading.
    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Length of the part of the file that counts, where a continued run goes on writing: up to the end of the last block in
    /// which every mode of the run finished, or of counts behind it.
    pub(super) fn whole_bytes(&self) -> u64 {
        self.whole_bytes
    }

    /// Whether no block is there in part.
    fn blocks_are_whole(&self) -> bool {
        let modes = self.run.origin.as_ref().map_or(&[][..], |origin| &origin.modes);
        let whole = |block| modes.iter().all(|&mode| self.done.contains(&Done { mode, block }));
        self.done.iter().all(|done| whole(done.block))
    }
}
