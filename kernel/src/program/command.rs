//! Running what the command line asks for: the command after `--`, from the initramfs that came with the kernel.

use super::errno::Errno;
use super::files::node::Node;
use super::files::tree::{self, Place};
use super::files::{Object, OpenFile, terminal};
use super::load::{self, Request};
use super::process::{self, Identity, Process, Status};
use super::signals::Signal;
use super::task::Task;
use crate::arch::registers::Extended;
use crate::memory::boot::PhysRange;
use crate::{arch, sched};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;
use linux_raw_sys::general::{O_RDWR, SIGKILL};

/// Where a command without a slash is looked for.
const PATH: [&str; 4] = ["/bin", "/usr/bin", "/sbin", "/usr/sbin"];
/// How long the processes that are left have to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What is to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// A person is at the other end of the serial line.
    pub interactive: bool,
}

/// Runs a command until it ends, and nothing of it is left but its status.
///
/// # Errors
///
/// Why it could not be run.
pub fn run(command: &Command, archive: Option<PhysRange>) -> Result<Status, String> {
    let archive = archive.ok_or("no initramfs came with the kernel: there is nothing to run")?;
    let root = tree::from_archive(bytes_of(archive)).map_err(|error| error.to_string())?;
    let process = start(&root, command)?;
    let status = wait(&process);
    end_all();
    Ok(status)
}

/// What came with the kernel, where the linear map has it. Nobody writes to it any more.
pub fn bytes_of(archive: PhysRange) -> &'static [u8] {
    let start = arch::layout::linear(archive.start);
    // SAFETY: boot reserved the range, which the loader filled, and nothing uses it but this, for reading.
    unsafe { core::slice::from_raw_parts(start, archive.len() as usize) }
}

fn start(root: &Arc<Node>, command: &Command) -> Result<Arc<Process>, String> {
    let process = Process::first(root.clone()).map_err(no_memory)?;
    begin(&process, root, command).inspect_err(|_| {
        process.finish();
        // It is there, and has just ended.
        let _ = process::reap(process.number);
    })?;
    Ok(process)
}

fn no_memory(_: Errno) -> String {
    "not enough memory for the first process".to_string()
}

fn begin(process: &Arc<Process>, root: &Arc<Node>, command: &Command) -> Result<(), String> {
    let name = command.words.first().ok_or("no command follows `--`")?;
    let here = process.place.lock().clone();
    let path = path_of(root, &here, name);
    let request = Request {
        arguments: command.words.iter().map(|word| word.clone().into_bytes()).collect(),
        environment: [format!("PATH={}", PATH.join(":")), "HOME=/".into(), "TERM=vt100".into()]
            .map(String::into_bytes)
            .into(),
    };
    let loaded =
        load::load(root, &here, &path, request).map_err(|error| format!("{name}: {error}"))?;
    drop(process.replace_memory(Arc::new(loaded.memory)));
    *process.identity.lock() = Identity::new(&path, loaded.path, loaded.arguments);
    open_console(root, &here, process).map_err(no_memory)?;
    terminal::set_foreground(process.number);
    terminal::open(command.interactive);
    Task::new(process.number, process.clone(), 0)
        .start(loaded.registers, Box::new(Extended::new()))
        .map_err(|_| "no stack is left for the first process".to_string())
}

fn path_of(root: &Arc<Node>, here: &Place, name: &str) -> String {
    if name.contains('/') {
        return name.to_string();
    }
    let there =
        |path: &String| tree::find(root, here, path, true).is_ok_and(|found| found.node.is_some());
    PATH.iter().map(|folder| format!("{folder}/{name}")).find(there).unwrap_or(name.to_string())
}

fn open_console(root: &Arc<Node>, here: &Place, process: &Process) -> Result<(), Errno> {
    let path = "/dev/console";
    let console = tree::find(root, here, path, true)?.existing()?;
    let file = OpenFile::new(Object::Node(console), path.into(), O_RDWR);
    let shared = process.descriptors();
    let mut descriptors = shared.lock();
    for number in 0..3 {
        descriptors.put(number, file.clone(), false)?;
    }
    Ok(())
}

fn wait(process: &Process) -> Status {
    loop {
        let moment = sched::events::moment();
        if let Some(status) = process.ended() {
            return status;
        }
        // Nobody else asks for the orphans that it has got.
        process::all()
            .iter()
            .filter(|other| other.ended().is_some() && other.is_orphan.load(Ordering::Relaxed))
            .for_each(|orphan| {
                // The first process may have asked meanwhile.
                let _ = process::reap(orphan.number);
            });
        sched::events::wait(moment, None);
    }
}

/// Ends every process that is left, and forgets them all.
fn end_all() {
    let limit = arch::time::since_boot() + END_LIMIT;
    loop {
        let moment = sched::events::moment();
        let running: Vec<_> =
            process::all().into_iter().filter(|process| process.ended().is_none()).collect();
        if running.is_empty() {
            break;
        }
        if arch::time::since_boot() > limit {
            log::error!("{} processes do not end", running.len());
            break;
        }
        for process in &running {
            if let Some(kill) = Signal::new(SIGKILL.into()) {
                process.end(Status::killed(kill));
            }
        }
        drop(running);
        sched::events::wait(moment, Some(limit));
    }
    for process in process::all() {
        // Whoever is gone meanwhile need not be forgotten.
        let _ = process::reap(process.number);
    }
}
