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
}

/// One end of a pipe.
pub struct End {
    pipe: Arc<Mutex<Pipe>>,
    /// Whether it is the end that is written to.
    pub writes: bool,
}

/// A pipe: the end to read from, and the one to write to.
///
/// # Errors
///
/// [`Errno::ENOMEM`].
pub fn new() -> Outcome<(End, End)> {
    let mut bytes = VecDeque::new();
    bytes.try_reserve_exact(CAPACITY).map_err(|_| Errno::ENOMEM)?;
    let pipe = Arc::new(Mutex::new(Pipe { bytes, readers: 1, writers: 1 }));
    Ok((End { pipe: pipe.clone(), writes: false }, End { pipe, writes: true }))
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
        if self.writes {
            let gone = pipe.readers == 0;
            (false, gone || CAPACITY - pipe.bytes.len() >= ATOMIC, gone)
        } else {
            let gone = pipe.writers == 0;
            (!pipe.bytes.is_empty() || gone, false, gone)
        }
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
            if self.writes {
                pipe.writers -= 1;
            } else {
                pipe.readers -= 1;
            }
        }
        events::announce();
    }
}
