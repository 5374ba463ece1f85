//! Processes: their memory, files, signals, parents and children.
//!
//! A process is found by its number in one table, where it stays after its end until its parent has asked how it ended. Its threads
//! ([`Task`]) are found through it.

use super::alarms::Alarm;
use super::errno::{Errno, Outcome};
use super::files::node::Node;
use super::files::tree::Place;
use super::files::{Descriptors, locks};
use super::memory::Memory;
use super::signals::{Action, Info, Signal};
use super::task::Task;
use super::usage::{Sum, Usage};
use crate::lock::IrqLock;
use crate::sched::events;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use linux_raw_sys::general::SIGCHLD;
use spin::Mutex;

/// Most processes and threads, so that each finds a kernel stack.
pub const MAX_TASKS: usize = 72;

/// What root may have, as Linux counts: it has it all, and passes none on.
pub const ALL_CAPABILITIES: [u64; 3] = [(1 << 41) - 1, (1 << 41) - 1, 0];

static PROCESSES: IrqLock<BTreeMap<u32, Arc<Process>>> = IrqLock::new(BTreeMap::new());
static NEXT_NUMBER: AtomicU32 = AtomicU32::new(1);

/// How a process ended, as `wait4` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// By its own wish.
    pub const fn exited(value: u64) -> Self {
        Self((value as u32 & 0xff) << 8)
    }

    /// By a signal.
    pub fn killed(signal: Signal) -> Self {
        Self(signal.number() as u32)
    }

    /// As a shell shows it: the value, or 128 and the signal.
    pub fn shown(self) -> u32 {
        if self.0 & 0x7f == 0 { self.0 >> 8 } else { 128 + (self.0 & 0x7f) }
    }
}

/// What a process is called.
#[derive(Clone, Default)]
pub struct Identity {
    /// The file it runs.
    pub executable: String,
    /// What it was asked to run by: a script's name, not its interpreter's.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<Vec<u8>>,
}

impl Identity {
    /// Of who was asked to run the file with a path, and runs `executable`.
    pub fn new(asked: &str, executable: String, arguments: Vec<Vec<u8>>) -> Self {
        /// As Linux (`TASK_COMM_LEN`).
        const LONGEST: usize = 15;
        let name = asked.rsplit('/').next().unwrap_or_default().chars().take(LONGEST).collect();
        Self { executable, name, arguments }
    }
}

/// What a child has of its parent's that may be had in two ways.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// The very descriptors; copies if not.
    pub shares_descriptors: bool,
    /// The handlers of signals; defaults if not.
    pub handlers: bool,
}

/// A process.
pub struct Process {
    /// Its number.
    pub number: u32,
    /// Its parent's number.
    pub parent: AtomicU32,
    /// Its process group.
    pub group: AtomicU32,
    /// Its session.
    pub session: AtomicU32,
    memory: Mutex<Arc<Memory>>,
    /// Its descriptors, which other processes may have too.
    descriptors: Mutex<Arc<Mutex<Descriptors>>>,
    /// Where relative paths begin.
    pub place: Mutex<Place>,
    /// Permissions that new files do not get.
    pub mask: AtomicU32,
    /// What it runs.
    pub identity: Mutex<Identity>,
    /// Its capabilities: effective, permitted, inherited.
    pub capabilities: Mutex<[u64; 3]>,
    /// What it does about signals, by number.
    pub actions: IrqLock<[Action; Signal::COUNT + 1]>,
    /// Signals for any of its threads.
    pub pending: AtomicU64,
    /// What is known of the last signal of each kind.
    pub infos: IrqLock<BTreeMap<u64, Info>>,
    /// When it gets SIGALRM.
    pub alarm: IrqLock<Alarm>,
    tasks: IrqLock<Vec<Arc<Task>>>,
    /// What its threads used that have ended.
    pub past_threads: Sum,
    /// What its children used, and theirs, as far as it has asked how they ended.
    pub past_children: Sum,
    /// How it is ending, once that is decided.
    ending: IrqLock<Option<Status>>,
    ended: AtomicBool,
    /// It has let go of memory that its parent lent it.
    pub memory_released: AtomicBool,
    /// Its parent is gone, and nobody expects to be told of its end.
    pub is_orphan: AtomicBool,
    root: Mutex<Arc<Node>>,
}

impl Process {
    /// The first process.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`].
    pub fn first(root: Arc<Node>) -> Outcome<Arc<Self>> {
        Ok(Self::new(Memory::nothing()?, root).known())
    }

    /// A child with this memory, and the rest as it is inherited.
    pub fn child(&self, memory: Arc<Memory>, inherited: Inherited) -> Arc<Self> {
        let descriptors = match inherited.shares_descriptors {
            true => self.descriptors(),
            false => Arc::new(Mutex::new(self.descriptors().lock().clone())),
        };
        let mut actions = *self.actions.lock();
        if !inherited.handlers {
            actions.iter_mut().for_each(Action::forget_handler);
        }
        let child = Self {
            parent: AtomicU32::new(self.number),
            group: AtomicU32::new(self.group.load(Ordering::Relaxed)),
            session: AtomicU32::new(self.session.load(Ordering::Relaxed)),
            descriptors: Mutex::new(descriptors),
            place: Mutex::new(self.place.lock().clone()),
            mask: AtomicU32::new(self.mask.load(Ordering::Relaxed)),
            identity: Mutex::new(self.identity.lock().clone()),
            capabilities: Mutex::new(*self.capabilities.lock()),
            actions: IrqLock::new(actions),
            ..Self::new(memory, self.root())
        };
        child.known()
    }

    /// A process that has inherited nothing.
    fn new(memory: Arc<Memory>, root: Arc<Node>) -> Self {
        let number = next_number();
        Self {
            number,
            parent: AtomicU32::new(0),
            group: AtomicU32::new(number),
            session: AtomicU32::new(number),
            memory: Mutex::new(memory),
            descriptors: Mutex::default(),
            place: Mutex::new(Place { node: root.clone(), path: String::new() }),
            mask: AtomicU32::new(0o22),
            identity: Mutex::default(),
            capabilities: Mutex::new(ALL_CAPABILITIES),
            actions: IrqLock::new([Action::DEFAULT; Signal::COUNT + 1]),
            pending: AtomicU64::new(0),
            infos: IrqLock::new(BTreeMap::new()),
            alarm: IrqLock::new(Alarm::default()),
            tasks: IrqLock::new(Vec::new()),
            past_threads: Sum::default(),
            past_children: Sum::default(),
            ending: IrqLock::new(None),
            ended: AtomicBool::new(false),
            memory_released: AtomicBool::new(false),
            is_orphan: AtomicBool::new(false),
            root: Mutex::new(root),
        }
    }

    /// Puts it into the table.
    fn known(self) -> Arc<Self> {
        let process = Arc::new(self);
        PROCESSES.lock().insert(process.number, process.clone());
        process
    }

    /// Its memory.
    pub fn memory(&self) -> Arc<Memory> {
        self.memory.lock().clone()
    }

    /// Gives it other memory; returns what it had. No thread may be on the old one's tables any more when that is dropped.
    pub fn replace_memory(&self, memory: Arc<Memory>) -> Arc<Memory> {
        core::mem::replace(&mut *self.memory.lock(), memory)
    }

    /// Its descriptors.
    pub fn descriptors(&self) -> Arc<Mutex<Descriptors>> {
        self.descriptors.lock().clone()
    }

    /// Its descriptors, which no other process has from now on.
    pub fn own_descriptors(&self) -> Arc<Mutex<Descriptors>> {
        let mut descriptors = self.descriptors.lock();
        if Arc::strong_count(&descriptors) > 1 {
            let copy = descriptors.lock().clone();
            *descriptors = Arc::new(Mutex::new(copy));
        }
        descriptors.clone()
    }

    /// The root of the tree that it sees.
    pub fn root(&self) -> Arc<Node> {
        self.root.lock().clone()
    }

    /// It sees no more than what is below a directory; its own place stays where it is.
    pub fn set_root(&self, root: Arc<Node>) {
        *self.root.lock() = root;
    }

    /// Adds a thread.
    pub fn add_task(&self, task: Arc<Task>) {
        self.tasks.lock().push(task);
    }

    /// How many threads it has.
    pub fn task_count(&self) -> usize {
        self.tasks.lock().len()
    }

    /// Runs `f` for each thread, interrupts off.
    pub fn each_task(&self, f: impl FnMut(&Arc<Task>)) {
        self.tasks.lock().iter().for_each(f);
    }

    /// Takes a thread out; whether it was the last.
    pub fn remove_task(&self, number: u32) -> bool {
        let (removed, last) = {
            let mut tasks = self.tasks.lock();
            let place = tasks.iter().position(|task| task.number() == number);
            let removed = place.map(|place| tasks.swap_remove(place));
            if let Some(task) = &removed {
                self.past_threads.add(task.taken.take());
            }
            (removed, tasks.is_empty())
        };
        drop(removed);
        last
    }

    /// What its threads have used, those that have ended included.
    pub fn usage(&self) -> Usage {
        let tasks = self.tasks.lock();
        tasks.iter().fold(self.past_threads.usage(), |sum, task| sum.and(task.taken.usage()))
    }

    /// Decides how it ends, if that is not decided; every thread notices.
    pub fn end(&self, status: Status) {
        self.ending.lock().get_or_insert(status);
        events::announce();
    }

    /// Whether it is to end.
    pub fn is_ending(&self) -> bool {
        self.ending.lock().is_some()
    }

    /// How it has ended.
    pub fn ended(&self) -> Option<Status> {
        if self.ended.load(Ordering::Acquire) { *self.ending.lock() } else { None }
    }

    /// Its last thread is gone: its children get another parent, and its own is told. What waits for locks when it is given back goes here: the
    /// rest may go with the thread, on the stack of another that had to stop anywhere.
    pub fn finish(&self) {
        *self.descriptors.lock() = Arc::default();
        *self.place.lock() = Place { node: self.root(), path: String::new() };
        locks::release_all(self.number);
        *self.alarm.lock() = Alarm::default();
        self.ending.lock().get_or_insert(Status::exited(0));
        for orphan in all() {
            if orphan.parent.load(Ordering::Relaxed) == self.number {
                orphan.parent.store(1, Ordering::Relaxed);
                orphan.is_orphan.store(true, Ordering::Relaxed);
            }
        }
        self.ended.store(true, Ordering::Release);
        self.memory_released.store(true, Ordering::Release);
        if let (Some(parent), Some(signal)) =
            (find(self.parent.load(Ordering::Relaxed)), Signal::new(SIGCHLD.into()))
        {
            let status = self.ended().unwrap_or(Status::exited(0));
            parent.signal_with(signal, Info::child(self.number, status));
        }
        events::announce();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.signal_with(signal, Info::of(signal));
    }

    /// Sends a signal with what is known of it. May be called with interrupts off.
    pub fn signal_with(&self, signal: Signal, info: Info) {
        if self.actions.lock()[signal.number() as usize].ignores(signal) {
            return;
        }
        self.infos.lock().insert(signal.number(), info);
        self.pending.fetch_or(signal.bit(), Ordering::AcqRel);
        events::announce();
    }
}

fn next_number() -> u32 {
    NEXT_NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// A number for a thread that is not its process's first.
pub fn next_task_number() -> u32 {
    next_number()
}

/// A process by its number.
pub fn find(number: u32) -> Option<Arc<Process>> {
    PROCESSES.lock().get(&number).cloned()
}

/// Runs `f` for each process, interrupts off.
pub fn each(f: impl FnMut(&Arc<Process>)) {
    PROCESSES.lock().values().for_each(f);
}

/// Every process.
pub fn all() -> Vec<Arc<Process>> {
    PROCESSES.lock().values().cloned().collect()
}

/// Whether there may be another process or thread.
pub fn has_room() -> bool {
    let processes = PROCESSES.lock();
    processes.values().map(|process| process.task_count().max(1)).sum::<usize>() < MAX_TASKS
}

/// Sends a signal to a group; how many got it. May be called with interrupts off.
pub fn signal_group(group: u32, signal: Signal) -> usize {
    let processes = PROCESSES.lock();
    let of_group =
        processes.values().filter(|process| process.group.load(Ordering::Relaxed) == group);
    of_group.map(|process| process.signal(signal)).count()
}

/// What there is to know of a process that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its number.
    pub number: u32,
    /// How it ended.
    pub status: Status,
    /// What it used, and its children that it has asked for.
    pub usage: Usage,
}

impl Process {
    /// What there is to know of it once it has ended.
    pub fn end_of(&self) -> Option<End> {
        let usage = self.usage().and(self.past_children.usage());
        Some(End { number: self.number, status: self.ended()?, usage })
    }

    /// Forgets a child that has ended, and says what it was.
    ///
    /// # Errors
    ///
    /// [`Errno::ECHILD`] if somebody else was faster.
    pub fn reap(&self, number: u32) -> Outcome<End> {
        reap(number).inspect(|end| self.past_children.add(end.usage))
    }
}

/// Forgets a process that has ended, and says what it was.
///
/// # Errors
///
/// [`Errno::ECHILD`] if somebody else was faster.
pub fn reap(number: u32) -> Outcome<End> {
    let process = PROCESSES.lock().remove(&number).ok_or(Errno::ECHILD)?;
    process.end_of().ok_or(Errno::ECHILD)
}
