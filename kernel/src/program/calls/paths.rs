//! Calls on paths: opening, asking about, making, removing and renaming what is in the tree.

use super::Arguments;
use super::files::file;
use crate::memory::boot::PAGE_SIZE;
use crate::program::errno::{Errno, Outcome};
use crate::program::files::node::{Content, Kind, Node};
use crate::program::files::proc::memory_pages;
use crate::program::files::tree::{self, Found, Place};
use crate::program::files::{Object, OpenFile};
use crate::program::memory::UserAddress;
use crate::program::task::Task;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_NOFOLLOW, O_ACCMODE, O_CLOEXEC, O_CREAT,
    O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_TRUNC,
};

const FOLLOW: bool = true;
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
fn base(task: &Task, number: u64, path: &str) -> Outcome<Place> {
    if number as i32 == AT_FDCWD || path.starts_with('/') {
        return Ok(task.process.place.lock().clone());
    }
    let file = file(task, number)?;
    let node = file.node().map_err(|_| Errno::ENOTDIR)?.clone();
    let path = if file.path == "/" { String::new() } else { file.path.clone() };
    Ok(Place { node, path })
}

fn find(task: &Task, directory: u64, at: UserAddress, follow: bool) -> Outcome<Found> {
    let path = text(task, at)?;
    tree::find(task.process.root(), &base(task, directory, &path)?, &path, follow)
}

const HERE: u64 = AT_FDCWD as u32 as u64;

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
    use linux_raw_sys::general::O_WRONLY;
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
        Content::Proc(_) if writes => return Err(Errno::EACCES),
        Content::Proc(proc) if node.kind() == Kind::File => Object::Text(proc.text()?),
        _ => Object::Node(node),
    };
    let file = OpenFile::new(object, path, flags & !(O_CREAT | O_EXCL | O_TRUNC | O_CLOEXEC));
    task.process.descriptors.lock().add(file, 0, flags & O_CLOEXEC != 0)
}

/// Puts a node where a path leads to nothing.
fn insert(found: &Found, node: Arc<Node>) -> Outcome {
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

struct About {
    number: u64,
    mode: u32,
    links: u32,
    owner: (u32, u32),
    device: u64,
    bytes: u64,
    modified_s: u64,
}

impl About {
    fn node(node: &Node) -> Self {
        let meta = *node.meta.lock();
        Self {
            number: node.number,
            mode: node.mode(),
            links: meta.links,
            owner: (meta.user, meta.group),
            device: node.device_number(),
            bytes: node.len(),
            modified_s: meta.modified_s,
        }
    }

    fn file(file: &OpenFile) -> Self {
        match &file.object {
            Object::Node(node) => Self::node(node),
            Object::Pipe(_) => Self::other(Kind::Pipe as u32 | 0o600, 0),
            Object::Text(text) => Self::other(Kind::File as u32 | 0o444, text.len() as u64),
        }
    }

    fn other(mode: u32, bytes: u64) -> Self {
        Self { number: 1, mode, links: 1, owner: (0, 0), device: 0, bytes, modified_s: 0 }
    }

    /// As `stat` has it.
    fn stat(&self) -> Vec<u8> {
        const BLOCK: u64 = 512;
        let mut words = Words::default();
        words.u64(1).u64(self.number);
        #[cfg(target_arch = "x86_64")]
        words
            .u64(self.links.into())
            .u32(self.mode)
            .u32(self.owner.0)
            .u32(self.owner.1)
            .u32(0)
            .u64(self.device)
            .u64(self.bytes)
            .u64(PAGE_SIZE);
        #[cfg(target_arch = "aarch64")]
        words
            .u32(self.mode)
            .u32(self.links)
            .u32(self.owner.0)
            .u32(self.owner.1)
            .u64(self.device)
            .u64(0)
            .u64(self.bytes)
            .u32(PAGE_SIZE as u32)
            .u32(0);
        words.u64(self.bytes.div_ceil(BLOCK));
        for _ in 0..3 {
            words.u64(self.modified_s).u64(0);
        }
        #[cfg(target_arch = "x86_64")]
        words.u64(0).u64(0).u64(0);
        #[cfg(target_arch = "aarch64")]
        words.u32(0).u32(0);
        words.0
    }

    /// As `statx` has it.
    fn statx(&self) -> Vec<u8> {
        const BASIC: u32 = 0x7ff;
        let mut words = Words::default();
        words
            .u32(BASIC)
            .u32(PAGE_SIZE as u32)
            .u64(0)
            .u32(self.links)
            .u32(self.owner.0)
            .u32(self.owner.1)
            .u32(self.mode & 0xffff);
        words.u64(self.number).u64(self.bytes).u64(self.bytes.div_ceil(512)).u64(0);
        for _ in 0..4 {
            words.u64(self.modified_s).u64(0);
        }
        words.u32((self.device >> 8) as u32).u32(self.device as u32 & 0xff).u32(0).u32(1);
        words.0.resize(256, 0);
        words.0
    }
}

/// Bytes of a structure, field by field.
#[derive(Default)]
pub struct Words(pub Vec<u8>);

impl Words {
    /// Adds a field.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds a field.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
}

fn about(task: &Task, directory: u64, at: UserAddress, flags: u32) -> Outcome<About> {
    let path = text(task, at)?;
    if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        if directory as i32 == AT_FDCWD {
            return Ok(About::node(&task.process.place.lock().node));
        }
        return Ok(About::file(&*file(task, directory)?));
    }
    let follow = flags & AT_SYMLINK_NOFOLLOW == 0;
    let found = tree::find(task.process.root(), &base(task, directory, &path)?, &path, follow)?;
    Ok(About::node(&*found.existing()?))
}

fn tell(task: &Task, about: &About, to: UserAddress) -> Outcome {
    task.process.memory().write(to, &about.stat()).map(|()| 0)
}

/// `newfstatat`
pub fn newfstatat(call: &mut Arguments<'_>) -> Outcome {
    let about = about(call.task, call.value(0), call.address(1), call.value(3) as u32)?;
    tell(call.task, &about, call.address(2))
}

/// `stat`
#[cfg(target_arch = "x86_64")]
pub fn stat(call: &mut Arguments<'_>) -> Outcome {
    let about = about(call.task, HERE, call.address(0), 0)?;
    tell(call.task, &about, call.address(1))
}

/// `lstat`
#[cfg(target_arch = "x86_64")]
pub fn lstat(call: &mut Arguments<'_>) -> Outcome {
    let about = about(call.task, HERE, call.address(0), AT_SYMLINK_NOFOLLOW)?;
    tell(call.task, &about, call.address(1))
}

/// `fstat`
pub fn fstat(call: &mut Arguments<'_>) -> Outcome {
    let about = About::file(&*file(call.task, call.value(0))?);
    tell(call.task, &about, call.address(1))
}

/// `statx`
pub fn statx(call: &mut Arguments<'_>) -> Outcome {
    let about = about(call.task, call.value(0), call.address(1), call.value(2) as u32)?;
    call.task.process.memory().write(call.address(4), &about.statx()).map(|()| 0)
}

fn tell_of_all(task: &Task, to: UserAddress) -> Outcome {
    const TMPFS: u64 = 0x0102_1994;
    let (free, all) = memory_pages();
    let mut words = Words::default();
    words
        .u64(TMPFS)
        .u64(PAGE_SIZE)
        .u64(all)
        .u64(free)
        .u64(free)
        .u64(0)
        .u64(0)
        .u64(0)
        .u64(255)
        .u64(PAGE_SIZE);
    words.0.resize(120, 0);
    task.process.memory().write(to, &words.0).map(|()| 0)
}

/// `statfs`
pub fn statfs(call: &mut Arguments<'_>) -> Outcome {
    find(call.task, HERE, call.address(0), FOLLOW)?.existing()?;
    tell_of_all(call.task, call.address(1))
}

/// `fstatfs`
pub fn fstatfs(call: &mut Arguments<'_>) -> Outcome {
    file(call.task, call.value(0))?;
    tell_of_all(call.task, call.address(1))
}

fn may(task: &Task, directory: u64, at: UserAddress, wanted: u64) -> Outcome {
    const EXECUTE: u64 = 1;
    let node = find(task, directory, at, FOLLOW)?.existing()?;
    let executable = node.kind() == Kind::Directory || node.meta.lock().permissions & 0o111 != 0;
    if wanted & EXECUTE != 0 && !executable { Err(Errno::EACCES) } else { Ok(0) }
}

/// `faccessat`
pub fn faccessat(call: &mut Arguments<'_>) -> Outcome {
    may(call.task, call.value(0), call.address(1), call.value(2))
}

/// `access`
#[cfg(target_arch = "x86_64")]
pub fn access(call: &mut Arguments<'_>) -> Outcome {
    may(call.task, HERE, call.address(0), call.value(1))
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

fn set_permissions(node: &Node, mode: u64) -> Outcome {
    node.meta.lock().permissions = mode as u32 & 0o7777;
    Ok(0)
}

/// `fchmodat`
pub fn fchmodat(call: &mut Arguments<'_>) -> Outcome {
    set_permissions(
        &*find(call.task, call.value(0), call.address(1), FOLLOW)?.existing()?,
        call.value(2),
    )
}

/// `fchmod`
pub fn fchmod(call: &mut Arguments<'_>) -> Outcome {
    set_permissions(file(call.task, call.value(0))?.node()?, call.value(1))
}

/// `chmod`
#[cfg(target_arch = "x86_64")]
pub fn chmod(call: &mut Arguments<'_>) -> Outcome {
    set_permissions(&*find(call.task, HERE, call.address(0), FOLLOW)?.existing()?, call.value(1))
}

/// An owner or group of -1 stays as it is.
fn set_owner(node: &Node, user: u64, group: u64) -> Outcome {
    let mut meta = node.meta.lock();
    let or = |value: u64, old| if value as u32 == u32::MAX { old } else { value as u32 };
    (meta.user, meta.group) = (or(user, meta.user), or(group, meta.group));
    Ok(0)
}

/// `fchownat`
pub fn fchownat(call: &mut Arguments<'_>) -> Outcome {
    let follow = call.value(4) as u32 & AT_SYMLINK_NOFOLLOW == 0;
    let node = find(call.task, call.value(0), call.address(1), follow)?.existing()?;
    set_owner(&node, call.value(2), call.value(3))
}

/// `fchown`
pub fn fchown(call: &mut Arguments<'_>) -> Outcome {
    set_owner(file(call.task, call.value(0))?.node()?, call.value(1), call.value(2))
}

/// `chown` and `lchown`
#[cfg(target_arch = "x86_64")]
pub fn chown(call: &mut Arguments<'_>) -> Outcome {
    let node = find(call.task, HERE, call.address(0), FOLLOW)?.existing()?;
    set_owner(&node, call.value(1), call.value(2))
}

/// `utimensat`
pub fn utimensat(call: &mut Arguments<'_>) -> Outcome {
    const NOW: u64 = (1 << 30) - 1;
    const OMIT: u64 = (1 << 30) - 2;
    let node = if call.address(1).is_null() {
        file(call.task, call.value(0))?.node()?.clone()
    } else {
        find(call.task, call.value(0), call.address(1), FOLLOW)?.existing()?
    };
    if call.address(2).is_null() {
        node.touch();
        return Ok(0);
    }
    let memory = call.task.process.memory();
    let modified = call.address(2).offset(16);
    match memory.read_u64(modified.offset(8))? {
        NOW => node.touch(),
        OMIT => {}
        _ => node.meta.lock().modified_s = memory.read_u64(modified)?,
    }
    Ok(0)
}

/// `truncate`
pub fn truncate(call: &mut Arguments<'_>) -> Outcome {
    let node = find(call.task, HERE, call.address(0), FOLLOW)?.existing()?;
    node.data()?.lock().resize(call.value(1))?;
    Ok(0)
}

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
