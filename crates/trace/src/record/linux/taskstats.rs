//! The kernel's accounting of each task as it exits, received over the taskstats netlink interface
//! (Documentation/accounting/taskstats.rst). Needs CAP_NET_ADMIN; without it traces have no per-task
//! accounting.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with, sockopt,
};

use crate::event::Accounted;

/// What the kernel said about one exited task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    /// As wait(2) has it.
    pub status: u32,
    pub accounted: Accounted,
}

/// Accounts that have arrived, by thread id.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    arrived: HashMap<u32, Account>,
}

impl Accounts {
    /// Takes the account of a task that is gone.
    pub(super) fn take(&mut self, tid: u32) -> Option<Account> {
        self.arrived.remove(&tid)
    }
}

/// Numbers of generic netlink and taskstats (linux/genetlink.h, linux/taskstats.h).
mod number {
    pub const CONTROL: u16 = 16;
    pub const GET_FAMILY: u8 = 3;
    pub const FAMILY_ID: u16 = 1;
    pub const FAMILY_NAME: u16 = 2;
    pub const STATS_GET: u8 = 1;
    pub const REGISTER_CPUS: u16 = 3;
    pub const ERROR: u16 = 2;
    pub const TYPE_PID: u16 = 1;
    pub const TYPE_STATS: u16 = 3;
    pub const AGGREGATE_PID: u16 = 4;
    pub const REQUEST: u16 = 1;
    pub const ACKNOWLEDGE: u16 = 4;
}

/// Bytes of a netlink header and a generic one.
const HEADERS: usize = 16 + 4;

/// Receive buffer: some ten thousand exits.
const BUFFER_BYTES: usize = 16 << 20;

/// A registered listener.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    family: u16,
    buffer: Vec<u8>,
}

impl Listener {
    /// Registers for the exits on all `cpus` (a list such as `0-3`).
    pub(super) fn open(cpus: &str) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::GENERIC),
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        // Needs CAP_NET_ADMIN, as the registration does.
        sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)?;
        let mut listener = Self { socket, family: 0, buffer: vec![0; 64 << 10] };
        listener.family = listener.find_family()?;
        listener.register(cpus)?;
        Ok(listener)
    }

    fn find_family(&mut self) -> io::Result<u16> {
        self.send(number::CONTROL, number::GET_FAMILY, number::FAMILY_NAME, b"TASKSTATS\0")?;
        let reply = self.receive(RecvFlags::empty())?;
        let id = messages(&reply)
            .flat_map(|(_, body)| attributes(body))
            .find(|&(kind, _)| kind == number::FAMILY_ID)
            .and_then(|(_, value)| Some(u16::from_ne_bytes(value.get(..2)?.try_into().ok()?)));
        id.ok_or_else(|| io::Error::other("this kernel has no taskstats"))
    }

    fn register(&mut self, cpus: &str) -> io::Result<()> {
        let list = format!("{cpus}\0");
        self.send(self.family, number::STATS_GET, number::REGISTER_CPUS, list.as_bytes())?;
        let reply = self.receive(RecvFlags::empty())?;
        let error = reply.get(HEADERS - 4..HEADERS).map_or(-libc::EIO, |bytes| {
            i32::from_ne_bytes(std::array::from_fn(|index| bytes[index]))
        });
        if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-error)) }
    }

    /// Receives what has arrived.
    pub(super) fn drain(&mut self, accounts: &mut Accounts) {
        while let Ok(bytes) = self.receive(RecvFlags::DONTWAIT) {
            for (kind, body) in messages(&bytes) {
                if kind == self.family {
                    accounts.arrived.extend(attributes(body).filter_map(parse_account));
                }
            }
        }
    }

    fn send(&self, kind: u16, command: u8, attribute: u16, value: &[u8]) -> io::Result<()> {
        let length = 4 + value.len();
        let mut message = Vec::new();
        message.extend(((HEADERS + length) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        let acknowledge = if kind == number::CONTROL { 0 } else { number::ACKNOWLEDGE };
        message.extend((number::REQUEST | acknowledge).to_ne_bytes());
        message.extend([0; 8]); // sequence and port: one request at a time
        message.extend([command, 1, 0, 0]);
        message.extend((length as u16).to_ne_bytes());
        message.extend(attribute.to_ne_bytes());
        message.extend_from_slice(value);
        send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    fn receive(&mut self, flags: RecvFlags) -> io::Result<Vec<u8>> {
        let (count, _) = recv(&self.socket, &mut self.buffer[..], flags)?;
        Ok(self.buffer[..count].to_vec())
    }
}

/// The netlink messages in `bytes`: kind and what follows the generic header.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let message = bytes.get(..length.max(HEADERS))?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        (kind != number::ERROR).then(|| (kind, &message[HEADERS..]))
    })
}

/// The attributes in `bytes`: kind and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) as usize;
        // The two top bits of the kind are flags.
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// An AGGREGATE_PID attribute: a thread id and a struct taskstats.
fn parse_account((kind, value): (u16, &[u8])) -> Option<(u32, Account)> {
    if kind != number::AGGREGATE_PID {
        return None;
    }
    let find = |wanted| attributes(value).find(|&(kind, _)| kind == wanted).map(|(_, value)| value);
    let tid = u32::from_ne_bytes(find(number::TYPE_PID)?.get(..4)?.try_into().ok()?);
    Some((tid, parse_stats(find(number::TYPE_STATS)?)?))
}

/// struct taskstats: the offsets are part of the kernel's interface.
fn parse_stats(stats: &[u8]) -> Option<Account> {
    let long = |at: usize| Some(u64::from_ne_bytes(stats.get(at..at + 8)?.try_into().ok()?));
    Some(Account {
        status: u32::from_ne_bytes(stats.get(4..8)?.try_into().ok()?),
        accounted: Accounted {
            cpu_ns: long(72)?,
            user_ns: long(152)? * 1000,
            system_ns: long(160)? * 1000,
            minor_faults: long(168)?,
            major_faults: long(176)?,
        },
    })
}
