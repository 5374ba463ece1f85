//! Finding nodes by path, and the tree that an initramfs makes.

use super::data::Data;
use super::node::{Content, Device, Kind, Node, TYPE_BITS};
use super::proc::Proc;
use super::sys;
use crate::program::clock;
use crate::program::errno::{Errno, Outcome};
use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use core::time::Duration;
use kpkeys_program::initramfs::{self, Entry};
use spin::Mutex;

/// Links followed in one path, as Linux.
const MAX_LINKS: usize = 40;
/// Longest name in a directory.
const MAX_NAME: usize = 255;

/// A directory and its path.
#[derive(Clone)]
pub struct Place {
    /// The directory.
    pub node: Arc<Node>,
    /// From the root, without a slash at the end; empty for the root.
    pub path: String,
}

impl Place {
    /// The path as programs are told it.
    pub fn shown(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }
}

/// What a path leads to.
pub struct Found {
    /// The directory that the last name is in.
    pub parent: Place,
    /// The last name: `.` for a path that ends with a directory's own.
    pub name: String,
    /// What is there.
    pub node: Option<Arc<Node>>,
}

impl Found {
    /// What is there.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`].
    pub fn existing(&self) -> Outcome<Arc<Node>> {
        self.node.clone().ok_or(Errno::ENOENT)
    }

    /// It with its path.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`].
    pub fn place(&self) -> Outcome<Place> {
        let node = self.existing()?;
        let path = if self.name == "." {
            self.parent.path.clone()
        } else {
            alloc::format!("{}/{}", self.parent.path, self.name)
        };
        Ok(Place { node, path })
    }
}

/// Follows a path from a directory. The last name need not exist; a link there is followed if `follow`.
///
/// # Errors
///
/// Linux's for paths.
pub fn find(root: &Arc<Node>, from: &Place, path: &str, follow: bool) -> Outcome<Found> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let root = Place { node: root.clone(), path: String::new() };
    let mut place = if path.starts_with('/') { root.clone() } else { from.clone() };
    let mut names: VecDeque<String> = parts(path);
    let must_be_directory = path.ends_with('/');
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name.len() > MAX_NAME {
            return Err(Errno::ENAMETOOLONG);
        }
        if name == ".." {
            place = parent_of(&root, &place);
            continue;
        }
        let is_last = names.is_empty();
        let node = child(&place.node, &name)?;
        let Some(node) = node else {
            return if is_last {
                Ok(Found { parent: place, name, node: None })
            } else {
                Err(Errno::ENOENT)
            };
        };
        if let Some(target) = link_target(&node)
            && (!is_last || follow || must_be_directory)
        {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::ELOOP);
            }
            if target.starts_with('/') {
                place = root.clone();
            }
            for part in parts(&target).into_iter().rev() {
                names.push_front(part);
            }
            continue;
        }
        if is_last {
            if must_be_directory && node.kind() != Kind::Directory {
                return Err(Errno::ENOTDIR);
            }
            return Ok(Found { parent: place, name, node: Some(node) });
        }
        place = Place { node, path: alloc::format!("{}/{name}", place.path) };
    }
    let node = Some(place.node.clone());
    Ok(Found { parent: place, name: ".".to_owned(), node })
}

/// The target of a symbolic link.
pub fn link_target(node: &Node) -> Option<String> {
    match &node.content {
        Content::Link(target) => Some(target.clone()),
        Content::Proc(proc) => proc.target(),
        _ => None,
    }
}

fn parts(path: &str) -> VecDeque<String> {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .map(ToString::to_string)
        .collect()
}

fn child(directory: &Node, name: &str) -> Outcome<Option<Arc<Node>>> {
    match &directory.content {
        Content::Proc(proc) => proc.child(name),
        Content::Directory(names) => Ok(names.lock().entries.get(name).cloned()),
        _ => Err(Errno::ENOTDIR),
    }
}

fn parent_of(root: &Place, place: &Place) -> Place {
    if Arc::ptr_eq(&root.node, &place.node) {
        return root.clone();
    }
    let path = place.path.rsplit_once('/').map_or("", |(before, _)| before);
    let node = match &place.node.content {
        Content::Directory(names) => names.lock().parent.upgrade(),
        // `/proc` and what is below it do not know; the path does.
        _ => find(&root.node, root, if path.is_empty() { "/" } else { path }, true)
            .ok()
            .and_then(|found| found.node),
    };
    match node {
        Some(node) => Place { node, path: path.to_owned() },
        None => root.clone(),
    }
}

/// The tree that an archive makes, with `/dev`, `/proc`, `/sys` and `/tmp`.
///
/// # Errors
///
/// What is wrong with the archive.
pub fn from_archive(archive: &'static [u8]) -> Result<Arc<Node>, initramfs::Error> {
    let root = Node::directory(0o755, Weak::new());
    let mut linked = BTreeMap::new();
    for entry in initramfs::entries(archive) {
        add(&root, &entry?, &mut linked);
    }
    for (path, permissions) in
        [("dev", 0o755), ("dev/shm", 0o1777), ("tmp", 0o1777), ("proc", 0o555)]
    {
        directory_at(&root, path).meta.lock().permissions = permissions;
    }
    let dev = directory_at(&root, "dev");
    for &(device, name, _) in Device::ALL {
        put(&dev, name, Node::new(0o666, Content::Device(device)));
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("random", "urandom"),
    ] {
        put(&dev, name, Node::new(0o777, Content::Link(target.to_owned())));
    }
    put(&root, "proc", Node::new(0o555, Content::Proc(Proc::Root)));
    sys::add(&root);
    Ok(root)
}

fn add(root: &Arc<Node>, entry: &Entry<'static>, linked: &mut BTreeMap<u32, Arc<Node>>) {
    if entry.path.is_empty() {
        return;
    }
    let (parent, name) =
        entry.path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", entry.path));
    let parent = directory_at(root, parent);
    let kind = entry.mode & TYPE_BITS;
    let node = if kind == Kind::Directory as u32 {
        directory_at(&parent, name)
    } else if kind == Kind::Link as u32 {
        let target = String::from_utf8_lossy(entry.data).into_owned();
        Node::new(entry.mode, Content::Link(target))
    } else if kind == Kind::File as u32 {
        // Of a file with several names one has the contents.
        let known = linked.get(&entry.number).filter(|_| entry.links > 1).cloned();
        let node = known.unwrap_or_else(|| {
            Node::new(entry.mode, Content::File(Mutex::new(Data::archive(&[]))))
        });
        if let (Content::File(data), false) = (&node.content, entry.data.is_empty()) {
            *data.lock() = Data::archive(entry.data);
        }
        linked.insert(entry.number, node.clone());
        node
    } else {
        // Devices are the kernel's to make.
        return;
    };
    {
        let mut meta = node.meta.lock();
        meta.permissions = entry.mode & 0o7777;
        (meta.user, meta.group) = (entry.user, entry.group);
        meta.modified = Duration::from_secs(entry.modified_s.into());
        clock::is_behind(entry.modified_s.into());
    }
    put(&parent, name, node);
}

/// The directory at a path below another, made where it is missing.
pub fn directory_at(from: &Arc<Node>, path: &str) -> Arc<Node> {
    path.split('/').filter(|part| !part.is_empty()).fold(from.clone(), |directory, name| {
        let Ok(names) = directory.names() else { return directory };
        let mut names = names.lock();
        let existing =
            names.entries.get(name).filter(|node| node.kind() == Kind::Directory).cloned();
        existing.unwrap_or_else(|| {
            let new = Node::directory(0o755, Arc::downgrade(&directory));
            names.entries.insert(name.to_owned(), new.clone());
            new
        })
    })
}

/// Gives a node a name in a directory.
pub fn put(directory: &Arc<Node>, name: &str, node: Arc<Node>) {
    if let Ok(names) = directory.names() {
        names.lock().entries.insert(name.to_owned(), node);
    }
}
