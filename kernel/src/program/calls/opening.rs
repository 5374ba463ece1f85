//! Calls that open paths.

use super::Arguments;
use super::names::insert;
#[cfg(target_arch = "x86_64")]
use super::paths::HERE;
use super::paths::find;
use crate::program::errno::{Errno, Outcome};
use crate::program::files::node::{Content, Kind, Node};
use crate::program::files::pipe::{End, Fifo};
use crate::program::files::{Object, OpenFile};
use crate::program::memory::UserAddress;
use crate::program::task::Task;
use alloc::string::String;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    O_ACCMODE, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_TRUNC,
    O_WRONLY,
};

/// `openat`
pub fn openat(call: &mut Arguments<'_>) -> Outcome {
    open_at(call.task, call.value(0), call.address(1), call.value(2) as u32, call.value(3) as u32)
}

/// `open`
#[cfg(target_arch = "x86_64")]
pub fn open(call: &mut Arguments<'_>) -> Outcome {
    open_at(call.task, HERE, call.address(0), call.value(1) as u32, call.value(2) as u32)
}

/// `creat`
#[cfg(target_arch = "x86_64")]
pub fn creat(call: &mut Arguments<'_>) -> Outcome {
    open_at(call.task, HERE, call.address(0), O_CREAT | O_WRONLY | O_TRUNC, call.value(1) as u32)
}

fn open_at(task: &Task, directory: u64, at: UserAddress, flags: u32, mode: u32) -> Outcome {
    let follow = flags & O_NOFOLLOW == 0 && flags & (O_CREAT | O_EXCL) != O_CREAT | O_EXCL;
    let found = find(task, directory, at, follow)?;
    let (node, path) = match &found.node {
        Some(_) if flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL => return Err(Errno::EEXIST),
        Some(_) => {
            let place = found.place()?;
            (place.node.clone(), String::from(place.shown()))
        }
        None if flags & O_CREAT != 0 => {
            let node = Node::file(mode & !task.process.mask.load(Ordering::Relaxed));
            insert(&found, node.clone())?;
            (node, alloc::format!("{}/{}", found.parent.path, found.name))
        }
        None => return Err(Errno::ENOENT),
    };
    let writes = flags & O_ACCMODE != O_RDONLY;
    match node.kind() {
        Kind::Link => return Err(Errno::ELOOP),
        Kind::Directory if writes || flags & O_CREAT != 0 => return Err(Errno::EISDIR),
        kind if flags & O_DIRECTORY != 0 && kind != Kind::Directory => return Err(Errno::ENOTDIR),
        _ => {}
    }
    if let Content::File(data) = &node.content
        && flags & O_TRUNC != 0
        && writes
    {
        data.lock().resize(0)?;
        node.touch();
    }
    let object = match &node.content {
        Content::Fifo(fifo) => Object::Pipe(open_fifo(task, fifo, flags)?),
        Content::Undriven(..) => return Err(Errno::ENXIO),
        Content::Proc(_) if writes => return Err(Errno::EACCES),
        Content::Proc(proc) if node.kind() == Kind::File => Object::Text(proc.text()?),
        _ => Object::Node(node),
    };
    let file = OpenFile::new(object, path, flags & !(O_CREAT | O_EXCL | O_TRUNC | O_CLOEXEC));
    task.process.descriptors().lock().add(file, 0, flags & O_CLOEXEC != 0)
}

/// Opens an end of a pipe with a name, and waits for somebody at the other; who writes and may not wait must find a reader.
fn open_fifo(task: &Task, fifo: &Fifo, flags: u32) -> Outcome<End> {
    let access = flags & O_ACCMODE;
    let opening = fifo.open(access != O_WRONLY, access != O_RDONLY);
    if flags & O_NONBLOCK == 0 {
        task.wait(None, || Ok(opening.is_met().then_some(())))?;
    } else if access == O_WRONLY && !opening.is_met() {
        return Err(Errno::ENXIO);
    }
    Ok(opening.end)
}
