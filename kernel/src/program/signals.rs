//! Signals: sent as a bit, acted on by the thread itself right before it goes back to its program.

use super::errno::Errno;
use super::memory::UserAddress;
use super::process::Status;
use super::task::{Flow, Task};
use crate::arch::registers::{Extended, Registers};
use crate::sched;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTART, SA_RESTORER, SIGCHLD, SIGCONT, SIGKILL,
    SIGSEGV, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH,
};

/// A signal's number, which is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(u8);

impl Signal {
    /// How many there are.
    pub const COUNT: usize = 64;

    /// The signal with this number, if there is one.
    pub fn new(number: u64) -> Option<Self> {
        (1..=Self::COUNT as u64).contains(&number).then_some(Self(number as u8))
    }

    /// Its number.
    pub fn number(self) -> u64 {
        self.0.into()
    }

    /// Its bit in masks.
    pub fn bit(self) -> u64 {
        1 << (self.0 - 1)
    }

    /// Whether nothing can be done about it.
    fn is_final(self) -> bool {
        [SIGKILL, SIGSTOP].contains(&self.0.into())
    }

    /// Whether it does nothing where nobody asked for it. Stopping and going on do nothing: there is no job control.
    fn is_harmless(self) -> bool {
        [SIGCHLD, SIGCONT, SIGURG, SIGWINCH, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU]
            .contains(&self.0.into())
    }
}

/// What a process does about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// The handler's address, or 0 for the default, or 1 for nothing.
    pub handler: u64,
    /// Flags of `sigaction`.
    pub flags: u64,
    /// Where a handler returns to.
    pub restorer: u64,
    /// What is blocked meanwhile.
    pub mask: u64,
}

impl Action {
    /// The default.
    pub const DEFAULT: Self = Self { handler: 0, flags: 0, restorer: 0, mask: 0 };

    /// Does the default in place of running a handler, which is not there any more.
    pub fn forget_handler(&mut self) {
        let ignored = self.handler == 1;
        *self = Self { handler: ignored.into(), ..Self::DEFAULT };
    }

    /// Whether a signal may be forgotten at once.
    pub fn ignores(&self, signal: Signal) -> bool {
        match self.handler {
            0 => signal.is_harmless(),
            1 => !signal.is_final(),
            _ => false,
        }
    }
}

/// What is known of a signal: the code, and the fields behind it in `siginfo`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Info {
    signal: u64,
    code: i32,
    fields: [u32; 4],
}

impl Info {
    /// From another process.
    pub fn of(signal: Signal) -> Self {
        Self { signal: signal.number(), code: 0, fields: [0; 4] }
    }

    /// A child has ended.
    pub fn child(number: u32, status: Status) -> Self {
        const EXITED: i32 = 1;
        const KILLED: i32 = 2;
        let killed = status.0 & 0x7f;
        let (code, value) = if killed == 0 { (EXITED, status.0 >> 8) } else { (KILLED, killed) };
        Self { signal: SIGCHLD.into(), code, fields: [number, 0, value, 0] }
    }

    /// An access that the program must not make.
    pub fn fault(signal: Signal, code: i32, address: u64) -> Self {
        Self {
            signal: signal.number(),
            code,
            fields: [address as u32, (address >> 32) as u32, 0, 0],
        }
    }

    /// As `siginfo` has it.
    pub fn bytes(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[..4].copy_from_slice(&(self.signal as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_le_bytes());
        for (place, field) in bytes[16..].chunks_exact_mut(4).zip(self.fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }
}

/// The alternate stack of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlternateStack {
    /// Where it begins.
    pub start: u64,
    /// How long it is; zero if there is none.
    pub bytes: u64,
}

impl AlternateStack {
    /// Whether a stack pointer is in it.
    pub fn holds(&self, pointer: u64) -> bool {
        pointer > self.start && pointer - self.start <= self.bytes
    }

    /// Its flags, as `sigaltstack` tells.
    pub fn flags(&self, pointer: u64) -> u32 {
        const ON: u32 = 1;
        const DISABLED: u32 = 2;
        match () {
            () if self.bytes == 0 => DISABLED,
            () if self.holds(pointer) => ON,
            () => 0,
        }
    }
}

/// What a signal's handler is called with; the architecture's registers lay it out.
pub struct SignalFrame {
    /// The signal.
    pub signal: u64,
    /// As `siginfo` has it.
    pub info: [u8; 128],
    /// The mask to go back to.
    pub mask: u64,
    /// The alternate stack: start, flags, bytes.
    pub stack: (u64, u32, u64),
    /// The handler.
    pub handler: u64,
    /// Where it returns to, if the program said so.
    pub restorer: u64,
    /// The end of the stack to use; the program's own if none.
    pub top: Option<u64>,
}

/// A system call that a signal has interrupted: its number and first argument.
pub type Interrupted = Option<(u64, u64)>;

/// Acts on what is pending.
pub fn deliver(task: &Task, registers: &mut Registers, mut interrupted: Interrupted) -> Flow {
    loop {
        if task.is_leaving() {
            return Flow::Leave;
        }
        let Some((signal, info)) = task.take_signal() else { break };
        let action = task.process.actions.lock()[signal.number() as usize];
        if signal.is_final() && !signal.is_harmless()
            || action.handler == 0 && !action.ignores(signal)
        {
            task.process.end(Status::killed(signal));
            return Flow::Leave;
        }
        if action.ignores(signal) {
            continue;
        }
        if let Some((number, first)) = interrupted.take() {
            if action.flags & u64::from(SA_RESTART) != 0 {
                registers.repeat_call(number, first);
            } else {
                registers.set_result(error_value(Errno::EINTR));
            }
        }
        if call_handler(task, registers, signal, &info, &action).is_err() {
            task.process.end(Status(SIGSEGV));
            return Flow::Leave;
        }
        return Flow::Continue;
    }
    if let Some(mask) = task.saved_mask.lock().take() {
        task.mask.store(mask, Ordering::Relaxed);
    }
    if let Some((number, first)) = interrupted {
        registers.repeat_call(number, first);
    }
    Flow::Continue
}

/// An error as a system call returns it.
pub fn error_value(error: Errno) -> u64 {
    (-i64::from(error.0)) as u64
}

fn call_handler(
    task: &Task,
    registers: &mut Registers,
    signal: Signal,
    info: &Info,
    action: &Action,
) -> Result<(), Errno> {
    let mask = task.mask.load(Ordering::Relaxed);
    let stack = *task.alternate_stack.lock();
    let on_alternate = action.flags & u64::from(SA_ONSTACK) != 0
        && stack.bytes > 0
        && !stack.holds(registers.stack());
    let frame = SignalFrame {
        signal: signal.number(),
        info: info.bytes(),
        mask: task.saved_mask.lock().take().unwrap_or(mask),
        stack: (stack.start, stack.flags(registers.stack()), stack.bytes),
        handler: action.handler,
        // Without the flag, the field holds whatever was there.
        restorer: if action.flags & u64::from(SA_RESTORER) != 0 { action.restorer } else { 0 },
        top: on_alternate.then(|| stack.start + stack.bytes),
    };
    let kept = sched::current().change_extended(|extended| {
        extended.as_mut().map_or([0; Extended::KEPT], |extended| extended.put_aside())
    });
    let (bytes, at, inside) = registers.for_handler(&frame, &kept);
    task.process.memory().write(UserAddress(at), &bytes)?;
    *registers = inside;
    let own = if action.flags & u64::from(SA_NODEFER) != 0 { 0 } else { signal.bit() };
    task.set_mask(mask | action.mask | own);
    if action.flags & u64::from(SA_RESETHAND) != 0 {
        task.process.actions.lock()[signal.number() as usize] = Action::DEFAULT;
    }
    Ok(())
}

/// A handler returns: takes back what [`deliver`] kept on the stack. Returns what is in the register of results then.
///
/// # Errors
///
/// [`Errno::EFAULT`] if it is not there.
pub fn return_from_handler(task: &Task, registers: &mut Registers) -> Result<u64, Errno> {
    let memory = task.process.memory();
    let (restored, mask, kept) =
        registers.after_handler(|at, bytes| memory.read(UserAddress(at), bytes))?;
    *registers = restored;
    task.set_mask(mask);
    sched::current().change_extended(|extended| {
        if let Some(extended) = extended.as_mut() {
            extended.set_kept(&kept);
        }
    });
    Ok(registers.result())
}
