//! `/proc`, as far as programs read it. Its nodes are made when they are looked up, and their text when they are opened.

use super::node::{Content, Kind, Node};
use crate::memory::boot::PAGE_SIZE;
use crate::memory::paging::memories;
use crate::program::clock;
use crate::program::errno::{Errno, Outcome};
use crate::program::memory::Mapping;
use crate::program::process::{self, Process};
use crate::program::task;
use crate::sched::accounting;
use crate::{arch, cpu};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::Ordering;
use kpkeys_pgtable::Machine;

/// Something of `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proc {
    /// The directory itself.
    Root,
    /// The directory of a process.
    Process(u32),
    /// The directory of its descriptors.
    Descriptors(u32),
    /// A link.
    Link(String),
    /// A text about the machine.
    Machine(&'static str),
    /// A text about a process.
    Of(u32, &'static str),
    /// Which CPUs there are, for [`sys`](super::sys).
    Cpus,
}

const MACHINE: [&str; 7] =
    ["cpuinfo", "filesystems", "meminfo", "mounts", "stat", "uptime", "version"];
const OF_PROCESS: [&str; 7] = ["cmdline", "comm", "environ", "maps", "stat", "statm", "status"];

impl Proc {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Root | Self::Process(_) | Self::Descriptors(_) => Kind::Directory,
            Self::Link(_) => Kind::Link,
            Self::Machine(_) | Self::Of(..) | Self::Cpus => Kind::File,
        }
    }

    /// Where it leads to.
    pub fn target(&self) -> Option<String> {
        if let Self::Link(target) = self { Some(target.clone()) } else { None }
    }

    /// What has a name in it.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOTDIR`].
    pub fn child(&self, name: &str) -> Outcome<Option<Arc<Node>>> {
        let found = match self {
            Self::Root => match name {
                "self" | "thread-self" => {
                    task::current().map(|task| Self::Link(task.process.number.to_string()))
                }
                "mounts" => Some(Self::Link("/proc/self/mounts".to_string())),
                _ => MACHINE
                    .iter()
                    .find(|&&known| known == name)
                    .map(|&known| Self::Machine(known))
                    .or_else(|| {
                        name.parse()
                            .ok()
                            .filter(|&number| process::find(number).is_some())
                            .map(Self::Process)
                    }),
            },
            Self::Process(number) => match name {
                "exe" => process::find(*number)
                    .map(|process| Self::Link(process.identity.lock().executable.clone())),
                "cwd" => process::find(*number)
                    .map(|process| Self::Link(process.place.lock().shown().to_string())),
                "root" => Some(Self::Link("/".to_string())),
                "fd" => Some(Self::Descriptors(*number)),
                "mounts" => Some(Self::Machine("mounts")),
                _ => OF_PROCESS
                    .iter()
                    .find(|&&known| known == name)
                    .map(|&known| Self::Of(*number, known)),
            },
            Self::Descriptors(number) => process::find(*number).and_then(|process| {
                let file = process.descriptors().lock().get(name.parse().ok()?).ok()?;
                Some(Self::Link(file.path.clone()))
            }),
            _ => return Err(Errno::ENOTDIR),
        };
        Ok(found.map(|proc| {
            let permissions = if proc.kind() == Kind::File { 0o444 } else { 0o555 };
            Node::new(permissions, Content::Proc(proc))
        }))
    }

    /// The names in it.
    pub fn names(&self) -> Vec<(String, Kind)> {
        let named =
            |names: &[&str], kind| names.iter().map(|name| (name.to_string(), kind)).collect();
        match self {
            Self::Root => {
                let mut all: Vec<_> = named(&MACHINE, Kind::File);
                all.push(("self".to_string(), Kind::Link));
                all.extend(
                    process::all()
                        .iter()
                        .map(|process| (process.number.to_string(), Kind::Directory)),
                );
                all
            }
            Self::Process(_) => {
                let mut all: Vec<_> = named(&OF_PROCESS, Kind::File);
                all.extend([
                    ("exe".to_string(), Kind::Link),
                    ("cwd".to_string(), Kind::Link),
                    ("fd".to_string(), Kind::Directory),
                ]);
                all
            }
            Self::Descriptors(number) => process::find(*number).map_or(Vec::new(), |process| {
                process
                    .descriptors()
                    .lock()
                    .numbers()
                    .map(|number| (number.to_string(), Kind::Link))
                    .collect()
            }),
            _ => Vec::new(),
        }
    }

    /// Its text.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`] if the process is gone; [`Errno::EISDIR`].
    pub fn text(&self) -> Outcome<Vec<u8>> {
        match self {
            Self::Machine(what) => Ok(about_machine(what).into_bytes()),
            Self::Of(number, what) => {
                let process = process::find(*number).ok_or(Errno::ENOENT)?;
                Ok(about_process(&process, what))
            }
            Self::Cpus => Ok(cpu_list(cpu::online().count()).into_bytes()),
            _ => Err(Errno::EISDIR),
        }
    }
}

/// So many CPUs, as lists of them are written.
fn cpu_list(count: usize) -> String {
    if count > 1 { format!("0-{}\n", count - 1) } else { "0\n".to_string() }
}

/// Free and all pages of memory.
pub fn memory_pages() -> (u64, u64) {
    let memories = memories();
    (memories.frames().free_frames() as u64, memories.machine().memory().pages as u64)
}

fn about_machine(what: &str) -> String {
    let uptime = arch::time::since_boot();
    let cpus = cpu::online().count();
    match what {
        "cpuinfo" => (0..cpus).map(|cpu| format!("processor\t: {cpu}\n\n")).collect(),
        "filesystems" => "nodev\tproc\nnodev\ttmpfs\n".to_string(),
        "meminfo" => {
            let (free, all) = memory_pages();
            let kib = PAGE_SIZE / 1024;
            format!(
                "MemTotal:       {:8} kB\nMemFree:        {:8} kB\nMemAvailable:   {:8} kB\nBuffers:               0 kB\nCached:                0 kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\n",
                all * kib,
                free * kib,
                free * kib
            )
        }
        "mounts" => "rootfs / rootfs rw 0 0\nproc /proc proc rw 0 0\n".to_string(),
        "stat" => format!(
            "cpu  0 0 0 {} 0 0 0 0 0 0\nbtime {}\nprocesses {}\n",
            uptime.as_millis() / 10,
            clock::at_boot().as_secs(),
            process::all().len()
        ),
        "uptime" => format!("{}.{:02} 0.00\n", uptime.as_secs(), uptime.subsec_millis() / 10),
        _ => format!(
            "{} version {} (kpkeys reference kernel {})\n",
            super::super::calls::identity::SYSTEM,
            super::super::calls::identity::RELEASE,
            env!("CARGO_PKG_VERSION")
        ),
    }
}

fn about_process(process: &Process, what: &str) -> Vec<u8> {
    let identity = process.identity.lock().clone();
    let name = &identity.name;
    let parent = process.parent.load(Ordering::Relaxed);
    let group = process.group.load(Ordering::Relaxed);
    let session = process.session.load(Ordering::Relaxed);
    let state = if process.ended().is_some() { 'Z' } else { 'R' };
    let number = process.number;
    let resident = if process.ended().is_some() { 0 } else { process.memory().resident_pages() };
    let mappings = process.memory().mappings();
    let bytes: u64 = mappings.iter().map(|mapping| mapping.end - mapping.start).sum();
    accounting::settle();
    let (usage, of_children) = (process.usage(), process.past_children.usage());
    let ([user, system], [children_user, children_system]) = (usage.ticks(), of_children.ticks());
    let text = match what {
        "cmdline" => {
            return identity
                .arguments
                .iter()
                .flat_map(|argument| argument.iter().copied().chain([0]))
                .collect();
        }
        "comm" => format!("{name}\n"),
        "environ" => String::new(),
        "maps" => {
            let mut text = String::new();
            for Mapping { start, end, allows, is_shared } in &mappings {
                let flag = |on, letter| if on { letter } else { '-' };
                let (r, w, x) = (
                    flag(allows.any, 'r'),
                    flag(allows.any && allows.write, 'w'),
                    flag(allows.any && allows.execute, 'x'),
                );
                // Writing to a `String` cannot fail.
                let shared = if *is_shared { 's' } else { 'p' };
                let _ =
                    writeln!(text, "{start:012x}-{end:012x} {r}{w}{x}{shared} 00000000 00:00 0");
            }
            text
        }
        "stat" => format!(
            "{number} ({name}) {state} {parent} {group} {session} 1280 -1 0 {} {} 0 0 {user} {system} {children_user} {children_system} 20 0 {} 0 0 {bytes} {resident} 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0\n",
            usage.faults,
            of_children.faults,
            process.task_count()
        ),
        "statm" => format!("{} {resident} 0 0 0 0 0\n", bytes / PAGE_SIZE),
        _ => format!(
            "Name:\t{name}\nState:\t{state}\nTgid:\t{number}\nPid:\t{number}\nPPid:\t{parent}\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nVmSize:\t{:8} kB\nVmRSS:\t{:8} kB\nThreads:\t{}\n",
            bytes / 1024,
            resident as u64 * PAGE_SIZE / 1024,
            process.task_count()
        ),
    };
    text.into_bytes()
}
