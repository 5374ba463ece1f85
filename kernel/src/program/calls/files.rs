//! Calls on descriptors: reading, writing, duplicating, pipes, names in directories.

use super::Arguments;
use super::locks;
use crate::memory::boot::PAGE_SIZE;
use crate::program::errno::{Errno, Outcome};
use crate::program::files::node::{Content, Kind};
use crate::program::files::{Object, OpenFile, locks as file_locks};
use crate::program::memory::UserAddress;
use crate::program::signals::Signal;
use crate::program::task::Task;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general::{
    F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_GETLK, F_SETFD, F_SETFL, F_SETLK, F_SETLKW,
    FALLOC_FL_KEEP_SIZE, FD_CLOEXEC, O_ACCMODE, O_CLOEXEC, O_RDONLY, SIGPIPE,
};

/// Bytes copied at a time between a program and a file.
const PIECE: usize = 4 * PAGE_SIZE as usize;
/// Most elements of a vector of buffers (`IOV_MAX`).
const MAX_VECTOR: u64 = 1024;

/// The open file of a descriptor.
///
/// # Errors
///
/// [`Errno::EBADF`].
pub fn file(task: &Task, number: u64) -> Outcome<Arc<OpenFile>> {
    task.process.descriptors().lock().get(number)
}

/// A buffer in the kernel.
fn buffer(bytes: u64) -> Outcome<Vec<u8>> {
    let len = usize::try_from(bytes).unwrap_or(PIECE).min(PIECE);
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(len, 0);
    Ok(buffer)
}

/// Waits, if the file may, until `attempt` does not have to be made again.
fn attempt<T>(task: &Task, file: &OpenFile, mut attempt: impl FnMut() -> Outcome<T>) -> Outcome<T> {
    if file.never_waits() {
        return attempt();
    }
    task.wait(None, || match attempt() {
        Err(Errno::EAGAIN) => Ok(None),
        other => other.map(Some),
    })
}

fn read_to(task: &Task, file: &OpenFile, to: UserAddress, len: u64, at: Option<u64>) -> Outcome {
    let memory = task.process.memory();
    let mut buffer = buffer(len)?;
    let mut done = 0;
    loop {
        let wanted = buffer.len().min((len - done) as usize);
        let here = at.map(|at| at + done);
        let got = if done == 0 {
            attempt(task, file, || file.read(&mut buffer[..wanted], here))?
        } else {
            // Never waits for more.
            match file.read(&mut buffer[..wanted], here) {
                Ok(got) => got,
                Err(_) => return Ok(done),
            }
        };
        memory.write(to.offset(done), &buffer[..got])?;
        done += got as u64;
        if got < wanted || done == len || file.gives_parts() {
            return Ok(done);
        }
    }
}

fn write_from(
    task: &Task,
    file: &OpenFile,
    from: UserAddress,
    len: u64,
    at: Option<u64>,
) -> Outcome {
    let memory = task.process.memory();
    let mut buffer = buffer(len)?;
    let mut done = 0;
    while done < len || len == 0 {
        let part = buffer.len().min((len - done) as usize);
        memory.read(from.offset(done), &mut buffer[..part])?;
        let put = attempt(task, file, || file.write(&buffer[..part], at.map(|at| at + done)));
        match put {
            Ok(put) => done += put as u64,
            Err(error) => {
                if error == Errno::EPIPE
                    && let Some(signal) = Signal::new(SIGPIPE.into())
                {
                    task.signal(signal);
                }
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
        if len == 0 {
            break;
        }
    }
    Ok(done)
}

/// `read`
pub fn read(call: &mut Arguments<'_>) -> Outcome {
    let file = file(call.task, call.value(0))?;
    read_to(call.task, &file, call.address(1), call.value(2), None)
}

/// `write`
pub fn write(call: &mut Arguments<'_>) -> Outcome {
    let file = file(call.task, call.value(0))?;
    write_from(call.task, &file, call.address(1), call.value(2), None)
}

fn offset(value: u64) -> Outcome<Option<u64>> {
    if value > i64::MAX as u64 { Err(Errno::EINVAL) } else { Ok(Some(value)) }
}

/// `pread64`
pub fn pread(call: &mut Arguments<'_>) -> Outcome {
    let file = file(call.task, call.value(0))?;
    read_to(call.task, &file, call.address(1), call.value(2), offset(call.value(3))?)
}

/// `pwrite64`
pub fn pwrite(call: &mut Arguments<'_>) -> Outcome {
    let file = file(call.task, call.value(0))?;
    write_from(call.task, &file, call.address(1), call.value(2), offset(call.value(3))?)
}

/// Does `f` for the buffers of a vector until one is not done whole.
fn each_buffer(call: &Arguments<'_>, f: impl Fn(UserAddress, u64) -> Outcome) -> Outcome {
    let memory = call.task.process.memory();
    let count = call.value(2);
    if count > MAX_VECTOR {
        return Err(Errno::EINVAL);
    }
    let mut done = 0;
    for number in 0..count {
        let at = call.address(1).offset(number * 16);
        let (start, len) = (UserAddress(memory.read_u64(at)?), memory.read_u64(at.offset(8))?);
        if len == 0 {
            continue;
        }
        if !start.holds(len) {
            return Err(Errno::EFAULT);
        }
        match f(start, len) {
            Ok(now) => {
                done += now;
                if now < len {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// `readv`
pub fn readv(call: &mut Arguments<'_>) -> Outcome {
    let file = file(call.task, call.value(0))?;
    each_buffer(call, |to, len| read_to(call.task, &file, to, len, None))
}

/// `writev`
pub fn writev(call: &mut Arguments<'_>) -> Outcome {
    let file = file(call.task, call.value(0))?;
    each_buffer(call, |from, len| write_from(call.task, &file, from, len, None))
}

/// `lseek`
pub fn lseek(call: &mut Arguments<'_>) -> Outcome {
    file(call.task, call.value(0))?.seek(call.value(1) as i64, call.value(2))
}

/// `close`
pub fn close(call: &mut Arguments<'_>) -> Outcome {
    let closed = call.task.process.descriptors().lock().remove(call.value(0))?;
    if let Object::Node(node) = &closed.object {
        file_locks::release_file(call.task.process.number, node.number);
    }
    drop(closed);
    Ok(0)
}

/// `close_range`
pub fn close_range(call: &mut Arguments<'_>) -> Outcome {
    const CLOSE_ON_EXEC: u64 = 1 << 2;
    let (first, last) = (call.value(0) as u32 as usize, call.value(1) as u32 as usize);
    let numbers: Vec<usize> = call.task.process.descriptors().lock().numbers().collect();
    for number in numbers.into_iter().filter(|number| (first..=last).contains(number)) {
        let shared = call.task.process.descriptors();
        let mut descriptors = shared.lock();
        if call.value(2) & CLOSE_ON_EXEC != 0 {
            descriptors.set_closes_on_exec(number as u64, true)?;
        } else {
            let closed = descriptors.remove(number as u64);
            drop(descriptors);
            drop(closed);
        }
    }
    Ok(0)
}

/// `dup`
pub fn dup(call: &mut Arguments<'_>) -> Outcome {
    let file = file(call.task, call.value(0))?;
    call.task.process.descriptors().lock().add(file, 0, false)
}

/// `dup2`
#[cfg(target_arch = "x86_64")]
pub fn dup2(call: &mut Arguments<'_>) -> Outcome {
    let (from, to) = (call.value(0), call.value(1));
    let file = file(call.task, from)?;
    if from != to {
        call.task.process.descriptors().lock().put(to, file, false)?;
    }
    Ok(to)
}

/// `dup3`
pub fn dup3(call: &mut Arguments<'_>) -> Outcome {
    let (from, to, flags) = (call.value(0), call.value(1), call.value(2) as u32);
    if from == to || flags & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let file = file(call.task, from)?;
    call.task.process.descriptors().lock().put(to, file, flags & O_CLOEXEC != 0)?;
    Ok(to)
}

/// `fcntl`
pub fn fcntl(call: &mut Arguments<'_>) -> Outcome {
    let (number, value) = (call.value(0), call.value(2));
    if let F_GETLK | F_SETLK | F_SETLKW = call.value(1) as u32 {
        return locks::lock(call);
    }
    let file = file(call.task, number)?;
    let shared = call.task.process.descriptors();
    let mut descriptors = shared.lock();
    match call.value(1) as u32 {
        F_DUPFD => descriptors.add(file, value, false),
        F_DUPFD_CLOEXEC => descriptors.add(file, value, true),
        F_GETFD => Ok(if descriptors.closes_on_exec(number)? { FD_CLOEXEC.into() } else { 0 }),
        F_SETFD => {
            descriptors.set_closes_on_exec(number, value & u64::from(FD_CLOEXEC) != 0).map(|()| 0)
        }
        F_GETFL => Ok(file.flags().into()),
        F_SETFL => {
            file.set_flags(value as u32);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `ftruncate`
pub fn ftruncate(call: &mut Arguments<'_>) -> Outcome {
    let file = file(call.task, call.value(0))?;
    if call.value(1) > i64::MAX as u64 || file.flags() & O_ACCMODE == O_RDONLY {
        return Err(Errno::EINVAL);
    }
    file.node()?.data()?.lock().resize(call.value(1))?;
    file.node()?.touch();
    Ok(0)
}

/// `fallocate`: makes a file longer. Room is not set aside.
pub fn fallocate(call: &mut Arguments<'_>) -> Outcome {
    let (mode, offset, len) = (call.value(1) as u32, call.value(2), call.value(3));
    if offset > i64::MAX as u64 || len > i64::MAX as u64 || len == 0 {
        return Err(Errno::EINVAL);
    }
    let file = file(call.task, call.value(0))?;
    if file.flags() & O_ACCMODE == O_RDONLY {
        return Err(Errno::EBADF);
    }
    let mut data = file.node()?.data()?.lock();
    match mode {
        0 if offset + len > data.len() => data.resize(offset + len)?,
        0 | FALLOC_FL_KEEP_SIZE => {}
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(0)
}

/// Calls that find done what they ask for: everything is in memory, and stays there.
pub fn nothing(_: &mut Arguments<'_>) -> Outcome {
    Ok(0)
}

/// Calls on attributes of files that people name: no file has any.
pub fn not_supported(_: &mut Arguments<'_>) -> Outcome {
    Err(Errno::EOPNOTSUPP)
}

/// `socket` and `socketpair`: of no kind.
pub fn socket(_: &mut Arguments<'_>) -> Outcome {
    Err(Errno::EAFNOSUPPORT)
}

/// `getdents64`
pub fn getdents64(call: &mut Arguments<'_>) -> Outcome {
    const HEADER: usize = 19;
    let file = file(call.task, call.value(0))?;
    let node = file.node().map_err(|_| Errno::ENOTDIR)?;
    let names = names_in(&node.content)?;
    let room = call.value(2).min(PIECE as u64) as usize;
    let mut position = file.position();
    let mut bytes = Vec::new();
    let start = *position as usize;
    for (place, (name, kind, number)) in names.iter().enumerate().skip(start) {
        let len = (HEADER + name.len() + 1).next_multiple_of(8);
        if bytes.len() + len > room {
            if bytes.is_empty() {
                return Err(Errno::EINVAL);
            }
            break;
        }
        let end = bytes.len() + len;
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&(place as u64 + 1).to_le_bytes());
        bytes.extend_from_slice(&(len as u16).to_le_bytes());
        bytes.push((*kind as u32 >> 12) as u8);
        bytes.extend_from_slice(name.as_bytes());
        bytes.resize(end, 0);
        *position = place as u64 + 1;
    }
    call.task.process.memory().write(call.address(1), &bytes)?;
    Ok(bytes.len() as u64)
}

fn names_in(content: &Content) -> Outcome<Vec<(String, Kind, u64)>> {
    let mut names = Vec::new();
    names.push((".".to_string(), Kind::Directory, 1));
    names.push(("..".to_string(), Kind::Directory, 1));
    match content {
        Content::Directory(directory) => {
            let directory = directory.lock();
            names.extend(
                directory
                    .entries
                    .iter()
                    .map(|(name, node)| (name.clone(), node.kind(), node.number)),
            );
        }
        Content::Proc(proc) => {
            names.extend(proc.names().into_iter().map(|(name, kind)| (name, kind, 1)))
        }
        _ => return Err(Errno::ENOTDIR),
    }
    Ok(names)
}
