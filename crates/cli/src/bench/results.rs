//! Where records are kept: a results folder, which a killed run can go on with, or a temporary one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kpkeys_stats::conditions::leaf_differences;
use kpkeys_stats::record::{Done, Mode, Record, Recording, Run, Writer};
use kpkeys_stats::table::Table;

use crate::render::{self, Screen};
use crate::usage::UsageError;

use super::plan::PlannedRow;

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

    /// Where everything is kept.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The session that an earlier call began here, if one did.
    pub fn session(&self) -> Option<&str> {
        self.earlier.as_ref()?.run().origin.as_ref()?.session.as_deref()
    }

    /// Whether an earlier call left anything of this block.
    pub fn has_any(&self, block: u32) -> bool {
        let done = self.earlier.iter().flat_map(Recording::done);
        done.into_iter().any(|done| done.block == block)
    }

    /// Whether all of these records are there already.
    pub fn has(&self, done: &[Done]) -> bool {
        self.earlier
            .as_ref()
            .is_some_and(|earlier| done.iter().all(|done| earlier.done().contains(done)))
    }

    /// Whether a mode's counts are there already, those of each of these rows.
    pub fn has_counts(&self, mode: Mode, rows: &[PlannedRow]) -> bool {
        let records = self.earlier.as_ref().map_or(&[][..], Recording::records);
        let counted = |row: &PlannedRow| {
            records.iter().any(|record| match record {
                Record::Counts(counts) => {
                    counts.mode == mode && counts.result_class == row.result_class()
                }
                _ => false,
            })
        };
        rows.iter().filter(|row| row.has_events()).all(counted)
    }

    /// What an earlier call left in the folder, in words, if it left any.
    pub fn reused(&self, modes: &[Mode]) -> Option<String> {
        let earlier = self.earlier.as_ref()?;
        let origin = earlier.run().origin.as_ref()?;
        let planned = earlier.run().blocks;
        let whole =
            |block| modes.iter().all(|&mode| earlier.done().contains(&Done { mode, block }));
        let there = (0..planned).filter(|&block| whole(block)).count();
        Some(format!(
            "{} holds {there} of the {planned} blocks of this run, begun {} ({}); they are not measured again",
            self.folder.display(),
            origin.started,
            origin.program()
        ))
    }

    /// Appends records, and what they make whole.
    ///
    /// # Errors
    ///
    /// A record that no reader would take, or a full disk.
    pub fn add(&mut self, records: Vec<Record>, done: &[Done]) -> Result<()> {
        let done = done.iter().map(|&done| Record::Done(done));
        let records: Vec<Record> = records.into_iter().chain(done).collect();
        let samples = self.folder.join(SAMPLES_FILE);
        self.writer
            .write_all(&records)
            .with_context(|| format!("cannot add to {}", samples.display()))
    }

    /// Everything recorded, read back from the file: the table is a function of that alone.
    ///
    /// # Errors
    ///
    /// The file does not hold what was written.
    pub fn recording(&self) -> Result<Recording> {
        Ok(Recording::read(&self.folder.join(SAMPLES_FILE))?)
    }

    /// See [`keep_table`].
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn keep_table(&self, table: &Table) -> Result<()> {
        keep_table(&self.folder, table)
    }
}

/// Writes the table beside the samples in a folder, each file whole or not at all.
///
/// # Errors
///
/// What the file system says.
pub fn keep_table(folder: &Path, table: &Table) -> Result<()> {
    for (name, format) in
        [(TABLE_FILE, render::Format::Json), (MARKDOWN_FILE, render::Format::Markdown)]
    {
        let path = folder.join(name);
        let mut text = Vec::new();
        render::write_results(&mut text, table, format, true, Screen::FULL)?;
        write_whole(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Opens the samples of an earlier run, if they are of one with this header.
fn go_on(samples: &Path, now: &Run) -> Result<(Recording, Writer<File>)> {
    let refuse =
        |why: &str| UsageError(format!("{why}; it is left as it is, choose another --out"));
    let earlier = Recording::read(samples).map_err(|error| refuse(&error.to_string()))?;
    if earlier.run().origin.is_none() {
        let why = "does not say which program recorded it and can only be read, by --compare";
        return Err(refuse(&format!("{} {why}", samples.display())).into());
    }
    let differences = differences(earlier.run(), now)?;
    if !differences.is_empty() {
        let all = differences.join("; ");
        return Err(refuse(&format!("{} is of another run ({all})", samples.display())).into());
    }
    Writer::resume(samples).with_context(|| format!("cannot go on with {}", samples.display()))
}

/// What may differ between two calls that measure the same: how long a switch took is measured anew each time, and a session goes on
/// under its own name.
const MAY_DIFFER: [&str; 3] = ["switch ns", "started", "session"];

/// In what two runs differ that must not be mixed.
fn differences(earlier: &Run, now: &Run) -> Result<Vec<String>> {
    let (was, is) = (serde_json::to_value(earlier)?, serde_json::to_value(now)?);
    let found = leaf_differences("", &was, &is).into_iter();
    let found = found.filter(|(name, ..)| !MAY_DIFFER.contains(&name.as_str()));
    Ok(found.map(|(name, was, is)| format!("{name} was {was}, is {is}")).collect())
}

/// Writes a file under another name and gives it its own when it is there.
///
/// # Errors
///
/// What the file system says; a file that was there stays as it was.
pub fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder_of(path))?;
    file.write_all(text)?;
    // As any new file, not for its owner alone.
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// A folder that is not ours is not written to.
fn require_empty(folder: &Path) -> Result<()> {
    let refuse = |what: &str| {
        UsageError(format!("{} {what}; choose a new or empty folder for --out", folder.display()))
    };
    match fs::read_dir(folder).map(|entries| entries.count()) {
        Ok(0) => Ok(()),
        Ok(_) => Err(refuse("exists and holds something else than samples").into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(refuse("is not a folder").into())
        }
        Err(error) => Err(refuse(&format!("cannot be read ({error})")).into()),
    }
}
