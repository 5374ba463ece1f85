//! What programs' memory and files are made of: pages that several see, and what nobody may use.

use crate::memory::boot::PAGE_SIZE;
use crate::memory::paging::memories;
use crate::program::errno::Errno;
use crate::program::files::data::Data;
use crate::program::memory::{Access, Memory, Pages, Permission, Source, UserAddress};
use crate::{ensure, kernel_test};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use kpkeys_pgtable::Machine;

const NOTHING: Permission = Permission { any: false, write: false, execute: false };

fn failed(errno: Errno) -> String {
    format!("error {}", errno.0)
}

fn word(memory: &Memory, at: u64) -> Result<u64, Errno> {
    memory.read_u64(UserAddress(at))
}

kernel_test! {
    /// What is withheld is refused to the program and to the kernel's copies, for a child too, and is there again afterwards.
    fn withheld_memory_is_refused_and_kept() {
        let memory = Memory::new().map_err(failed)?;
        let at = memory.map(0, 4 * PAGE_SIZE, Permission::DATA, Source::Zeroes).map_err(failed)?;
        let second = at + PAGE_SIZE;
        memory.write(UserAddress(second), &7_u64.to_le_bytes()).map_err(failed)?;
        memory.protect(at, 2 * PAGE_SIZE, NOTHING).map_err(failed)?;
        ensure!(memory.fault(second, Access::Read).is_err(), "it may be read");
        ensure!(word(&memory, second) == Err(Errno::EFAULT), "a copy reads it");
        let child = memory.fork().map_err(failed)?;
        ensure!(word(&child, second) == Err(Errno::EFAULT), "a copy reads the child's");
        child.protect(at, 2 * PAGE_SIZE, Permission::DATA).map_err(failed)?;
        ensure!(word(&child, second) == Ok(7), "the child has something else");
        child.write(UserAddress(second), &8_u64.to_le_bytes()).map_err(failed)?;
        memory.protect(at, 2 * PAGE_SIZE, Permission::DATA).map_err(failed)?;
        ensure!(word(&memory, second) == Ok(7), "the parent has something else");
    }

    /// A file, and whoever maps it, see what any of them writes; behind its end there is nothing until it is longer.
    fn files_and_their_mappings_are_one() {
        let mut data = Data::empty();
        data.write(PAGE_SIZE - 4, b"12345678").map_err(failed)?;
        let (one, other) = (Memory::new().map_err(failed)?, Memory::new().map_err(failed)?);
        let map = |memory: &Memory, pages: Arc<Pages>| {
            memory.map(0, 3 * PAGE_SIZE, Permission::DATA, Source::Shared(pages, 0)).map_err(failed)
        };
        let (at, there) = (map(&one, data.own_pages().map_err(failed)?)?, map(&other, data.own_pages().map_err(failed)?)?);
        one.write(UserAddress(at + PAGE_SIZE - 2), b"abcd").map_err(failed)?;
        let mut read = [0; 8];
        other.read(UserAddress(there + PAGE_SIZE - 4), &mut read).map_err(failed)?;
        ensure!(&read == b"12abcd78", "the other mapping has {read:?}");
        ensure!(data.read(PAGE_SIZE - 4, &mut read) == 8 && &read == b"12abcd78", "the file has {read:?}");
        ensure!(one.fault(at + 2 * PAGE_SIZE, Access::Read).is_err(), "there is something behind the end");
        data.resize(3 * PAGE_SIZE).map_err(failed)?;
        ensure!(word(&one, at + 2 * PAGE_SIZE) == Ok(0), "nothing is there, or no zeroes");
        // What is cut off is gone, also for who has it mapped.
        data.resize(PAGE_SIZE - 4).map_err(failed)?;
        data.resize(2 * PAGE_SIZE).map_err(failed)?;
        ensure!(word(&one, at + PAGE_SIZE) == Ok(0), "what was cut off is still there");
    }

    /// Data of files leaves memory for everything else, and says so.
    fn files_leave_memory_for_others() {
        let free = memories().frames().free_frames();
        let least = memories().machine().memory().pages / 20;
        let piece = alloc::vec![1; 1 << 20];
        let mut files = Vec::new();
        let refused = 'full: loop {
            let mut data = Data::empty();
            for piece_number in 0..16 {
                if let Err(error) = data.write(piece_number << 20, &piece) {
                    files.push(data);
                    break 'full error;
                }
            }
            files.push(data);
        };
        ensure!(refused == Errno::ENOSPC, "{}", failed(refused));
        ensure!(memories().frames().free_frames() > least, "{} frames are left", memories().frames().free_frames());
        drop(files);
        let now = memories().frames().free_frames();
        ensure!(now + 16 >= free, "{now} of {free} frames came back");
    }
}
