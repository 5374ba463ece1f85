//! Nodes: files, directories, links and devices. All of them are in memory; what the initramfs holds stays there until it is written.

use crate::program::clock;
use crate::program::errno::{Errno, Outcome};
use crate::program::files::data::Data;
use crate::program::files::pipe::Fifo;
use crate::program::files::proc::Proc;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use spin::Mutex;

/// Bits of `st_mode` that say what a node is.
pub const TYPE_BITS: u32 = 0o170_000;

/// What a node is, as `st_mode` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A pipe.
    Pipe = 0o010_000,
    /// A character device.
    Device = 0o020_000,
    /// A directory.
    Directory = 0o040_000,
    /// A block device.
    Blocks = 0o060_000,
    /// A file.
    File = 0o100_000,
    /// A symbolic link.
    Link = 0o120_000,
}

/// A character device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Takes everything and has nothing.
    Null,
    /// Has zeroes.
    Zero,
    /// Is full.
    Full,
    /// Has random bytes.
    Random,
    /// The terminal.
    Terminal,
    /// The driver with planted faults.
    #[cfg(feature = "vulnerable")]
    Vulnerable,
}

impl Device {
    /// Every device with its name in `/dev`, and its number.
    pub const ALL: &[(Self, &'static str, u64)] = &[
        (Self::Null, "null", 0x103),
        (Self::Zero, "zero", 0x105),
        (Self::Full, "full", 0x107),
        (Self::Random, "urandom", 0x109),
        (Self::Terminal, "console", 0x501),
        (Self::Terminal, "tty", 0x500),
        #[cfg(feature = "vulnerable")]
        (Self::Vulnerable, "vulnerable", 0xa00),
    ];
}

/// What is in a node.
pub enum Content {
    /// Names.
    Directory(Mutex<Directory>),
    /// Bytes.
    File(Mutex<Data>),
    /// The path it leads to.
    Link(String),
    /// A device.
    Device(Device),
    /// A device that nothing drives: its kind and its number.
    Undriven(Kind, u64),
    /// A pipe with a name.
    Fifo(Fifo),
    /// Something of `/proc`.
    Proc(Proc),
}

/// The names in a directory.
pub struct Directory {
    /// What each leads to.
    pub entries: BTreeMap<String, Arc<Node>>,
    /// What `..` leads to; nowhere for the root.
    pub parent: Weak<Node>,
}

/// What is said of a node.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Permission bits.
    pub permissions: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// When it was changed, from 1970 on.
    pub modified: Duration,
    /// Names.
    pub links: u32,
}

/// A node.
pub struct Node {
    /// Its number.
    pub number: u64,
    /// What is said of it.
    pub meta: Mutex<Meta>,
    /// What is in it.
    pub content: Content,
}

static NUMBERS: AtomicU64 = AtomicU64::new(2);

impl Node {
    /// A node of its own.
    pub fn new(permissions: u32, content: Content) -> Arc<Self> {
        let modified = clock::date();
        let meta =
            Meta { permissions: permissions & 0o7777, user: 0, group: 0, modified, links: 1 };
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, meta: Mutex::new(meta), content })
    }

    /// An empty file.
    pub fn file(permissions: u32) -> Arc<Self> {
        Self::new(permissions, Content::File(Mutex::new(Data::empty())))
    }

    /// An empty directory.
    pub fn directory(permissions: u32, parent: Weak<Self>) -> Arc<Self> {
        let directory = Directory { entries: BTreeMap::new(), parent };
        Self::new(permissions, Content::Directory(Mutex::new(directory)))
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match &self.content {
            Content::Directory(_) => Kind::Directory,
            Content::File(_) => Kind::File,
            Content::Link(_) => Kind::Link,
            Content::Device(_) => Kind::Device,
            Content::Undriven(kind, _) => *kind,
            Content::Fifo(_) => Kind::Pipe,
            Content::Proc(proc) => proc.kind(),
        }
    }

    /// Type and permissions.
    pub fn mode(&self) -> u32 {
        self.kind() as u32 | self.meta.lock().permissions
    }

    /// Its names: a directory has its own, `.`, and the `..` of each in it.
    pub fn links(&self) -> u32 {
        let Content::Directory(directory) = &self.content else { return self.meta.lock().links };
        let is_directory = |node: &&Arc<Self>| node.kind() == Kind::Directory;
        2 + directory.lock().entries.values().filter(is_directory).count() as u32
    }

    /// How long it is.
    pub fn len(&self) -> u64 {
        match &self.content {
            Content::File(data) => data.lock().len(),
            Content::Link(target) => target.len() as u64,
            _ => 0,
        }
    }

    /// The number of its device.
    pub fn device_number(&self) -> u64 {
        match self.content {
            Content::Device(device) => {
                Device::ALL.iter().find(|known| known.0 == device).map_or(0, |known| known.2)
            }
            Content::Undriven(_, number) => number,
            _ => 0,
        }
    }

    /// Its names, if it is a directory of the tree.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOTDIR`]; [`Errno::EROFS`] in `/proc`.
    pub fn names(&self) -> Outcome<&Mutex<Directory>> {
        match &self.content {
            Content::Directory(directory) => Ok(directory),
            Content::Proc(_) => Err(Errno::EROFS),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Its bytes, if it is a file.
    ///
    /// # Errors
    ///
    /// [`Errno::EISDIR`], [`Errno::EINVAL`].
    pub fn data(&self) -> Outcome<&Mutex<Data>> {
        match &self.content {
            Content::File(data) => Ok(data),
            Content::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// It was changed just now.
    pub fn touch(&self) {
        self.meta.lock().modified = clock::date();
    }
}
