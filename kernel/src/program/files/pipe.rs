//! Pipes.

use crate::program::errno::{Errno, Outcome};
use crate::sched::events;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use spin::Mutex;

/// Bytes a pipe holds.
const CAPACITY: usize = 16 * 1024;
/// Writes up to this long are not mixed with others' (`PIPE_BUF`).
const ATOMIC: usize = 4096;

struct Pipe {
    bytes: VecDeque<u8>,
    readers: usize,
    writers: usize,
    /// How often an end to read from, and one to write to, was opened by name.
    opened: [u64; 2],
}

impl Pipe {
    fn new(readers: usize, writers: usize) -> Outcome<Arc<Mutex<Self>>> {
        let mut bytes = VecDeque::new();
        bytes.try_reserve_exact(CAPACITY).map_err(|_| Errno::ENOMEM)?;
        Ok(Arc::new(Mutex::new(Self { bytes, readers, writers, opened: [0; 2] })))
    }
}

/// One end of a pipe, or both.
pub struct End {
    pipe: Arc<Mutex<Pipe>>,
    reads: bool,
    writes: bool,
}

/// A pipe: the end to read from, and the one to write to.
///
/// # Errors
///
/// [`Errno::ENOMEM`].
pub fn new() -> Outcome<(End, End)> {
    let pipe = Pipe::new(1, 1)?;
    let end = |reads| End { pipe: pipe.clone(), reads, writes: !reads };
    Ok((end(true), end(false)))
}

/// A pipe with a name, of which ends are opened.
pub struct Fifo(Arc<Mutex<Pipe>>);

impl Fifo {
    /// A pipe that nobody has open.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`].
    pub fn new() -> Outcome<Self> {
        Pipe::new(0, 0).map(Self)
    }

    /// Opens it. Whoever opens one end alone waits until the other is opened ([`Opening::is_met`]).
    pub fn open(&self, reads: bool, writes: bool) -> Opening {
        let mut pipe = self.0.lock();
        pipe.readers += usize::from(reads);
        pipe.writers += usize::from(writes);
        pipe.opened[0] += u64::from(reads);
        pipe.opened[1] += u64::from(writes);
        let met = (reads || pipe.readers > 0) && (writes || pipe.writers > 0);
        let opened = pipe.opened;
        drop(pipe);
        events::announce();
        Opening { end: End { pipe: self.0.clone(), reads, writes }, opened, met }
    }
}

/// An end that was opened by name.
pub struct Opening {
    /// The end.
    pub end: End,
    opened: [u64; 2],
    met: bool,
}

impl Opening {
    /// Whether there is, or was meanwhile, somebody at the other end.
    pub fn is_met(&self) -> bool {
        let other = usize::from(self.end.reads);
        self.met || self.end.pipe.lock().opened[other] != self.opened[other]
    }
}

impl End {
    /// Takes up to `to.len()` bytes: none at the end of everything that is written.
    ///
    /// # Errors
    ///
    /// [`Errno::EAGAIN`] if there are none yet.
    pub fn read(&self, to: &mut [u8]) -> Outcome<usize> {
        let mut pipe = self.pipe.lock();
        let len = to.len().min(pipe.bytes.len());
        if len == 0 && pipe.writers > 0 && !to.is_empty() {
            return Err(Errno::EAGAIN);
        }
        for (place, byte) in to.iter_mut().zip(pipe.bytes.drain(..len)) {
            *place = byte;
        }
        drop(pipe);
        events::announce();
        Ok(len)
    }

    /// Puts in as much as there is room for.
    ///
    /// # Errors
    ///
    /// [`Errno::EAGAIN`] if there is none, [`Errno::EPIPE`] if nobody will read it.
    pub fn write(&self, from: &[u8]) -> Outcome<usize> {
        let mut pipe = self.pipe.lock();
        if pipe.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let room = CAPACITY - pipe.bytes.len();
        let len = from.len().min(room);
        if len == 0 && !from.is_empty() || from.len() <= ATOMIC && len < from.len() {
            return Err(Errno::EAGAIN);
        }
        pipe.bytes.extend(&from[..len]);
        drop(pipe);
        events::announce();
        Ok(len)
    }

    /// Whether a read, and whether a write, would not wait; and whether the other end is gone.
    pub fn ready(&self) -> (bool, bool, bool) {
        let pipe = self.pipe.lock();
        let is_alone = self.reads && pipe.writers == 0 || self.writes && pipe.readers == 0;
        let can_read = self.reads && (!pipe.bytes.is_empty() || is_alone);
        let can_write = self.writes && (CAPACITY - pipe.bytes.len() >= ATOMIC || is_alone);
        (can_read, can_write, is_alone)
    }

    /// How many bytes are in it.
    pub fn len(&self) -> usize {
        self.pipe.lock().bytes.len()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        {
            let mut pipe = self.pipe.lock();
            pipe.readers -= usize::from(self.reads);
            pipe.writers -= usize::from(self.writes);
            if pipe.readers + pipe.writers == 0 {
                // What nobody read is gone when a pipe with a name is opened again.
                pipe.bytes.clear();
            }
        }
        events::announce();
    }
}
