//! Memory that can be mapped more than once.
//!
//! Linux has memory without a name for that, `memfd_create`. Elsewhere (macOS) it is a POSIX shared memory object, whose name goes as soon as it
//! is open: it lasts as long as something maps it, and nobody else can open it.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{null_mut, with_exposed_provenance_mut};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// So many bytes of zeroes.
pub(crate) fn memory(bytes: usize) -> io::Result<OwnedFd> {
    let memory = open()?;
    rustix::fs::ftruncate(&memory, bytes as u64)?;
    Ok(memory)
}

/// What addresses are multiples of: the largest page of any format, so that a frame's offsets are an address's too.
const ALIGN: usize = 64 << 10;

/// So many bytes of this process's own, at a multiple of 64 KiB that the kernel chooses.
pub(crate) fn private(bytes: usize, access: ProtFlags) -> io::Result<*mut c_void> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new private mapping at an address the kernel chooses touches no memory of ours.
    let start = unsafe { mmap_anonymous(null_mut(), bytes + ALIGN, access, flags) }?;
    let lead = start.cast::<u8>().align_offset(ALIGN);
    let found = start.wrapping_byte_add(lead);
    // SAFETY: `lead` is less than 64 KiB, so that both pieces are inside of what was just mapped, beside what is given out.
    unsafe {
        if lead > 0 {
            munmap(start, lead)?;
        }
        munmap(found.wrapping_byte_add(bytes), ALIGN - lead)?;
    }
    Ok(found)
}

/// Maps all of it once more, at a multiple of 64 KiB that the kernel chooses.
pub(crate) fn map(memory: impl AsFd, bytes: usize, access: ProtFlags) -> io::Result<*mut c_void> {
    let room = private(bytes, ProtFlags::empty())?;
    // SAFETY: it replaces what was just mapped for it, which nothing refers to.
    Ok(unsafe { mmap(room, bytes, access, MapFlags::SHARED | MapFlags::FIXED, memory, 0) }?)
}

/// Maps all of it at an address, where nothing is mapped yet.
///
/// # Errors
///
/// [`io::ErrorKind::AlreadyExists`] if something is.
pub(crate) fn map_at(
    address: usize,
    memory: impl AsFd,
    bytes: usize,
    access: ProtFlags,
) -> io::Result<*mut c_void> {
    let wanted = with_exposed_provenance_mut(address);
    // SAFETY: a new shared mapping where nothing is, or at an address the kernel chooses, touches no memory of ours.
    let found = unsafe { mmap(wanted, bytes, access, MapFlags::SHARED | ONLY_THERE, memory, 0) }?;
    if found != wanted {
        // SAFETY: the mapping was just made, and nothing refers to it.
        unsafe { munmap(found, bytes) }?;
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("something is mapped at {address:#x}"),
        ));
    }
    Ok(found)
}

/// What makes `mmap` refuse another address than the one it is given. Where there is no such flag the address is a wish.
#[cfg(target_os = "linux")]
const ONLY_THERE: MapFlags = MapFlags::FIXED_NOREPLACE;
#[cfg(not(target_os = "linux"))]
const ONLY_THERE: MapFlags = MapFlags::empty();

#[cfg(target_os = "linux")]
fn open() -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create("kpkeys-arena", rustix::fs::MemfdFlags::CLOEXEC)?)
}

#[cfg(not(target_os = "linux"))]
fn open() -> io::Result<OwnedFd> {
    by_name::open()
}

/// Also in tests on Linux, which has it as well.
#[cfg(any(test, not(target_os = "linux")))]
mod by_name {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::process;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::io::Errno;
    use rustix::shm::{self, Mode, OFlags};

    static NUMBER: AtomicU32 = AtomicU32::new(0);

    /// A new object, which has no name any more.
    pub(super) fn open() -> io::Result<OwnedFd> {
        loop {
            // At most 31 bytes on macOS.
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("/kpkeys-{}-{number}", process::id());
            let new = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
            match shm::open(name.as_str(), new, Mode::RUSR | Mode::WUSR) {
                // Left behind by a process of this number that was killed in between.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
                Ok(memory) => {
                    shm::unlink(name.as_str())?;
                    return Ok(memory);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const BYTES: usize = 1 << 20;
    const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

    /// What is stored through one mapping is loaded through the other, at another address.
    fn is_one_memory(memory: &OwnedFd) {
        let writable = map(memory, BYTES, READ_WRITE).unwrap();
        let readable = map(memory, BYTES, ProtFlags::READ).unwrap();
        assert_ne!(writable, readable);
        // SAFETY: both are mappings of `BYTES` bytes, aligned to pages, which last until the end of this function.
        let [store, load] = [writable, readable].map(|at| unsafe { &*at.cast::<AtomicU64>() });
        assert_eq!(load.load(Ordering::Relaxed), 0, "it starts as zeroes");
        store.store(0x5eed, Ordering::Relaxed);
        assert_eq!(load.load(Ordering::Relaxed), 0x5eed);
        for mapping in [writable, readable] {
            // SAFETY: nothing refers to it any more.
            unsafe { munmap(mapping, BYTES) }.unwrap();
        }
    }

    #[test]
    fn memory_is_shared_between_its_mappings() {
        is_one_memory(&memory(BYTES).unwrap());
    }

    #[test]
    fn memory_by_name_is_the_same_and_each_is_another() {
        let [one, other] = [(); 2].map(|()| by_name::open().unwrap());
        for memory in [&one, &other] {
            rustix::fs::ftruncate(memory, BYTES as u64).unwrap();
            is_one_memory(memory);
        }
        let mapping = map(&other, BYTES, ProtFlags::READ).unwrap();
        // SAFETY: a mapping of `BYTES` bytes, aligned to pages, which is never unmapped.
        assert_eq!(unsafe { &*mapping.cast::<AtomicU64>() }.load(Ordering::Relaxed), 0x5eed);
    }

    #[test]
    fn an_address_that_is_taken_is_refused() {
        let memory = memory(BYTES).unwrap();
        let taken = map(&memory, BYTES, ProtFlags::READ).unwrap();
        let error = map_at(taken.addr(), &memory, BYTES, ProtFlags::READ).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
        // SAFETY: nothing refers to it.
        unsafe { munmap(taken, BYTES) }.unwrap();
        let free = map_at(taken.addr(), &memory, BYTES, ProtFlags::READ).unwrap();
        assert_eq!(free, taken);
    }
}
