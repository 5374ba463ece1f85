//! Calls that make pipes.

use super::Arguments;
use crate::program::errno::{Errno, Outcome};
use crate::program::files::{Object, OpenFile, pipe};
use crate::program::memory::UserAddress;
use crate::program::task::Task;
use alloc::string::ToString;
use linux_raw_sys::general::{O_CLOEXEC, O_NONBLOCK, O_RDONLY, O_WRONLY};

fn make_pipe(task: &Task, to: UserAddress, flags: u32) -> Outcome {
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let (reader, writer) = pipe::new()?;
    let open = |end, access| {
        OpenFile::new(Object::Pipe(end), "pipe:".to_string(), access | flags & O_NONBLOCK)
    };
    let (reader, writer) = (open(reader, O_RDONLY), open(writer, O_WRONLY));
    let closes = flags & O_CLOEXEC != 0;
    let shared = task.process.descriptors();
    let mut descriptors = shared.lock();
    let from = descriptors.add(reader, 0, closes)?;
    let to_write = descriptors.add(writer, 0, closes);
    let written = to_write.and_then(|number| {
        drop(descriptors);
        let numbers = [from as u32, number as u32].map(u32::to_le_bytes);
        task.process.memory().write(to, numbers.as_flattened()).inspect_err(|_| {
            // The program never learns the numbers.
            let _ = task.process.descriptors().lock().remove(number);
        })
    });
    if let Err(error) = written {
        let _ = task.process.descriptors().lock().remove(from);
        return Err(error);
    }
    Ok(0)
}

/// `pipe`
#[cfg(target_arch = "x86_64")]
pub fn pipe(call: &mut Arguments<'_>) -> Outcome {
    make_pipe(call.task, call.address(0), 0)
}

/// `pipe2`
pub fn pipe2(call: &mut Arguments<'_>) -> Outcome {
    make_pipe(call.task, call.address(0), call.value(1) as u32)
}
