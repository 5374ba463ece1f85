//! `ioctl`: the terminal's settings, and how much there is to read.

use super::Arguments;
use super::files::file;
use crate::program::errno::{Errno, Outcome};
use crate::program::files::node::Device;
use crate::program::files::{Object, terminal};
use linux_raw_sys::general::O_NONBLOCK;
use linux_raw_sys::ioctl::{
    FIONBIO, FIONREAD, TCGETS, TCSETS, TCSETSF, TCSETSW, TIOCGPGRP, TIOCGWINSZ, TIOCSCTTY,
    TIOCSPGRP,
};

/// Rows and columns of a terminal that nobody can ask.
const WINDOW: [u16; 4] = [24, 80, 0, 0];

/// `ioctl`
pub fn ioctl(call: &mut Arguments<'_>) -> Outcome {
    let file = file(call.task, call.value(0))?;
    let memory = call.task.process.memory();
    let at = call.address(2);
    match call.value(1) as u32 {
        FIONREAD => {
            let Object::Pipe(end) = &file.object else { return Err(Errno::ENOTTY) };
            memory.write(at, &(end.len() as u32).to_le_bytes())?;
            return Ok(0);
        }
        FIONBIO => {
            let on = memory.read_u32(at)? != 0;
            file.set_flags(if on { file.flags() | O_NONBLOCK } else { file.flags() & !O_NONBLOCK });
            return Ok(0);
        }
        #[cfg(feature = "vulnerable")]
        command if file.device() == Some(Device::Vulnerable) => {
            return crate::program::files::vulnerable::control(&memory, command, at).map(|()| 0);
        }
        _ if file.device() != Some(Device::Terminal) => return Err(Errno::ENOTTY),
        TCGETS => memory.write(at, &terminal::settings())?,
        TCSETS | TCSETSW | TCSETSF => {
            let mut settings = [0; terminal::SETTINGS];
            memory.read(at, &mut settings)?;
            terminal::set_settings(&settings);
        }
        TIOCGPGRP => memory.write(at, &terminal::foreground().to_le_bytes())?,
        TIOCSPGRP => terminal::set_foreground(memory.read_u32(at)?),
        TIOCGWINSZ => memory.write(at, WINDOW.map(u16::to_le_bytes).as_flattened())?,
        TIOCSCTTY => {}
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}
