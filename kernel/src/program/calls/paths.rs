//! Following the paths that calls name, and a process's own place.

use super::Arguments;
use super::files::file;
use crate::program::errno::{Errno, Outcome};
use crate::program::files::node::Kind;
use crate::program::files::tree::{self, Found, Place};
use crate::program::memory::UserAddress;
use crate::program::task::Task;
use alloc::string::String;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::AT_FDCWD;

/// Whether a link at a path's end is followed.
pub(super) const FOLLOW: bool = true;
/// Longest path.
const MAX_PATH: usize = 4096;

/// The path at an address.
///
/// # Errors
///
/// [`Errno::EFAULT`], [`Errno::ENAMETOOLONG`]; [`Errno::ENOENT`] if it is no UTF-8, which no name here has.
pub fn text(task: &Task, at: UserAddress) -> Outcome<String> {
    let bytes = task.process.memory().read_text(at)?;
    if bytes.len() >= MAX_PATH {
        return Err(Errno::ENAMETOOLONG);
    }
    String::from_utf8(bytes).map_err(|_| Errno::ENOENT)
}

/// Where relative paths begin, by a descriptor.
///
/// # Errors
///
/// [`Errno::EBADF`], [`Errno::ENOTDIR`].
pub(super) fn base(task: &Task, number: u64, path: &str) -> Outcome<Place> {
    if number as i32 == AT_FDCWD || path.starts_with('/') {
        return Ok(task.process.place.lock().clone());
    }
    let file = file(task, number)?;
    let node = file.node().map_err(|_| Errno::ENOTDIR)?.clone();
    let path = if file.path == "/" { String::new() } else { file.path.clone() };
    Ok(Place { node, path })
}

/// What the path at an address leads to.
///
/// # Errors
///
/// Linux's for paths.
pub(super) fn find(task: &Task, directory: u64, at: UserAddress, follow: bool) -> Outcome<Found> {
    let path = text(task, at)?;
    tree::find(&task.process.root(), &base(task, directory, &path)?, &path, follow)
}

/// The descriptor that stands for the process's own place.
pub(super) const HERE: u64 = AT_FDCWD as u32 as u64;

fn change_place(task: &Task, place: Place) -> Outcome {
    if place.node.kind() != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    *task.process.place.lock() = place;
    Ok(0)
}

/// `chdir`
pub fn chdir(call: &mut Arguments<'_>) -> Outcome {
    let place = find(call.task, HERE, call.address(0), FOLLOW)?.place()?;
    change_place(call.task, place)
}

/// `fchdir`
pub fn fchdir(call: &mut Arguments<'_>) -> Outcome {
    let place = base(call.task, call.value(0), "")?;
    change_place(call.task, place)
}

/// `chroot`
pub fn chroot(call: &mut Arguments<'_>) -> Outcome {
    let node = find(call.task, HERE, call.address(0), FOLLOW)?.existing()?;
    if node.kind() != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    call.task.process.set_root(node);
    Ok(0)
}

/// `getcwd`
pub fn getcwd(call: &mut Arguments<'_>) -> Outcome {
    let mut path = String::from(call.task.process.place.lock().shown()).into_bytes();
    path.push(0);
    if path.len() as u64 > call.value(1) {
        return Err(Errno::ERANGE);
    }
    call.task.process.memory().write(call.address(0), &path)?;
    Ok(path.len() as u64)
}

/// `umask`
pub fn umask(call: &mut Arguments<'_>) -> Outcome {
    Ok(call.task.process.mask.swap(call.value(0) as u32 & 0o777, Ordering::Relaxed).into())
}
