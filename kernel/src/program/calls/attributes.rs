//! Calls that change what is said of files: permissions, owners, times, length.

use super::Arguments;
use super::files::file;
use super::paths::{FOLLOW, HERE, find};
use super::time;
use crate::program::errno::Outcome;
use crate::program::files::node::Node;
use linux_raw_sys::general::AT_SYMLINK_NOFOLLOW;

fn set_permissions(node: &Node, mode: u64) -> Outcome {
    node.meta.lock().permissions = mode as u32 & 0o7777;
    Ok(0)
}

/// `fchmodat`
pub fn fchmodat(call: &mut Arguments<'_>) -> Outcome {
    set_permissions(
        &*find(call.task, call.value(0), call.address(1), FOLLOW)?.existing()?,
        call.value(2),
    )
}

/// `fchmod`
pub fn fchmod(call: &mut Arguments<'_>) -> Outcome {
    set_permissions(file(call.task, call.value(0))?.node()?, call.value(1))
}

/// `chmod`
#[cfg(target_arch = "x86_64")]
pub fn chmod(call: &mut Arguments<'_>) -> Outcome {
    set_permissions(&*find(call.task, HERE, call.address(0), FOLLOW)?.existing()?, call.value(1))
}

/// An owner or group of -1 stays as it is.
fn set_owner(node: &Node, user: u64, group: u64) -> Outcome {
    let mut meta = node.meta.lock();
    let or = |value: u64, old| if value as u32 == u32::MAX { old } else { value as u32 };
    (meta.user, meta.group) = (or(user, meta.user), or(group, meta.group));
    Ok(0)
}

/// `fchownat`
pub fn fchownat(call: &mut Arguments<'_>) -> Outcome {
    let follow = call.value(4) as u32 & AT_SYMLINK_NOFOLLOW == 0;
    let node = find(call.task, call.value(0), call.address(1), follow)?.existing()?;
    set_owner(&node, call.value(2), call.value(3))
}

/// `fchown`
pub fn fchown(call: &mut Arguments<'_>) -> Outcome {
    set_owner(file(call.task, call.value(0))?.node()?, call.value(1), call.value(2))
}

/// `chown` and `lchown`
#[cfg(target_arch = "x86_64")]
pub fn chown(call: &mut Arguments<'_>) -> Outcome {
    let node = find(call.task, HERE, call.address(0), FOLLOW)?.existing()?;
    set_owner(&node, call.value(1), call.value(2))
}

/// `utimensat`
pub fn utimensat(call: &mut Arguments<'_>) -> Outcome {
    const NOW: u64 = (1 << 30) - 1;
    const OMIT: u64 = (1 << 30) - 2;
    let node = if call.address(1).is_null() {
        file(call.task, call.value(0))?.node()?.clone()
    } else {
        find(call.task, call.value(0), call.address(1), FOLLOW)?.existing()?
    };
    if call.address(2).is_null() {
        node.touch();
        return Ok(0);
    }
    let memory = call.task.process.memory();
    let modified = call.address(2).offset(16);
    match memory.read_u64(modified.offset(8))? {
        NOW => node.touch(),
        OMIT => {}
        _ => {
            let modified = time::optional(call.task, modified)?;
            node.meta.lock().modified = modified.unwrap_or_default();
        }
    }
    Ok(0)
}

/// `truncate`
pub fn truncate(call: &mut Arguments<'_>) -> Outcome {
    let node = find(call.task, HERE, call.address(0), FOLLOW)?.existing()?;
    node.data()?.lock().resize(call.value(1))?;
    Ok(0)
}
