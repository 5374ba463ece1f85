//! Who the user is: root, always, in no group besides.

use super::Arguments;
use crate::program::errno::{Errno, Outcome};

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
