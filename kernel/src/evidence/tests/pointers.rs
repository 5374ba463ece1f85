//! Every pointer of every system call: none reaches what is not the program's.

use crate::arch::layout;
use crate::cpu::stack;
use crate::memory::boot::PAGE_SIZE;
use crate::memory::paging::memories;
use crate::program::calls;
use crate::program::calls::table::{CALLS, Kind};
use crate::program::errno::Errno;
use crate::program::memory::{Access, Memory, Permission, Source, USER_END, UserAddress};
use crate::{ensure, kernel_test};
use alloc::format;

/// Addresses that no program may name: the kernel's half at its start, a page table in the linear map and behind its alias, a guard page,
/// code, no address at all, and the last byte there is.
fn forbidden() -> impl Iterator<Item = u64> {
    let table = layout::linear(memories().paging().kernel().frame()) as u64;
    // One that is translated in windows alone has addresses that are also programs', where they are memory of theirs.
    let alias = layout::alias().wrapping_add(table - layout::LINEAR_MAP);
    let alias = Some(alias).filter(|&alias| alias >= USER_END);
    let code = forbidden as *const () as u64;
    [USER_END, !0 << 47, table, stack::some_guard() as u64, code, u64::MAX].into_iter().chain(alias)
}

kernel_test! {
    /// A bad pointer is refused for each argument that is one, by the table alone: whatever the other arguments say, nothing is looked at.
    fn bad_pointers_are_refused_in_every_call() {
        let mut pointers = 0;
        for call in CALLS {
            for (place, kind) in call.arguments.iter().enumerate() {
                let mut values = [0; 6];
                match *kind {
                    Kind::Value => continue,
                    Kind::Text | Kind::Bytes(_) => {}
                    Kind::Counted(_, count) => values[count] = 1,
                }
                pointers += 1;
                for address in forbidden() {
                    values[place] = address;
                    let refused = calls::check(call, &values);
                    ensure!(refused == Err(Errno::EFAULT), "{} {place} {address:#x}: {refused:?}", call.name);
                }
                // From the program's last byte into what is behind.
                if let Kind::Bytes(2..) = kind {
                    values[place] = USER_END - 1;
                    ensure!(calls::check(call, &values) == Err(Errno::EFAULT), "{} {place}: over the end", call.name);
                }
            }
        }
        ensure!(pointers > CALLS.len() / 2, "only {pointers} pointers in the table");
    }

    /// The copies themselves, which are all that follows a pointer, refuse the same; and what is not mapped, or not for this.
    fn copies_reach_only_the_programs_memory() {
        let failed = |errno: Errno| format!("error {}", errno.0);
        let memory = Memory::new().map_err(failed)?;
        let data = memory.map(0, 2 * PAGE_SIZE, Permission::DATA, Source::Zeroes).map_err(failed)?;
        let constants = Permission { write: false, ..Permission::DATA };
        let fixed = memory.map(0, PAGE_SIZE, constants, Source::Zeroes).map_err(failed)?;
        let nothing = Permission { any: false, write: false, execute: false };
        let none = memory.map(0, PAGE_SIZE, nothing, Source::Zeroes).map_err(failed)?;
        for address in forbidden().chain([0, 8, none, data + 2 * PAGE_SIZE, data.wrapping_sub(1 << 30)]) {
            let (mut word, at) = ([0; 8], UserAddress(address));
            ensure!(memory.read(at, &mut word) == Err(Errno::EFAULT), "read {address:#x}");
            ensure!(memory.write(at, &word) == Err(Errno::EFAULT), "wrote {address:#x}");
            ensure!(memory.load_word(UserAddress(address & !3)) == Err(Errno::EFAULT), "loaded {address:#x}");
        }
        ensure!(memory.write(UserAddress(fixed), &[1]) == Err(Errno::EFAULT), "wrote what is constant");
        // And what is the program's is reached, over the end of a page too.
        let over = UserAddress(data + PAGE_SIZE - 2);
        memory.write(over, &[1, 2, 3, 4]).map_err(failed)?;
        let mut back = [0; 4];
        memory.read(over, &mut back).map_err(failed)?;
        ensure!(back == [1, 2, 3, 4], "{back:?}");
        ensure!(memory.fault(data, Access::Execute).is_err(), "data may be run");
    }
}
