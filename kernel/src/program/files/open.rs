//! Open files, and the descriptors of a process.

use super::node::{Content, Device, Node};
use super::{pipe, terminal};
use crate::program::errno::{Errno, Outcome};
use crate::program::random;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use linux_raw_sys::general::{O_ACCMODE, O_APPEND, O_NONBLOCK, O_RDONLY, O_WRONLY};
use spin::Mutex;

/// Most descriptors of a process.
pub const MAX_DESCRIPTORS: usize = 256;

/// What is open.
pub enum Object {
    /// A node of the tree.
    Node(Arc<Node>),
    /// An end of a pipe.
    Pipe(pipe::End),
    /// Text that was made when it was opened.
    Text(Vec<u8>),
}

/// An open file, which descriptors share.
pub struct OpenFile {
    /// What it is.
    pub object: Object,
    /// Its path, where it has one.
    pub path: String,
    offset: Mutex<u64>,
    flags: AtomicU32,
}

impl OpenFile {
    /// Opens something.
    pub fn new(object: Object, path: String, flags: u32) -> Arc<Self> {
        Arc::new(Self { object, path, offset: Mutex::new(0), flags: AtomicU32::new(flags) })
    }

    /// How it was opened.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Changes what can be changed later.
    pub fn set_flags(&self, flags: u32) {
        const CHANGEABLE: u32 = O_APPEND | O_NONBLOCK;
        let old = self.flags();
        self.flags.store(old & !CHANGEABLE | flags & CHANGEABLE, Ordering::Relaxed);
    }

    /// Whether calls return instead of waiting.
    pub fn never_waits(&self) -> bool {
        self.flags() & O_NONBLOCK != 0
    }

    /// The device it is.
    pub fn device(&self) -> Option<Device> {
        match &self.object {
            Object::Node(node) => match node.content {
                Content::Device(device) => Some(device),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a read ends with what came so far: of a pipe and of the terminal's line.
    pub fn gives_parts(&self) -> bool {
        matches!(self.object, Object::Pipe(_)) || self.device() == Some(Device::Terminal)
    }

    /// The node it is.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`].
    pub fn node(&self) -> Outcome<&Arc<Node>> {
        match &self.object {
            Object::Node(node) => Ok(node),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Reads from where it is, or from an offset.
    ///
    /// # Errors
    ///
    /// [`Errno::EAGAIN`] if there is nothing yet.
    pub fn read(&self, to: &mut [u8], at: Option<u64>) -> Outcome<usize> {
        if self.flags() & O_ACCMODE == O_WRONLY {
            return Err(Errno::EBADF);
        }
        match &self.object {
            Object::Pipe(end) => end.read(to),
            Object::Text(text) => Ok(self.advance(at, |offset| read_slice(text, to, offset))),
            Object::Node(node) => match &node.content {
                Content::File(data) => {
                    let data = data.lock();
                    Ok(self.advance(at, |offset| data.read(offset, to)))
                }
                Content::Device(device) => read_device(*device, to),
                Content::Directory(_) => Err(Errno::EISDIR),
                _ => Err(Errno::EINVAL),
            },
        }
    }

    /// Does `f` where it is, which moves by what `f` says, or at an offset. Behind the end it stays where it is.
    fn advance(&self, at: Option<u64>, f: impl FnOnce(u64) -> usize) -> usize {
        let mut offset = self.offset.lock();
        let done = f(at.unwrap_or(*offset));
        if at.is_none() {
            *offset += done as u64;
        }
        done
    }

    /// Writes where it is, or at an offset.
    ///
    /// # Errors
    ///
    /// [`Errno::EAGAIN`] if there is no room yet.
    pub fn write(&self, from: &[u8], at: Option<u64>) -> Outcome<usize> {
        if self.flags() & O_ACCMODE == O_RDONLY {
            return Err(Errno::EBADF);
        }
        match &self.object {
            Object::Pipe(end) => end.write(from),
            Object::Text(_) => Err(Errno::EINVAL),
            Object::Node(node) => match &node.content {
                Content::File(data) => {
                    let mut data = data.lock();
                    let mut offset = self.offset.lock();
                    let appends = self.flags() & O_APPEND != 0;
                    let here = if appends { data.len() } else { at.unwrap_or(*offset) };
                    data.write(here, from)?;
                    if at.is_none() {
                        *offset = here + from.len() as u64;
                    }
                    node.touch();
                    Ok(from.len())
                }
                Content::Device(device) => write_device(*device, from),
                _ => Err(Errno::EINVAL),
            },
        }
    }

    /// Moves.
    ///
    /// # Errors
    ///
    /// [`Errno::ESPIPE`], [`Errno::EINVAL`].
    pub fn seek(&self, by: i64, from: u64) -> Outcome<u64> {
        let len = match &self.object {
            Object::Pipe(_) => return Err(Errno::ESPIPE),
            Object::Text(text) => text.len() as u64,
            Object::Node(_) if self.device() == Some(Device::Terminal) => {
                return Err(Errno::ESPIPE);
            }
            Object::Node(node) => node.len(),
        };
        let mut offset = self.offset.lock();
        let base = match from {
            0 => 0,
            1 => *offset,
            2 => len,
            _ => return Err(Errno::EINVAL),
        };
        let new = base
            .checked_add_signed(by)
            .filter(|&new| new <= i64::MAX as u64)
            .ok_or(Errno::EINVAL)?;
        *offset = new;
        Ok(new)
    }

    /// Where it is, for whoever reads names.
    pub fn position(&self) -> spin::MutexGuard<'_, u64> {
        self.offset.lock()
    }

    /// Whether a read, and whether a write, would not wait; and whether the other end is gone.
    pub fn ready(&self) -> (bool, bool, bool) {
        match &self.object {
            Object::Pipe(end) => end.ready(),
            _ if self.device() == Some(Device::Terminal) => (terminal::has_input(), true, false),
            _ => (true, true, false),
        }
    }
}

fn read_slice(from: &[u8], to: &mut [u8], offset: u64) -> usize {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(from.len());
    let len = to.len().min(from.len() - start);
    to[..len].copy_from_slice(&from[start..start + len]);
    len
}

fn read_device(device: Device, to: &mut [u8]) -> Outcome<usize> {
    match device {
        Device::Null => return Ok(0),
        Device::Zero | Device::Full => to.fill(0),
        Device::Random => random::fill(to),
        Device::Terminal => return terminal::read(to),
        #[cfg(feature = "vulnerable")]
        Device::Vulnerable => return Err(Errno::EINVAL),
    }
    Ok(to.len())
}

fn write_device(device: Device, from: &[u8]) -> Outcome<usize> {
    match device {
        Device::Full => return Err(Errno::ENOSPC),
        Device::Terminal => terminal::write(from),
        _ => {}
    }
    Ok(from.len())
}

/// A descriptor.
#[derive(Clone)]
struct Descriptor {
    file: Arc<OpenFile>,
    closes_on_exec: bool,
}

/// The descriptors of a process.
#[derive(Clone, Default)]
pub struct Descriptors(Vec<Option<Descriptor>>);

impl Descriptors {
    /// What a descriptor stands for.
    ///
    /// # Errors
    ///
    /// [`Errno::EBADF`].
    pub fn get(&self, number: u64) -> Outcome<Arc<OpenFile>> {
        Ok(self.slot(number)?.file.clone())
    }

    fn slot(&self, number: u64) -> Outcome<&Descriptor> {
        let number = usize::try_from(number as u32 as i32).map_err(|_| Errno::EBADF)?;
        self.0.get(number).and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    /// Whether it is closed when another program is run.
    ///
    /// # Errors
    ///
    /// [`Errno::EBADF`].
    pub fn closes_on_exec(&self, number: u64) -> Outcome<bool> {
        Ok(self.slot(number)?.closes_on_exec)
    }

    /// Says whether it is.
    ///
    /// # Errors
    ///
    /// [`Errno::EBADF`].
    pub fn set_closes_on_exec(&mut self, number: u64, closes: bool) -> Outcome<()> {
        self.slot(number)?;
        if let Some(Some(descriptor)) = self.0.get_mut(number as usize) {
            descriptor.closes_on_exec = closes;
        }
        Ok(())
    }

    /// The lowest free number from `least` up, for a file.
    ///
    /// # Errors
    ///
    /// [`Errno::EMFILE`].
    pub fn add(&mut self, file: Arc<OpenFile>, least: u64, closes_on_exec: bool) -> Outcome<u64> {
        let free = (least as usize..MAX_DESCRIPTORS)
            .find(|&number| self.0.get(number).is_none_or(Option::is_none))
            .ok_or(Errno::EMFILE)?;
        self.put(free as u64, file, closes_on_exec)?;
        Ok(free as u64)
    }

    /// Gives a number to a file, and takes it from what has it.
    ///
    /// # Errors
    ///
    /// [`Errno::EBADF`].
    pub fn put(&mut self, number: u64, file: Arc<OpenFile>, closes_on_exec: bool) -> Outcome<()> {
        let place = usize::try_from(number)
            .ok()
            .filter(|&place| place < MAX_DESCRIPTORS)
            .ok_or(Errno::EBADF)?;
        if self.0.len() <= place {
            self.0.resize(place + 1, None);
        }
        self.0[place] = Some(Descriptor { file, closes_on_exec });
        Ok(())
    }

    /// Takes a number from what has it.
    ///
    /// # Errors
    ///
    /// [`Errno::EBADF`].
    pub fn remove(&mut self, number: u64) -> Outcome<Arc<OpenFile>> {
        self.slot(number)?;
        self.0[number as usize].take().map(|descriptor| descriptor.file).ok_or(Errno::EBADF)
    }

    /// Another program is run.
    pub fn close_on_exec(&mut self) {
        for slot in &mut self.0 {
            if slot.as_ref().is_some_and(|descriptor| descriptor.closes_on_exec) {
                *slot = None;
            }
        }
    }

    /// The numbers in use.
    pub fn numbers(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(number, _)| number)
    }
}
