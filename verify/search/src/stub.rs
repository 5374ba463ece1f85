//! The emulator's port for debuggers: gdb's remote protocol, as far as a search needs it.
//!
//! The machine stands still whenever a method is called, and again when it returns. Registers are named as the emulator names them.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Why the machine stands still again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// At a breakpoint, or after a step.
    Breakpoint,
    /// It was shut down: a reset, such as after a triple fault.
    Shutdown,
    /// It ran for as long as it was given.
    Time,
}

/// A connection to the port.
pub struct Stub {
    stream: UnixStream,
    pending: Vec<u8>,
    registers: HashMap<String, usize>,
}

/// The longest that the emulator takes to answer while the machine stands still: restoring a snapshot is the longest it does, where others use the CPU too.
const ANSWER: Duration = Duration::from_secs(120);
/// The longest part of a description that is asked for at once: less than the emulator's packets hold, where parts are escaped.
const PART: usize = 0x700;

impl Stub {
    /// Connects to the port, and asks what registers there are.
    pub fn connect(socket: &Path) -> Result<Stub> {
        let stream = UnixStream::connect(socket)?;
        let mut stub = Stub { stream, pending: Vec::new(), registers: HashMap::new() };
        stub.ask("qSupported:xmlRegisters=i386")?;
        let target = stub.description("target.xml")?;
        let mut next = 0;
        for file in target.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let description = without_comments(&stub.description(file)?);
            for register in description.split("<reg ").skip(1) {
                let attribute = |name: &str| {
                    let (_, rest) =
                        register.split('>').next()?.split_once(&format!("{name}=\""))?;
                    rest.split('"').next()
                };
                let number = attribute("regnum").and_then(|number| number.parse().ok());
                next = number.unwrap_or(next) + 1;
                let name = attribute("name").context("a register has a name")?;
                stub.registers.insert(name.to_owned(), next - 1);
            }
        }
        Ok(stub)
    }

    fn description(&mut self, file: &str) -> Result<String> {
        let mut text = String::new();
        loop {
            let at = text.len();
            let part = self.ask(&format!("qXfer:features:read:{file}:{at:x},{PART:x}"))?;
            let (more, part) = part.split_at_checked(1).context("an empty part")?;
            text.push_str(part);
            if more == "l" {
                return Ok(text);
            }
        }
    }

    /// A register of the CPU.
    pub fn register(&mut self, name: &str) -> Result<u64> {
        let number = self.number(name)?;
        let said = self.ask(&format!("p{number:x}"))?;
        let bytes = from_hex(&said).with_context(|| format!("register {name} is `{said}`"))?;
        Ok(bytes.iter().take(8).rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// Changes a register.
    pub fn set_register(&mut self, name: &str, value: u64) -> Result<()> {
        let number = self.number(name)?;
        let bytes: String = value.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        self.must(&format!("P{number:x}={bytes}"))
    }

    fn number(&self, name: &str) -> Result<usize> {
        self.registers.get(name).copied().with_context(|| format!("there is no register {name}"))
    }

    /// Sets a breakpoint.
    pub fn set_breakpoint(&mut self, at: u64) -> Result<()> {
        self.must(&format!("Z1,{at:x},1"))
    }

    /// Takes a breakpoint away.
    pub fn clear_breakpoint(&mut self, at: u64) -> Result<()> {
        self.must(&format!("z1,{at:x},1"))
    }

    /// What stands still while an instruction is executed by [`step`](Self::step), beside interrupts: the clock, or nothing. By a clock of instructions x86-64's steps do
    /// not end where the clock stands and a timer ends their turn, and arm64's where it goes on and an exception was taken (QEMU 7.2).
    pub fn stop_clock_in_steps(&mut self, stop: bool) -> Result<()> {
        self.must(if stop { "Qqemu.sstep=7" } else { "Qqemu.sstep=3" })
    }

    /// Executes one instruction, with interrupts held back.
    pub fn step(&mut self) -> Result<()> {
        self.ask("s").map(drop)
    }

    /// Lets the machine run until something stops it, or for `most`.
    pub fn run(&mut self, most: Duration) -> Result<Stop> {
        self.send("c")?;
        match self.packet(most) {
            Ok(said) => Ok(if said.starts_with("T05") { Stop::Breakpoint } else { Stop::Shutdown }),
            Err(error) if is_timeout(&error) => {
                self.stream.write_all(&[3])?;
                self.packet(ANSWER).context("the emulator does not stop the machine")?;
                Ok(Stop::Time)
            }
            Err(error) => Err(error),
        }
    }

    /// A command of the emulator's monitor; it must say nothing.
    pub fn monitor(&mut self, command: &str) -> Result<()> {
        let hex: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut said = String::new();
        let mut reply = self.ask(&format!("qRcmd,{hex}"))?;
        while let Some(text) = reply.strip_prefix('O').filter(|text| *text != "K") {
            let text = from_hex(text).context("not hexadecimal")?;
            said.push_str(&String::from_utf8_lossy(&text));
            reply = self.packet(ANSWER)?;
        }
        ensure!(reply == "OK" && said.trim().is_empty(), "`{command}`: {said}{reply}");
        Ok(())
    }

    fn must(&mut self, command: &str) -> Result<()> {
        match self.ask(command)?.as_str() {
            "OK" => Ok(()),
            said => bail!("`{command}` is answered by `{said}`"),
        }
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        self.send(command)?;
        self.packet(ANSWER).with_context(|| format!("the emulator does not answer `{command}`"))
    }

    fn send(&mut self, command: &str) -> Result<()> {
        let sum = command.bytes().fold(0u8, |sum, byte| sum.wrapping_add(byte));
        Ok(self.stream.write_all(format!("${command}#{sum:02x}").as_bytes())?)
    }

    /// The next packet, acknowledged.
    fn packet(&mut self, most: Duration) -> Result<String> {
        let end = Instant::now() + most;
        loop {
            if let Some((from, to)) = bounds(&self.pending) {
                let packet = unescaped(&self.pending[from..to]);
                self.pending.drain(..to + 3);
                self.stream.write_all(b"+")?;
                return Ok(packet);
            }
            let left = end.saturating_duration_since(Instant::now());
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the emulator has ended"),
                Ok(read) => self.pending.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The emulator has registers in comments.
fn without_comments(text: &str) -> String {
    let mut parts = text.split("<!--");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| kept + part.split_once("-->").map_or("", |(_, rest)| rest))
}

fn is_timeout(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// Where the contents of the first whole packet are: `$contents#ss`.
fn bounds(pending: &[u8]) -> Option<(usize, usize)> {
    let from = pending.iter().position(|&byte| byte == b'$')? + 1;
    let to = from + pending[from..].iter().position(|&byte| byte == b'#')?;
    (pending.len() >= to + 3).then_some((from, to))
}

fn unescaped(contents: &[u8]) -> String {
    let mut bytes = contents.iter();
    let mut text = Vec::with_capacity(contents.len());
    while let Some(&byte) = bytes.next() {
        text.push(match byte {
            b'}' => bytes.next().map_or(byte, |escaped| escaped ^ 0x20),
            byte => byte,
        });
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pair = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_found_when_it_is_whole() {
        assert_eq!(bounds(b"+$OK#9a"), Some((2, 4)));
        assert_eq!(bounds(b"+$OK#9"), None);
        assert_eq!(unescaped(b"l<a b=\"}\x03\">"), "l<a b=\"#\">");
        assert_eq!(without_comments("a<!-- b\nc -->d<!--e-->"), "ad");
        assert_eq!(from_hex("00ff7"), None);
        assert_eq!(from_hex("00ff"), Some(vec![0, 255]));
    }
}
