//! `fcntl`'s calls on locks.

use super::Arguments;
use super::files::file;
use super::words::Words;
use crate::program::errno::{Errno, Outcome};
use crate::program::files::locks::{self, Lock};
use crate::program::files::{Object, OpenFile};
use crate::program::memory::UserAddress;
use linux_raw_sys::general::{F_GETLK, F_RDLCK, F_SETLKW, F_UNLCK, F_WRLCK};

/// Bytes of `struct flock`.
const FLOCK: u64 = 32;

/// What `struct flock` asks for: the kind, and the part.
fn asked(call: &Arguments<'_>, file: &OpenFile, at: UserAddress) -> Outcome<(u32, Lock)> {
    let memory = call.task.process.memory();
    let Object::Node(node) = &file.object else { return Err(Errno::EINVAL) };
    let kinds = memory.read_u32(at)?;
    let (kind, whence) = (kinds & 0xffff, kinds >> 16);
    let (start, len) = (memory.read_u64(at.offset(8))?, memory.read_u64(at.offset(16))? as i64);
    let base = match whence {
        0 => 0,
        1 => *file.position(),
        2 => node.len(),
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add_signed(start as i64).ok_or(Errno::EINVAL)?;
    let (start, end) = match len {
        0 => (start, u64::MAX),
        1.. => (start, start.checked_add(len as u64).ok_or(Errno::EINVAL)?),
        ..0 => (start.checked_add_signed(len).ok_or(Errno::EINVAL)?, start),
    };
    let process = call.task.process.number;
    let excludes = kind == F_WRLCK;
    Ok((kind, Lock { file: node.number, process, start, end, excludes }))
}

/// `F_GETLK`, `F_SETLK` and `F_SETLKW`.
///
/// # Errors
///
/// [`Errno::EAGAIN`] if another process has a lock there.
pub fn lock(call: &Arguments<'_>) -> Outcome {
    let (command, at) = (call.value(1) as u32, call.address(2));
    if !at.holds(FLOCK) {
        return Err(Errno::EFAULT);
    }
    let file = file(call.task, call.value(0))?;
    let (kind, wanted) = asked(call, &file, at)?;
    match (command, kind) {
        (F_GETLK, F_RDLCK | F_WRLCK) => tell(call, at, locks::conflicting(&wanted)),
        (F_GETLK, _) => Err(Errno::EINVAL),
        (_, F_UNLCK) => locks::release(&wanted).map(|()| 0),
        (F_SETLKW, F_RDLCK | F_WRLCK) => call.task.wait(None, || match locks::take(wanted) {
            Err(Errno::EAGAIN) => Ok(None),
            other => other.map(|()| Some(0)),
        }),
        (_, F_RDLCK | F_WRLCK) => locks::take(wanted).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

fn tell(call: &Arguments<'_>, at: UserAddress, found: Option<Lock>) -> Outcome {
    let memory = call.task.process.memory();
    let Some(lock) = found else {
        return memory.write(at, &(F_UNLCK as u16).to_le_bytes()).map(|()| 0);
    };
    let kind = if lock.excludes { F_WRLCK } else { F_RDLCK };
    let len = if lock.end == u64::MAX { 0 } else { lock.end - lock.start };
    let mut words = Words::default();
    words.u32(kind).u32(0).u64(lock.start).u64(len).u32(lock.process).u32(0);
    memory.write(at, &words.0).map(|()| 0)
}
