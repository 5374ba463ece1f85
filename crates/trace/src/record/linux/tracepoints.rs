//! The kernel's tracepoints that the recorder uses: their numbers and where their fields lie, read from
//! tracefs, since neither is the same on two kernels.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where tracefs is mounted, newest place first.
const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// A field inside a tracepoint's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    offset: usize,
    size: usize,
}

impl Field {
    /// Its value in `record`, zero-extended; 0 when the record is too short.
    pub(super) fn get(self, record: &[u8]) -> u64 {
        let bytes = record.get(self.offset..self.offset + self.size).unwrap_or_default();
        bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    /// The place of its `index`th element, each of eight bytes.
    pub(super) fn element(self, index: usize) -> Self {
        Self { offset: self.offset + 8 * index, size: 8 }
    }
}

/// A tracepoint of the running kernel.
#[derive(Debug, Clone)]
pub(super) struct Tracepoint {
    /// The number perf_event_open wants.
    pub id: u64,
    format: String,
    name: &'static str,
}

impl Tracepoint {
    /// Looks up `name`, as in `exceptions/page_fault_user`.
    pub(super) fn find(name: &'static str) -> io::Result<Self> {
        let folder = events_folder()?.join(name);
        let id = fs::read_to_string(folder.join("id"))?;
        let id = id.trim().parse().map_err(|_| unexpected(name, "its id is not a number"))?;
        Ok(Self { id, format: fs::read_to_string(folder.join("format"))?, name })
    }

    /// Looks up a field in lines such as `field:unsigned long args[6]; offset:16; size:48; signed:0;`.
    pub(super) fn field(&self, field: &str) -> io::Result<Field> {
        self.format
            .lines()
            .filter_map(parse_field)
            .find(|(name, _)| *name == field)
            .map(|(_, place)| place)
            .ok_or_else(|| unexpected(self.name, &format!("it has no field `{field}`")))
    }
}

fn events_folder() -> io::Result<PathBuf> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for mount in MOUNTS {
        let folder = Path::new(mount).join("events");
        match fs::read_dir(&folder) {
            Ok(_) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn parse_field(line: &str) -> Option<(&str, Field)> {
    let mut parts = line.trim().split(';');
    let declaration = parts.next()?.strip_prefix("field:")?;
    let name = declaration.rsplit([' ', '*']).next()?.split('[').next()?;
    let mut number = |label: &str| parts.next()?.trim().strip_prefix(label)?.parse().ok();
    let field = Field { offset: number("offset:")?, size: number("size:")? };
    Some((name, field))
}

fn unexpected(name: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("tracepoint {name}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_a_format_description() {
        let line = "\tfield:unsigned long args[6];\toffset:16;\tsize:48;\tsigned:0;";
        assert_eq!(parse_field(line), Some(("args", Field { offset: 16, size: 48 })));
        assert_eq!(parse_field("print fmt: \"NR\""), None);
    }

    #[test]
    fn values_are_read_little_endian_and_within_bounds() {
        let record = [0, 0x34, 0x12, 0xff];
        assert_eq!(Field { offset: 1, size: 2 }.get(&record), 0x1234);
        assert_eq!(Field { offset: 3, size: 4 }.get(&record), 0);
    }
}
