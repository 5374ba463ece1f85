//! Calls that ask what there is.

use super::Arguments;
use super::files::file;
use super::paths::{FOLLOW, HERE, base, find, text};
use super::words::Words;
use crate::memory::boot::PAGE_SIZE;
use crate::program::errno::{Errno, Outcome};
use crate::program::files::node::{Kind, Node};
use crate::program::files::proc::memory_pages;
use crate::program::files::{Object, OpenFile, tree};
use crate::program::memory::UserAddress;
use crate::program::task::Task;
use alloc::vec::Vec;
use core::time::Duration;
use linux_raw_sys::general::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW};

struct About {
    number: u64,
    mode: u32,
    links: u32,
    owner: (u32, u32),
    device: u64,
    bytes: u64,
    modified: Duration,
}

impl About {
    fn node(node: &Node) -> Self {
        let meta = *node.meta.lock();
        Self {
            number: node.number,
            mode: node.mode(),
            links: node.links(),
            owner: (meta.user, meta.group),
            device: node.device_number(),
            bytes: node.len(),
            modified: meta.modified,
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
        Self {
            number: 1,
            mode,
            links: 1,
            owner: (0, 0),
            device: 0,
            bytes,
            modified: Duration::ZERO,
        }
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
            words.u64(self.modified.as_secs()).u64(self.modified.subsec_nanos().into());
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
            words.u64(self.modified.as_secs()).u32(self.modified.subsec_nanos()).u32(0);
        }
        words.u32((self.device >> 8) as u32).u32(self.device as u32 & 0xff).u32(0).u32(1);
        words.0.resize(256, 0);
        words.0
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
    let found = tree::find(&task.process.root(), &base(task, directory, &path)?, &path, follow)?;
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
