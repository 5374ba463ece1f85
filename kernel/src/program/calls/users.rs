//! Who the user is: root, always, in no group besides.

use super::Arguments;
use crate::program::errno::{Errno, Outcome};
use crate::program::process;

/// Calls that ask who the user is: root, in no group besides.
pub fn root(_: &mut Arguments<'_>) -> Outcome {
    Ok(0)
}

/// Calls that ask for all three of a process's users or groups.
pub fn root_thrice(call: &mut Arguments<'_>) -> Outcome {
    let memory = call.task.process.memory();
    for place in 0..3 {
        memory.write(call.address(place), &[0; 4])?;
    }
    Ok(0)
}

/// Calls that change who the user is, by one, two or three numbers: to root, or not at all, which -1 stands for.
fn set(call: &Arguments<'_>, numbers: usize) -> Outcome {
    let is_root = |place| matches!(call.value(place) as u32, 0 | u32::MAX);
    if (0..numbers).all(is_root) { Ok(0) } else { Err(Errno::EINVAL) }
}

/// `setuid` and `setgid`
pub fn set_root(call: &mut Arguments<'_>) -> Outcome {
    if call.value(0) as u32 == 0 { Ok(0) } else { Err(Errno::EINVAL) }
}

/// `setreuid` and `setregid`
pub fn set_two(call: &mut Arguments<'_>) -> Outcome {
    set(call, 2)
}

/// `setresuid` and `setresgid`
pub fn set_three(call: &mut Arguments<'_>) -> Outcome {
    set(call, 3)
}

/// `setgroups`: to none.
pub fn setgroups(call: &mut Arguments<'_>) -> Outcome {
    if call.value(0) as u32 == 0 { Ok(0) } else { Err(Errno::EINVAL) }
}

/// Versions of the structures of capabilities, and how many words of each kind they have.
const CAPABILITIES: [(u32, u64); 3] = [(0x1998_0330, 1), (0x2007_1026, 2), (0x2008_0522, 2)];

/// The words of each kind that a header asks for; tells which version is meant if it is none.
fn capability_words(call: &Arguments<'_>) -> Outcome<u64> {
    let memory = call.task.process.memory();
    let version = memory.read_u32(call.address(0))?;
    if let Some(&(_, words)) = CAPABILITIES.iter().find(|known| known.0 == version) {
        return Ok(words);
    }
    memory.write(call.address(0), &CAPABILITIES[2].0.to_le_bytes())?;
    Err(Errno::EINVAL)
}

/// `capget`
pub fn capget(call: &mut Arguments<'_>) -> Outcome {
    let words = capability_words(call)?;
    let memory = call.task.process.memory();
    let number = memory.read_u32(call.address(0).offset(4))?;
    let sets = match number {
        0 => *call.task.process.capabilities.lock(),
        _ => *process::find(number).ok_or(Errno::ESRCH)?.capabilities.lock(),
    };
    if call.address(1).is_null() {
        return Ok(0);
    }
    for word in 0..words {
        for (place, set) in sets.iter().enumerate() {
            let at = call.address(1).offset(4 * (3 * word + place as u64));
            memory.write(at, &((set >> (32 * word)) as u32).to_le_bytes())?;
        }
    }
    Ok(0)
}

/// `capset`: of itself, and no more than it may have. Nothing here asks for any.
pub fn capset(call: &mut Arguments<'_>) -> Outcome {
    let words = capability_words(call)?;
    let memory = call.task.process.memory();
    let number = memory.read_u32(call.address(0).offset(4))?;
    if number != 0 && number != call.task.number() {
        return Err(Errno::EPERM);
    }
    let mut sets = [0_u64; 3];
    for word in 0..words {
        for (place, set) in sets.iter_mut().enumerate() {
            let at = call.address(1).offset(4 * (3 * word + place as u64));
            *set |= u64::from(memory.read_u32(at)?) << (32 * word);
        }
    }
    let [effective, permitted, _] = sets;
    let mut own = call.task.process.capabilities.lock();
    if effective & !permitted != 0 || permitted & !own[1] != 0 {
        return Err(Errno::EPERM);
    }
    *own = sets;
    Ok(0)
}
