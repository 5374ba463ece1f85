//! Where a campaign is kept. Everything that is known of it is in files here, so that any call can be made at any time, and again.
//!
//! ```text
//! campaign.json      what was planned: tasks, machines, limits, the program's hash
//! kpkeys             the program that carries it out, as it was when the campaign was begun
//! tasks/N/           the result of task N, whole
//! work/N/            task N while it is carried out
//! locks/N            held while it is, with the number of the process
//! logs/              what tasks printed: NAME.TASK.JOB.log
//! collected/         what `collect` made of it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::plan::{Limits, Machine, Plan};
use super::task::Task;
use crate::usage::UsageError;

/// The file that says a task is done.
pub const DONE_FILE: &str = "done.json";
const CAMPAIGN_FILE: &str = "campaign.json";

/// A campaign that was begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Campaign {
    /// Its name.
    pub name: String,
    /// Where tasks run.
    pub machines: Vec<Machine>,
    /// What they may take.
    pub limits: Limits,
    /// The tasks, by number.
    pub tasks: Vec<Task>,
}

/// The folder of a campaign.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

/// The lock of a task, or of those who hand tasks out. Given back when it is dropped, or its process ends.
pub struct Lock {
    _file: File,
}

impl Folder {
    /// The folder at a path, which need not be there.
    pub fn at(path: &Path) -> Folder {
        Folder { path: path.to_owned() }
    }

    /// Begins the campaign of a plan, or goes on with it.
    ///
    /// # Errors
    ///
    /// [`UsageError`] if another plan was begun here, or the folder holds something else; the file system.
    pub fn begin(plan: &Plan) -> Result<(Folder, Campaign)> {
        let folder = Folder::at(plan.folder());
        let campaign = Campaign::of(plan);
        if folder.path.join(CAMPAIGN_FILE).exists() {
            let begun = folder.campaign()?;
            if !begun.same_as(&campaign) {
                return Err(UsageError(format!(
                    "{} holds a campaign by another plan; it is left as it is: choose another folder, or put the plan back",
                    folder.path.display()
                ))
                .into());
            }
            // Limits may be changed on the way.
            return Ok((folder, campaign));
        }
        folder.require_empty()?;
        for name in ["tasks", "work", "locks", "logs"] {
            let path = folder.path.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let copy = folder.path.join("kpkeys.new");
        fs::copy(&program, &copy)
            .and_then(|_| fs::rename(&copy, folder.program()))
            .with_context(|| format!("cannot copy this program to {}", folder.path.display()))?;
        let text = serde_json::to_vec(&campaign)?;
        folder.write(CAMPAIGN_FILE, &text)?;
        Ok((folder, campaign))
    }

    /// The campaign that was begun here.
    ///
    /// # Errors
    ///
    /// [`UsageError`] if there is none.
    pub fn campaign(&self) -> Result<Campaign> {
        let path = self.path.join(CAMPAIGN_FILE);
        let text = fs::read(&path).map_err(|error| {
            UsageError(format!(
                "there is no campaign in {} ({error}); `kpkeys campaign submit PLAN` begins one",
                self.path.display()
            ))
        })?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is not of a campaign", path.display()))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The program that carries out tasks.
    pub fn program(&self) -> PathBuf {
        self.path.join("kpkeys")
    }

    /// Where the result of a task is, once it is there.
    pub fn result(&self, task: u32) -> PathBuf {
        self.path.join("tasks").join(task.to_string())
    }

    /// Where a task is carried out.
    pub fn work(&self, task: u32) -> PathBuf {
        self.path.join("work").join(task.to_string())
    }

    /// Where logs are.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Whether a task is done.
    pub fn is_done(&self, task: u32) -> bool {
        self.result(task).join(DONE_FILE).exists()
    }

    /// All tasks that are done.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn done(&self) -> Result<BTreeSet<u32>> {
        // A result comes to its place whole, so its folder's name is enough.
        Ok(numbers(&self.path.join("tasks"))?.collect())
    }

    /// Takes the lock of a task, unless somebody has it.
    ///
    /// # Errors
    ///
    /// The file system.
    pub fn lock_task(&self, task: u32) -> Result<Option<Lock>> {
        self.lock(&task.to_string())
    }

    /// Takes the lock of those who carry out tasks here, unless somebody has it.
    ///
    /// # Errors
    ///
    /// The file system.
    pub fn lock_local(&self) -> Result<Option<Lock>> {
        self.lock("local")
    }

    fn lock(&self, name: &str) -> Result<Option<Lock>> {
        let path = self.path.join("locks").join(name);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let mut file = file.with_context(|| format!("cannot open {}", path.display()))?;
        if !lock(&file).with_context(|| format!("cannot lock {}", path.display()))? {
            return Ok(None);
        }
        // For people. A lock is no worse without.
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Some(Lock { _file: file }))
    }

    /// Tasks whose lock somebody holds.
    ///
    /// # Errors
    ///
    /// The file system.
    pub fn held(&self) -> Result<BTreeSet<u32>> {
        let held = |task: &u32| {
            let file = File::open(self.path.join("locks").join(task.to_string()));
            file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
        };
        Ok(numbers(&self.path.join("work"))?.filter(held).collect())
    }

    /// The logs of each task, the latest last.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn logs_by_task(
        &self,
        task_of: impl Fn(&str) -> Option<u32>,
    ) -> Result<BTreeMap<u32, Vec<PathBuf>>> {
        let mut logs: BTreeMap<u32, Vec<(SystemTime, PathBuf)>> = BTreeMap::new();
        let folder = self.logs();
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries.filter_map(Result::ok) {
            if let Some(task) = entry.file_name().to_str().and_then(&task_of) {
                let changed = entry.metadata().and_then(|file| file.modified()).ok();
                let changed = changed.unwrap_or(SystemTime::UNIX_EPOCH);
                logs.entry(task).or_default().push((changed, entry.path()));
            }
        }
        let sorted = |mut logs: Vec<(_, PathBuf)>| {
            logs.sort();
            logs.into_iter().map(|(_, path)| path).collect()
        };
        Ok(logs.into_iter().map(|(task, logs)| (task, sorted(logs))).collect())
    }

    /// Writes a file here, whole or not at all.
    ///
    /// # Errors
    ///
    /// The file system.
    pub fn write(&self, name: &str, text: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let written = tempfile::NamedTempFile::new_in(&self.path).and_then(|mut file| {
            file.write_all(text)?;
            file.persist(&path)?;
            Ok(())
        });
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// A name for what is kept of it elsewhere, such as jobs of a scheduler: the same from every machine.
    pub fn digest(&self) -> String {
        let digest = Sha256::digest(self.path.as_os_str().as_encoded_bytes());
        digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    fn require_empty(&self) -> Result<(), UsageError> {
        let refuse = |why: &str| {
            Err(UsageError(format!(
                "{} {why}; choose a new or empty folder for the campaign",
                self.path.display()
            )))
        };
        match fs::read_dir(&self.path).map(|entries| entries.count()) {
            Ok(0) => Ok(()),
            Ok(_) if self.path.join("locks").is_dir() && self.path.join("tasks").is_dir() => Ok(()),
            Ok(_) => refuse("holds something else"),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => refuse(&format!("cannot be used ({error})")),
        }
    }
}

/// Takes a lock. Whoever looks whether it is held takes it for a moment, and is waited for.
fn lock(file: &File) -> io::Result<bool> {
    for _ in 0..20 {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(50)),
        }
    }
    Ok(false)
}

/// The numbers that name entries of a folder.
fn numbers(folder: &Path) -> Result<impl Iterator<Item = u32> + use<>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

impl Campaign {
    fn of(plan: &Plan) -> Campaign {
        Campaign {
            name: plan.name.clone(),
            machines: plan.machines.clone(),
            limits: plan.limits.clone(),
            tasks: plan.tasks(),
        }
    }

    fn same_as(&self, other: &Campaign) -> bool {
        (&self.machines, &self.tasks) == (&other.machines, &other.tasks)
    }
}
