//! Calls on memory.

use super::Arguments;
use super::files::file;
use super::paths::text;
use crate::memory::boot::PAGE_SIZE;
use crate::program::errno::{Errno, Outcome};
use crate::program::files::node::{Device, Node};
use crate::program::files::{Object, OpenFile};
use crate::program::memory::{Pages, Permission, Source};
use alloc::sync::Arc;
use kpkeys_mm::OnFork;
use linux_raw_sys::general::{
    MADV_COLD, MADV_DODUMP, MADV_DOFORK, MADV_DONTDUMP, MADV_DONTFORK, MADV_DONTNEED, MADV_FREE,
    MADV_HUGEPAGE, MADV_KEEPONFORK, MADV_NOHUGEPAGE, MADV_NORMAL, MADV_PAGEOUT, MADV_RANDOM,
    MADV_SEQUENTIAL, MADV_WILLNEED, MADV_WIPEONFORK, MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE,
    MAP_POPULATE, MAP_SHARED, MAP_TYPE, MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_EXEC, MFD_NOEXEC_SEAL,
    MREMAP_FIXED, MREMAP_MAYMOVE, O_ACCMODE, O_RDWR, O_WRONLY, PROT_EXEC, PROT_READ, PROT_WRITE,
};

fn permission(bits: u64) -> Permission {
    let has = |bit: u32| bits & u64::from(bit) != 0;
    Permission {
        any: has(PROT_READ) || has(PROT_WRITE) || has(PROT_EXEC),
        write: has(PROT_WRITE),
        execute: has(PROT_EXEC),
    }
}

/// What a mapping of a file shows.
fn source_of_file(call: &Arguments<'_>, allows: Permission, is_shared: bool) -> Outcome<Source> {
    let offset = call.value(5);
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let file = file(call.task, call.value(4))?;
    #[cfg(feature = "vulnerable")]
    if file.device() == Some(Device::Vulnerable) {
        let buffer = crate::program::files::vulnerable::pages_of(offset / PAGE_SIZE)?;
        return Ok(Source::Shared(buffer, 0));
    }
    let access = file.flags() & O_ACCMODE;
    if access == O_WRONLY || is_shared && allows.write && access != O_RDWR {
        return Err(Errno::EACCES);
    }
    if file.device() == Some(Device::Zero) {
        return zeroes(call.value(1), is_shared);
    }
    let data = file.node().and_then(|node| node.data()).map_err(|_| Errno::ENODEV)?;
    let first = (offset / PAGE_SIZE) as usize;
    let mut data = data.lock();
    // A shared mapping that may not be written now may be later.
    if is_shared && access == O_RDWR {
        Ok(Source::Shared(data.own_pages()?, first))
    } else if is_shared {
        Ok(Source::Shared(data.pages()?, first))
    } else {
        Ok(Source::Private(data.pages()?, first))
    }
}

fn zeroes(bytes: u64, is_shared: bool) -> Outcome<Source> {
    Ok(if is_shared { Source::Shared(Arc::new(Pages::zeroes(bytes)?), 0) } else { Source::Zeroes })
}

/// `mmap`
pub fn mmap(call: &mut Arguments<'_>) -> Outcome {
    let (bytes, flags) = (call.value(1), call.value(3) as u32);
    if bytes == 0 || flags & MAP_TYPE == 0 {
        return Err(Errno::EINVAL);
    }
    let allows = permission(call.value(2));
    let is_shared = flags & MAP_SHARED != 0;
    let source = if flags & MAP_ANONYMOUS != 0 {
        zeroes(bytes, is_shared)?
    } else {
        source_of_file(call, allows, is_shared)?
    };
    let at = place(call, allows, source)?;
    if flags & MAP_POPULATE != 0 {
        // As far as there is memory.
        let _ = call.task.process.memory().fault_in(at, bytes);
    }
    Ok(at)
}

/// Maps where the call wants it.
fn place(call: &Arguments<'_>, allows: Permission, source: Source) -> Outcome {
    let (at, bytes, flags) = (call.value(0), call.value(1), call.value(3) as u32);
    let memory = call.task.process.memory();
    if flags & MAP_FIXED_NOREPLACE == MAP_FIXED_NOREPLACE {
        return match memory.map(at, bytes, allows, source)? {
            found if found == at => Ok(at),
            elsewhere => memory.unmap(elsewhere, bytes).and(Err(Errno::EEXIST)),
        };
    }
    if flags & MAP_FIXED != 0 {
        return memory.map_at(at, bytes, allows, source);
    }
    memory.map(at, bytes, allows, source)
}

/// `munmap`
pub fn munmap(call: &mut Arguments<'_>) -> Outcome {
    call.task.process.memory().unmap(call.value(0), call.value(1)).map(|()| 0)
}

/// `mprotect`
pub fn mprotect(call: &mut Arguments<'_>) -> Outcome {
    if call.value(1) == 0 {
        return Ok(0);
    }
    let memory = call.task.process.memory();
    memory.protect(call.value(0), call.value(1), permission(call.value(2))).map(|()| 0)
}

/// `mremap`
pub fn mremap(call: &mut Arguments<'_>) -> Outcome {
    let flags = call.value(3) as u32;
    if flags & !(MREMAP_MAYMOVE | MREMAP_FIXED) != 0 || call.value(1) == 0 || call.value(2) == 0 {
        return Err(Errno::EINVAL);
    }
    let pages = |bytes: u64| bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM);
    let old = (call.value(0), pages(call.value(1))?);
    let to = (flags & MREMAP_FIXED != 0).then_some(call.value(4));
    let memory = call.task.process.memory();
    memory.remap(old, pages(call.value(2))?, to, flags & MREMAP_MAYMOVE != 0)
}

/// `madvise`
pub fn madvise(call: &mut Arguments<'_>) -> Outcome {
    let (at, bytes) = (call.value(0), call.value(1));
    if bytes == 0 {
        return Ok(0);
    }
    let memory = call.task.process.memory();
    memory.is_mapped(at, bytes)?;
    match call.value(2) as u32 {
        MADV_DONTNEED => memory.discard(at, bytes)?,
        MADV_DONTFORK => memory.set_on_fork(at, bytes, OnFork::Skip)?,
        MADV_WIPEONFORK => memory.set_on_fork(at, bytes, OnFork::Wipe)?,
        MADV_DOFORK | MADV_KEEPONFORK => memory.set_on_fork(at, bytes, OnFork::Copy)?,
        // Nothing takes pages back here, so those that are not needed may as well stay. The rest is advice.
        MADV_FREE | MADV_NORMAL | MADV_RANDOM | MADV_SEQUENTIAL | MADV_WILLNEED | MADV_HUGEPAGE
        | MADV_NOHUGEPAGE | MADV_DONTDUMP | MADV_DODUMP | MADV_COLD | MADV_PAGEOUT => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `msync`: what is written is in the file already.
pub fn msync(call: &mut Arguments<'_>) -> Outcome {
    if call.value(1) == 0 {
        return Ok(0);
    }
    call.task.process.memory().is_mapped(call.value(0), call.value(1)).map(|()| 0)
}

/// `mlock`: pages that are there stay.
pub fn mlock(call: &mut Arguments<'_>) -> Outcome {
    let start = call.value(0) & !(PAGE_SIZE - 1);
    let bytes = call.value(1).checked_add(call.value(0) - start).ok_or(Errno::EINVAL)?;
    if bytes == 0 {
        return Ok(0);
    }
    call.task.process.memory().fault_in(start, bytes).map(|()| 0)
}

/// `mincore`
pub fn mincore(call: &mut Arguments<'_>) -> Outcome {
    const PIECE: u64 = 512;
    let (start, pages) = (call.value(0), call.value(1).div_ceil(PAGE_SIZE));
    let memory = call.task.process.memory();
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    if pages == 0 {
        return Ok(0);
    }
    memory.is_mapped(start, call.value(1))?;
    for first in (0..pages).step_by(PIECE as usize) {
        let mut present = [0; PIECE as usize];
        let present = &mut present[..(pages - first).min(PIECE) as usize];
        memory.are_present(start + first * PAGE_SIZE, present);
        memory.write(call.address(2).offset(first), present)?;
    }
    Ok(0)
}

/// `memfd_create`: a file in no directory. Its name is for people.
pub fn memfd_create(call: &mut Arguments<'_>) -> Outcome {
    const KNOWN: u32 = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC;
    let (name, flags) = (text(call.task, call.address(0))?, call.value(1) as u32);
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let path = alloc::format!("/memfd:{name} (deleted)");
    let file = OpenFile::new(Object::Node(Node::file(0o777)), path, O_RDWR);
    call.task.process.descriptors().lock().add(file, 0, flags & MFD_CLOEXEC != 0)
}

/// `brk`
pub fn brk(call: &mut Arguments<'_>) -> Outcome {
    Ok(call.task.process.memory().move_heap_end(call.value(0)))
}
