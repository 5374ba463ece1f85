//! Calls on memory.

use super::Arguments;
use super::files::file;
use crate::memory::boot::PAGE_SIZE;
use crate::program::errno::{Errno, Outcome};
use crate::program::memory::{Pages, Permission, Source};
use alloc::sync::Arc;
use kpkeys_mm::OnFork;
use linux_raw_sys::general::{
    MADV_DOFORK, MADV_DONTFORK, MADV_DONTNEED, MADV_FREE, MADV_KEEPONFORK, MADV_WIPEONFORK,
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_SHARED, MAP_SHARED_VALIDATE, MREMAP_FIXED,
    MREMAP_MAYMOVE, PROT_EXEC, PROT_READ, PROT_WRITE,
};

fn permission(bits: u64) -> Permission {
    let has = |bit: u32| bits & u64::from(bit) != 0;
    Permission {
        any: has(PROT_READ) || has(PROT_WRITE) || has(PROT_EXEC),
        write: has(PROT_WRITE),
        execute: has(PROT_EXEC),
    }
}

/// `mmap`
pub fn mmap(call: &mut Arguments<'_>) -> Outcome {
    let (at, bytes, flags) = (call.value(0), call.value(1), call.value(3) as u32);
    let allows = permission(call.value(2));
    let is_shared = flags & (MAP_SHARED | MAP_SHARED_VALIDATE) & MAP_SHARED != 0;
    let source = match (flags & MAP_ANONYMOUS != 0, is_shared) {
        (true, false) => Source::Zeroes,
        (true, true) => Source::Shared(Arc::new(Pages::zeroes(bytes)?), 0),
        (false, _) => {
            let offset = call.value(5);
            if !offset.is_multiple_of(PAGE_SIZE) {
                return Err(Errno::EINVAL);
            }
            let file = file(call.task, call.value(4))?;
            #[cfg(feature = "vulnerable")]
            if file.device() == Some(crate::program::files::node::Device::Vulnerable) {
                use crate::program::files::vulnerable;
                let buffer = vulnerable::pages_of(offset / PAGE_SIZE)?;
                let source = Source::Shared(buffer, 0);
                return call.task.process.memory().map(at, bytes, allows, source);
            }
            let data = file.node().and_then(|node| node.data()).map_err(|_| Errno::ENODEV)?;
            // Writes through a mapping would not be seen by those who read the file.
            if is_shared && allows.write {
                return Err(Errno::ENODEV);
            }
            let (pages, first) = (data.lock().pages()?, (offset / PAGE_SIZE) as usize);
            if is_shared { Source::Shared(pages, first) } else { Source::Private(pages, first) }
        }
    };
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
    if bytes == 0 {
        return Err(Errno::EINVAL);
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
    match call.value(2) as u32 {
        MADV_DONTNEED => memory.discard(at, bytes)?,
        // Nothing takes pages back here, so those that are not needed may as well stay.
        MADV_FREE => {}
        MADV_DONTFORK => memory.set_on_fork(at, bytes, OnFork::Skip)?,
        MADV_WIPEONFORK => memory.set_on_fork(at, bytes, OnFork::Wipe)?,
        MADV_DOFORK | MADV_KEEPONFORK => memory.set_on_fork(at, bytes, OnFork::Copy)?,
        // The rest is advice.
        _ => {}
    }
    Ok(0)
}

/// `brk`
pub fn brk(call: &mut Arguments<'_>) -> Outcome {
    Ok(call.task.process.memory().move_heap_end(call.value(0)))
}
