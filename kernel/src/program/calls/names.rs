//! Calls that make, remove, link and rename what is in the tree.

use super::Arguments;
#[cfg(target_arch = "x86_64")]
use super::paths::HERE;
use super::paths::{FOLLOW, find, text};
use crate::program::errno::{Errno, Outcome};
use crate::program::files::data::Data;
use crate::program::files::node::{Content, Device, Kind, Node, TYPE_BITS};
use crate::program::files::pipe::Fifo;
use crate::program::files::tree::{self, Found};
use crate::program::memory::UserAddress;
use crate::program::task::Task;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::AT_REMOVEDIR;
use spin::Mutex;

/// Puts a node where a path leads to nothing.
///
/// # Errors
///
/// [`Errno::EEXIST`]; [`Errno::EROFS`] in `/proc`.
pub(super) fn insert(found: &Found, node: Arc<Node>) -> Outcome {
    let names = found.parent.node.names()?;
    let mut names = names.lock();
    if found.name == "." || found.node.is_some() || names.entries.contains_key(&found.name) {
        return Err(Errno::EEXIST);
    }
    names.entries.insert(found.name.clone(), node);
    drop(names);
    found.parent.node.touch();
    Ok(0)
}

fn read_link(task: &Task, directory: u64, at: UserAddress, to: UserAddress, room: u64) -> Outcome {
    let node = find(task, directory, at, !FOLLOW)?.existing()?;
    let target = tree::link_target(&node).ok_or(Errno::EINVAL)?;
    let len = target.len().min(usize::try_from(room).unwrap_or(usize::MAX));
    task.process.memory().write(to, &target.as_bytes()[..len])?;
    Ok(len as u64)
}

/// `readlinkat`
pub fn readlinkat(call: &mut Arguments<'_>) -> Outcome {
    read_link(call.task, call.value(0), call.address(1), call.address(2), call.value(3))
}

/// `readlink`
#[cfg(target_arch = "x86_64")]
pub fn readlink(call: &mut Arguments<'_>) -> Outcome {
    read_link(call.task, HERE, call.address(0), call.address(1), call.value(2))
}

fn make_directory(task: &Task, directory: u64, at: UserAddress, mode: u64) -> Outcome {
    let found = find(task, directory, at, !FOLLOW)?;
    let permissions = mode as u32 & !task.process.mask.load(Ordering::Relaxed);
    insert(&found, Node::directory(permissions, Arc::downgrade(&found.parent.node)))
}

/// `mkdirat`
pub fn mkdirat(call: &mut Arguments<'_>) -> Outcome {
    make_directory(call.task, call.value(0), call.address(1), call.value(2))
}

/// `mkdir`
#[cfg(target_arch = "x86_64")]
pub fn mkdir(call: &mut Arguments<'_>) -> Outcome {
    make_directory(call.task, HERE, call.address(0), call.value(1))
}

fn make_node(task: &Task, directory: u64, at: UserAddress, mode: u32, number: u64) -> Outcome {
    let found = find(task, directory, at, !FOLLOW)?;
    let permissions = mode & !task.process.mask.load(Ordering::Relaxed);
    let content = match mode & TYPE_BITS {
        0 | FILE => Content::File(Mutex::new(Data::empty())),
        PIPE => Content::Fifo(Fifo::new()?),
        CHARACTERS => match Device::ALL.iter().find(|known| known.2 == number) {
            Some(known) => Content::Device(known.0),
            None => Content::Undriven(Kind::Device, number),
        },
        BLOCKS => Content::Undriven(Kind::Blocks, number),
        _ => return Err(Errno::EINVAL),
    };
    insert(&found, Node::new(permissions, content))
}

/// Kinds of what `mknod` makes.
const FILE: u32 = Kind::File as u32;
const PIPE: u32 = Kind::Pipe as u32;
const CHARACTERS: u32 = Kind::Device as u32;
const BLOCKS: u32 = Kind::Blocks as u32;

/// `mknodat`
pub fn mknodat(call: &mut Arguments<'_>) -> Outcome {
    make_node(call.task, call.value(0), call.address(1), call.value(2) as u32, call.value(3))
}

/// `mknod`
#[cfg(target_arch = "x86_64")]
pub fn mknod(call: &mut Arguments<'_>) -> Outcome {
    make_node(call.task, HERE, call.address(0), call.value(1) as u32, call.value(2))
}

fn remove(task: &Task, directory: u64, at: UserAddress, is_directory: bool) -> Outcome {
    let found = find(task, directory, at, !FOLLOW)?;
    let node = found.existing()?;
    match (&node.content, is_directory) {
        (Content::Directory(names), true) if !names.lock().entries.is_empty() => {
            return Err(Errno::ENOTEMPTY);
        }
        (Content::Directory(_), true) if found.name == "." => return Err(Errno::EINVAL),
        (Content::Directory(_), true) => {}
        (Content::Directory(_), false) => return Err(Errno::EISDIR),
        (_, true) => return Err(Errno::ENOTDIR),
        (_, false) => {}
    }
    found.parent.node.names()?.lock().entries.remove(&found.name).ok_or(Errno::ENOENT)?;
    node.meta.lock().links -= 1;
    found.parent.node.touch();
    Ok(0)
}

/// `unlinkat`
pub fn unlinkat(call: &mut Arguments<'_>) -> Outcome {
    remove(call.task, call.value(0), call.address(1), call.value(2) as u32 & AT_REMOVEDIR != 0)
}

/// `unlink`
#[cfg(target_arch = "x86_64")]
pub fn unlink(call: &mut Arguments<'_>) -> Outcome {
    remove(call.task, HERE, call.address(0), false)
}

/// `rmdir`
#[cfg(target_arch = "x86_64")]
pub fn rmdir(call: &mut Arguments<'_>) -> Outcome {
    remove(call.task, HERE, call.address(0), true)
}

fn rename_at(task: &Task, from: (u64, UserAddress), to: (u64, UserAddress)) -> Outcome {
    let (from, to) = (find(task, from.0, from.1, !FOLLOW)?, find(task, to.0, to.1, !FOLLOW)?);
    let node = from.existing()?;
    if from.name == "." || to.name == "." {
        return Err(Errno::EBUSY);
    }
    let inside = alloc::format!("{}/{}/", from.parent.path, from.name);
    if alloc::format!("{}/", to.parent.path).starts_with(&inside) {
        return Err(Errno::EINVAL);
    }
    if let Some(there) = &to.node {
        match (&there.content, node.kind()) {
            (Content::Directory(names), Kind::Directory) if names.lock().entries.is_empty() => {}
            (Content::Directory(_), Kind::Directory) => return Err(Errno::ENOTEMPTY),
            (Content::Directory(_), _) => return Err(Errno::EISDIR),
            (_, Kind::Directory) => return Err(Errno::ENOTDIR),
            _ if Arc::ptr_eq(there, &node) => return Ok(0),
            _ => {}
        }
    }
    let (source, target) = (from.parent.node.names()?, to.parent.node.names()?);
    let moved = source.lock().entries.remove(&from.name).ok_or(Errno::ENOENT)?;
    if let Content::Directory(names) = &moved.content {
        names.lock().parent = Arc::downgrade(&to.parent.node);
    }
    let replaced = target.lock().entries.insert(to.name.clone(), moved);
    drop(replaced);
    Ok(0)
}

/// `renameat2`: without any of its flags, as `renameat`.
pub fn renameat2(call: &mut Arguments<'_>) -> Outcome {
    if call.value(4) != 0 { Err(Errno::EINVAL) } else { renameat(call) }
}

/// `renameat`
pub fn renameat(call: &mut Arguments<'_>) -> Outcome {
    rename_at(call.task, (call.value(0), call.address(1)), (call.value(2), call.address(3)))
}

/// `rename`
#[cfg(target_arch = "x86_64")]
pub fn rename(call: &mut Arguments<'_>) -> Outcome {
    rename_at(call.task, (HERE, call.address(0)), (HERE, call.address(1)))
}

fn link_at(task: &Task, from: (u64, UserAddress), to: (u64, UserAddress)) -> Outcome {
    let node = find(task, from.0, from.1, !FOLLOW)?.existing()?;
    if node.kind() == Kind::Directory {
        return Err(Errno::EPERM);
    }
    insert(&find(task, to.0, to.1, !FOLLOW)?, node.clone())?;
    node.meta.lock().links += 1;
    Ok(0)
}

/// `linkat`
pub fn linkat(call: &mut Arguments<'_>) -> Outcome {
    link_at(call.task, (call.value(0), call.address(1)), (call.value(2), call.address(3)))
}

/// `link`
#[cfg(target_arch = "x86_64")]
pub fn link(call: &mut Arguments<'_>) -> Outcome {
    link_at(call.task, (HERE, call.address(0)), (HERE, call.address(1)))
}

fn make_link(task: &Task, target: UserAddress, directory: u64, at: UserAddress) -> Outcome {
    let target = text(task, target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    insert(&find(task, directory, at, !FOLLOW)?, Node::new(0o777, Content::Link(target)))
}

/// `symlinkat`
pub fn symlinkat(call: &mut Arguments<'_>) -> Outcome {
    make_link(call.task, call.address(0), call.value(1), call.address(2))
}

/// `symlink`
#[cfg(target_arch = "x86_64")]
pub fn symlink(call: &mut Arguments<'_>) -> Outcome {
    make_link(call.task, call.address(0), HERE, call.address(1))
}
