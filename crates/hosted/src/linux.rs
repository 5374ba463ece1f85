//! The host kernel's own fork and munmap of the same mapping: what a baseline is held against.

use std::io;
use std::ptr::NonNull;

use crate::arena::HOST_PAGE;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use rustix::process::{Pid, WaitOptions};

use crate::clock;

const HUGE_BYTES: usize = 2 << 20;

/// An anonymous private mapping of this process, every page touched and mapped by PTEs.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    /// Maps and touches `pages` pages, in folios of 4 KiB or, with `huge`, of 2 MiB.
    ///
    /// # Errors
    ///
    /// What the kernel says; with `huge`, [`io::ErrorKind::Unsupported`] if it has no transparent huge pages for us.
    pub fn populated(pages: usize, huge: bool) -> io::Result<Mapping> {
        let bytes = pages * HOST_PAGE;
        // One more, so that an aligned range of the wanted size lies inside.
        let reserved = bytes + HUGE_BYTES;
        // SAFETY: a new private mapping at an address the kernel chooses touches no memory of ours.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                reserved,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?
        .cast::<u8>();
        let lead = start.align_offset(HUGE_BYTES);
        // SAFETY: `lead` is less than 2 MiB, so the address is inside the mapping; what is cut off was just mapped and is unused.
        let address = unsafe {
            let aligned = start.add(lead);
            if lead > 0 {
                rustix::mm::munmap(start.cast(), lead)?;
            }
            rustix::mm::munmap(aligned.add(bytes).cast(), HUGE_BYTES - lead)?;
            aligned
        };
        let address =
            NonNull::new(address).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        let mapping = Mapping { address, bytes };
        mapping.prefer_huge(huge)?;
        mapping.touch();
        if huge {
            mapping.require_huge()?;
            mapping.split_block_entries()?;
        }
        Ok(mapping)
    }

    /// Forks and returns how long that took in the parent, in nanoseconds. The child exits at once.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn time_fork(&self) -> io::Result<u64> {
        let start = clock::thread_ns();
        // SAFETY: the child makes one system call, `_exit`, and returns to nothing of ours.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: ends the process without running anything else.
            unsafe { libc::_exit(0) };
        }
        let ns = clock::thread_ns() - start;
        let child = Pid::from_raw(pid).ok_or_else(io::Error::last_os_error)?;
        rustix::process::waitpid(Some(child), WaitOptions::empty())?;
        Ok(ns)
    }

    /// Unmaps it and returns how long that took, in nanoseconds.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn time_munmap(self) -> io::Result<u64> {
        let start = clock::thread_ns();
        let unmapped = self.unmap();
        let ns = clock::thread_ns() - start;
        std::mem::forget(self);
        unmapped.map(|()| ns)
    }

    fn touch(&self) {
        for offset in (0..self.bytes).step_by(HOST_PAGE) {
            // SAFETY: inside the mapping, which is writable and nobody else's.
            unsafe { self.address.add(offset).write_volatile(1) };
        }
    }

    #[cfg(target_os = "linux")]
    fn prefer_huge(&self, huge: bool) -> io::Result<()> {
        use rustix::mm::Advice;
        let advice = if huge { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
        // SAFETY: the range is this mapping; both advices change only how it is backed.
        unsafe { rustix::mm::madvise(self.address.as_ptr().cast(), self.bytes, advice)? };
        Ok(())
    }

    /// Other kernels have no transparent huge pages to ask for, and so none to ask against.
    #[cfg(not(target_os = "linux"))]
    fn prefer_huge(&self, huge: bool) -> io::Result<()> {
        match huge {
            true => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "transparent huge pages are Linux's",
            )),
            false => Ok(()),
        }
    }

    /// Blocks of 2 MiB that the kernel gave must be at least half of what was asked for.
    fn require_huge(&self) -> io::Result<()> {
        let smaps = std::fs::read_to_string("/proc/self/smaps_rollup")?;
        let huge_kib = smaps
            .lines()
            .find_map(|line| {
                line.strip_prefix("AnonHugePages:")?
                    .trim()
                    .strip_suffix("kB")?
                    .trim()
                    .parse::<usize>()
                    .ok()
            })
            .unwrap_or(0);
        if huge_kib * 1024 < self.bytes / 2 {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel gave no transparent huge pages",
            ));
        }
        Ok(())
    }

    /// Makes the kernel map every 2 MiB folio by PTEs, by changing the protection of one of its pages and changing it back.
    fn split_block_entries(&self) -> io::Result<()> {
        let read = MprotectFlags::READ;
        for offset in (0..self.bytes).step_by(HUGE_BYTES) {
            for protection in [read, read | MprotectFlags::WRITE] {
                // SAFETY: one page inside the mapping, which nobody else uses; it ends writable again.
                unsafe {
                    rustix::mm::mprotect(
                        self.address.add(offset).as_ptr().cast(),
                        HOST_PAGE,
                        protection,
                    )?;
                }
            }
        }
        // The write faults that the entries would still take belong to the set-up.
        self.touch();
        Ok(())
    }

    fn unmap(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping, whose value is gone after this.
        unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.bytes)? };
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Nothing is left to do with a range the kernel refuses to unmap.
        let _ = self.unmap();
    }
}
