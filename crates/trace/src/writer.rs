//! Writing a trace: events go in one by one, blocks come out as they fill. A trace that was cut off
//! still has every block written so far.
//!
//! Every frame is one `write_all`, so the output needs no buffer. Nothing is written before the first
//! block is full or the trace ends.

use std::io::Write;

use crate::check::Checker;
use crate::codec::{Encoder, TICK_NS};
use crate::error::TraceError;
use crate::event::Entry;
use crate::frame::{BlockHead, LZ4, PLAIN, SIGNATURE, TRAILER, VERSION};
use crate::header::{Header, Trailer};

/// A block is closed when its unpacked bytes reach this.
const BLOCK_TARGET: usize = 256 << 10;

/// Writes a trace to `W`.
#[derive(Debug)]
pub struct TraceWriter<W: Write> {
    out: W,
    /// The header until it is written.
    unwritten: Vec<u8>,
    checker: Checker,
    block: Encoder,
    block_events: u32,
    first_tick: u64,
    last_tick: u64,
    events: u64,
    bytes: u64,
}

impl<W: Write> TraceWriter<W> {
    /// Begins a trace.
    pub fn new(out: W, header: &Header) -> Self {
        let mut frame = SIGNATURE.to_vec();
        frame.extend(VERSION.to_le_bytes());
        put_body(&mut frame, &header.encode());
        Self {
            out,
            unwritten: frame,
            checker: Checker::new(header),
            block: Encoder::new(0),
            block_events: 0,
            first_tick: 0,
            last_tick: 0,
            events: 0,
            bytes: 0,
        }
    }

    /// Appends an event. Its time is rounded down to a whole [`TICK_NS`].
    ///
    /// # Errors
    /// [`TraceError::Unwritable`] when the event breaks a rule of the format (time runs backwards, a
    /// task that is not alive, pages outside the user address space); the trace stays usable without it.
    /// [`TraceError::Io`] when a block could not be written.
    pub fn push(&mut self, entry: &Entry) -> Result<(), TraceError> {
        self.checker
            .admit(entry)
            .map_err(|reason| TraceError::Unwritable { index: self.events, reason })?;
        self.block.push(entry);
        self.last_tick = entry.time_ns / TICK_NS;
        self.block_events += 1;
        self.events += 1;
        if self.block.bytes().len() >= BLOCK_TARGET {
            self.end_block()?;
        }
        Ok(())
    }

    /// Events written so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Writes the trailer, with the count of events filled in, and flushes. Returns the size of the
    /// trace in bytes and what it was written to.
    ///
    /// # Errors
    /// [`TraceError::Io`].
    pub fn finish(mut self, trailer: &Trailer) -> Result<(u64, W), TraceError> {
        self.end_block()?;
        let mut frame = vec![TRAILER];
        put_body(&mut frame, &Trailer { events: self.events, ..trailer.clone() }.encode());
        self.put(&frame)?;
        self.out.flush()?;
        Ok((self.bytes, self.out))
    }

    fn put(&mut self, frame: &[u8]) -> Result<(), TraceError> {
        for bytes in [std::mem::take(&mut self.unwritten).as_slice(), frame] {
            self.out.write_all(bytes)?;
            self.bytes += bytes.len() as u64;
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), TraceError> {
        if self.block_events == 0 {
            return Ok(());
        }
        let plain = self.block.bytes();
        let packed = lz4_flex::block::compress(plain);
        let (packing, payload) =
            if packed.len() < plain.len() { (LZ4, packed.as_slice()) } else { (PLAIN, plain) };
        let head = BlockHead {
            packing,
            events: self.block_events,
            first_tick: self.first_tick,
            unpacked: plain.len() as u32,
            stored: payload.len() as u32,
        };
        let mut frame = head.to_bytes().to_vec();
        frame.extend_from_slice(payload);
        seal(&mut frame);
        self.put(&frame)?;
        self.block = Encoder::new(self.last_tick);
        self.block_events = 0;
        self.first_tick = self.last_tick;
        Ok(())
    }
}

/// Appends a body with its length, and the checksum over the whole frame.
fn put_body(frame: &mut Vec<u8>, body: &[u8]) {
    frame.extend((body.len() as u32).to_le_bytes());
    frame.extend_from_slice(body);
    seal(frame);
}

fn seal(frame: &mut Vec<u8>) {
    let checksum = crc32fast::hash(frame);
    frame.extend(checksum.to_le_bytes());
}
