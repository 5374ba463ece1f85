//! Where records are kept: a results folder, which a killed run can go on with, or a temporary one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kpkeys_stats::record::{Done, Mode, Record, Recording, Run, Writer};
use kpkeys_stats::table::Table;

use crate::render;
use crate::usage::UsageError;

/// The samples in a results folder, one record a line.
pub const SAMPLES_FILE: &str = "samples.jsonl";
/// The table in a results folder.
pub const TABLE_FILE: &str = "table.json";
const MARKDOWN_FILE: &str = "table.md";

/// An open results folder.
pub struct Results {
    folder: PathBuf,
    /// Deletes the folder in the end, if nobody asked to keep it.
    _temporary: Option<tempfile::TempDir>,
    writer: Writer<File>,
    /// What an earlier run left here.
    earlier: Option<Recording>,
}

impl Results {
    /// Opens the folder that was asked for, or a temporary one. A folder with samples of a run with the same header is gone on
    /// with.
    ///
    /// # Errors
    ///
    /// [`UsageError`] for a folder that holds anything else, which is left as it is.
    pub fn open(folder: Option<&Path>, header: &Run) -> Result<Results> {
        let (folder, temporary) = match folder {
            Some(folder) => (folder.to_owned(), None),
            None => {
                let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let samples = folder.join(SAMPLES_FILE);
        let (earlier, writer) = if samples.exists() {
            let (earlier, writer) = go_on(&samples, header)?;
            (Some(earlier), writer)
        } else {
            require_empty(&folder)?;
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
            (None, Writer::create(&samples, header)?)
        };
        Ok(Results { folder, _temporary: temporary, writer, earlier })
    }

    /// Whether all of these records are there already.
    pub fn has(&self, done: &[Done]) -> bool {
        self.earlier
            .as_ref()
            .is_some_and(|earlier| done.iter().all(|done| earlier.done().contains(done)))
    }

    /// Whether a mode's counts are there already.
    pub fn has_counts(&self, mode: Mode) -> bool {
        let counted =
            |record: &Record| matches!(record, Record::Counts(counts) if counts.mode == mode);
        self.earlier.as_ref().is_some_and(|earlier| earlier.records().iter().any(counted))
    }

    /// Appends records, and what they make whole.
    ///
    /// # Errors
    ///
    /// A record that no reader would take, or a full disk.
    pub fn add(&mut self, records: Vec<Record>, done: &[Done]) -> Result<()> {
        let done = done.iter().map(|&done| Record::Done(done));
        for record in records.into_iter().chain(done) {
            self.writer.write(&record).context("cannot write the samples")?;
        }
        Ok(())
    }

    /// Everything recorded, read back from the file: the table is a function of that alone.
    ///
    /// # Errors
    ///
    /// The file does not hold what was written.
    pub fn recording(&self) -> Result<Recording> {
        Ok(Recording::read(&self.folder.join(SAMPLES_FILE))?)
    }

    /// Writes the table beside the samples.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn keep_table(&self, table: &Table) -> Result<()> {
        for (name, format) in
            [(TABLE_FILE, render::Format::Json), (MARKDOWN_FILE, render::Format::Markdown)]
        {
            let path = self.folder.join(name);
            let mut file =
                File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
            render::write_results(&mut file, table, format, true)?;
        }
        Ok(())
    }
}

/// Opens the samples of an earlier run, if they are of one with this header.
fn go_on(samples: &Path, now: &Run) -> Result<(Recording, Writer<File>)> {
    let earlier = Recording::read(samples)?;
    if let Some(difference) = difference(earlier.run(), now) {
        return Err(UsageError(format!(
            "{} is of another run ({difference}); choose another --out",
            samples.display()
        ))
        .into());
    }
    Ok(Writer::resume(samples)?)
}

/// In what two runs differ that must not be mixed. How long a switch took is measured anew each time and may.
fn difference(earlier: &Run, now: &Run) -> Option<String> {
    let pairs = [
        ("machine", format!("{:?}", earlier.machine), format!("{:?}", now.machine)),
        ("build", earlier.build.clone(), now.build.clone()),
        ("place", earlier.on.clone(), now.on.clone()),
        ("backend", earlier.backend.clone(), now.backend.clone()),
        ("paging", earlier.paging.clone(), now.paging.clone()),
        ("seed", earlier.seed.to_string(), now.seed.to_string()),
        ("blocks", earlier.blocks.to_string(), now.blocks.to_string()),
        ("quick", earlier.quick.to_string(), now.quick.to_string()),
    ];
    let (name, was, is) = pairs.into_iter().find(|(_, was, is)| was != is)?;
    Some(format!("{name} was {was}, is {is}"))
}

/// A folder that is not ours is not written to.
fn require_empty(folder: &Path) -> Result<()> {
    let refuse = |what: &str| {
        UsageError(format!("{} {what}; choose a new or empty folder for --out", folder.display()))
    };
    match fs::read_dir(folder).map(|entries| entries.count()) {
        Ok(0) => Ok(()),
        Ok(_) => Err(refuse("exists and holds something else than samples").into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(refuse("is not a folder").into())
        }
        Err(error) => Err(refuse(&format!("cannot be read ({error})")).into()),
    }
}
