//! Calls that wait for children.

use super::Arguments;
use crate::program::errno::{Errno, Outcome};
use crate::program::process::{self, End, Process};
use crate::program::signals::Info;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{P_ALL, P_PGID, P_PID, WEXITED, WNOHANG, WNOWAIT};

/// Which children.
#[derive(Clone, Copy)]
enum Which {
    Any,
    Number(u32),
    Group(u32),
}

impl Which {
    fn is(self, child: &Process) -> bool {
        match self {
            Self::Any => true,
            Self::Number(number) => child.number == number,
            Self::Group(group) => child.group.load(Ordering::Relaxed) == group,
        }
    }
}

/// A child that has ended, which is forgotten unless it `stays`; none if there is none yet and the call `never_waits`.
fn ended(
    call: &Arguments<'_>,
    which: Which,
    never_waits: bool,
    stays: bool,
) -> Outcome<Option<End>> {
    let process = &call.task.process;
    let own = process.number;
    call.task.wait(None, || {
        let children: Vec<_> = process::all()
            .into_iter()
            .filter(|child| child.parent.load(Ordering::Relaxed) == own && which.is(child))
            .collect();
        let ended = children.iter().find_map(|child| child.end_of());
        match ended {
            Some(end) if stays => Ok(Some(Some(end))),
            Some(end) => Ok(Some(Some(process.reap(end.number)?))),
            None if children.is_empty() => Err(Errno::ECHILD),
            None if never_waits => Ok(Some(None)),
            None => Ok(None),
        }
    })
}

/// `wait4`
pub fn wait4(call: &mut Arguments<'_>) -> Outcome {
    let own_group = call.task.process.group.load(Ordering::Relaxed);
    let which = match call.signed(0) {
        -1 => Which::Any,
        0 => Which::Group(own_group),
        wanted @ ..0 => Which::Group(-wanted as u32),
        wanted => Which::Number(wanted as u32),
    };
    let never_waits = call.value(2) as u32 & WNOHANG != 0;
    let Some(end) = ended(call, which, never_waits, false)? else { return Ok(0) };
    let memory = call.task.process.memory();
    if !call.address(1).is_null() {
        memory.write(call.address(1), &end.status.0.to_le_bytes())?;
    }
    if !call.address(3).is_null() {
        memory.write(call.address(3), &end.usage.bytes())?;
    }
    Ok(end.number.into())
}

/// `waitid`, for children that end.
pub fn waitid(call: &mut Arguments<'_>) -> Outcome {
    let number = call.value(1) as u32;
    let which = match call.value(0) as u32 {
        P_ALL => Which::Any,
        P_PID => Which::Number(number),
        P_PGID if number == 0 => Which::Group(call.task.process.group.load(Ordering::Relaxed)),
        P_PGID => Which::Group(number),
        _ => return Err(Errno::EINVAL),
    };
    let options = call.value(3) as u32;
    if options & WEXITED == 0 {
        return Err(Errno::EINVAL);
    }
    let found = ended(call, which, options & WNOHANG != 0, options & WNOWAIT != 0)?;
    let memory = call.task.process.memory();
    if !call.address(2).is_null() {
        let info = found.map_or(Info::default(), |end| Info::child(end.number, end.status));
        memory.write(call.address(2), &info.bytes())?;
    }
    if let Some(end) = found
        && !call.address(4).is_null()
    {
        memory.write(call.address(4), &end.usage.bytes())?;
    }
    Ok(0)
}
