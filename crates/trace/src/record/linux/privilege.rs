//! Programs that get privilege when they are executed: set-user-id, set-group-id, with file capabilities.
//! The kernel withholds it from a task whose tracer lacks CAP_SYS_PTRACE (ptrace(2), execve(2)): such a
//! program would run and do something else than without the recorder.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

/// Number of CAP_SYS_PTRACE (linux/capability.h).
const CAP_SYS_PTRACE: u32 = 19;

/// Longest path the kernel takes.
const PATH_BYTES: usize = 4096;

/// True when programs get their privilege although this process traces them.
pub(super) fn tracing_keeps_it() -> bool {
    let capabilities = field("/proc/self/status", "CapEff:");
    let effective = capabilities.and_then(|set| u64::from_str_radix(&set, 16).ok()).unwrap_or(0);
    effective >> CAP_SYS_PTRACE & 1 == 1
}

/// Where the program in `file` gets privilege from that process `pid` does not have; `None` if it gets none.
pub(super) fn gained(file: &Path, pid: u32) -> Option<&'static str> {
    let data = file.metadata().ok()?;
    let mount = rustix::fs::statvfs(file).ok()?;
    let status = format!("/proc/{pid}/status");
    let gains_none = mount.f_flag.contains(StatVfsMountFlags::NOSUID)
        || field(&status, "NoNewPrivs:").as_deref() == Some("1");
    if !data.is_file() || gains_none {
        return None;
    }
    let owner = |name| field(&status, name).and_then(|ids| effective(&ids));
    if data.mode() & 0o4000 != 0 && owner("Uid:") != Some(data.uid()) {
        return Some("set-user-id");
    }
    // Without the group's execute bit, set-group-id once meant mandatory locking.
    if data.mode() & 0o2010 == 0o2010 && owner("Gid:") != Some(data.gid()) {
        return Some("set-group-id");
    }
    let capabilities = rustix::fs::getxattr(file, "security.capability", &mut [0_u8; 64]);
    capabilities.is_ok_and(|length| length > 0).then_some("with file capabilities")
}

/// The file that the execve or execveat with these arguments, of the stopped task `tid`, is about to execute.
pub(super) fn executed_by(tid: u32, number: i64, arguments: &[u64; 6]) -> Option<PathBuf> {
    let (folder, path) = if number == libc::SYS_execveat {
        (arguments[0] as i32, arguments[1])
    } else {
        (libc::AT_FDCWD, arguments[0])
    };
    let path = read_path(tid, path)?;
    let process = PathBuf::from(format!("/proc/{tid}"));
    let folder = match folder {
        libc::AT_FDCWD => process.join("cwd"),
        folder => process.join(format!("fd/{folder}")),
    };
    Some(match path.strip_prefix("/") {
        Ok(inside) => process.join("root").join(inside),
        Err(_) if path.as_os_str().is_empty() => folder,
        Err(_) => folder.join(path),
    })
}

/// Reads the string at `address` in the memory of `tid`, page by page: the next may not be there.
fn read_path(tid: u32, address: u64) -> Option<PathBuf> {
    let memory = File::open(format!("/proc/{tid}/mem")).ok()?;
    let mut bytes = Vec::new();
    while bytes.len() < PATH_BYTES {
        let at = address.checked_add(bytes.len() as u64)?;
        let mut part = vec![0; 256 - (at % 256) as usize];
        let read = memory.read_at(&mut part, at).ok().filter(|&read| read > 0)?;
        let end = part[..read].iter().position(|&byte| byte == 0);
        bytes.extend_from_slice(&part[..end.unwrap_or(read)]);
        if end.is_some() {
            let path = CString::new(bytes).ok()?;
            return Some(std::ffi::OsString::from_vec(path.into_bytes()).into());
        }
    }
    None
}

/// The rest of the line that begins with `name`.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
}

/// The effective one of real, effective, saved and file-system id.
fn effective(ids: &str) -> Option<u32> {
    ids.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_program_gains_what_its_owner_has_and_the_process_has_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("program");
        fs::write(&file, "").expect("a file");
        let own = std::process::id();
        let with_mode = |mode| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("a mode");
            gained(&file, own)
        };
        assert_eq!(with_mode(0o755), None);
        assert_eq!(with_mode(0o4755), None, "it is its owner's already");
        assert_eq!(gained(folder.path(), own), None, "a folder is no program");
        if std::os::unix::fs::chown(&file, Some(12_345), Some(12_345)).is_ok() {
            assert_eq!(with_mode(0o4755), Some("set-user-id"));
            assert_eq!(with_mode(0o2755), Some("set-group-id"));
            assert_eq!(with_mode(0o2745), None, "not executable by the group");
        }
    }

    #[test]
    fn the_effective_id_is_the_second() {
        assert_eq!(effective("1000\t0\t0\t0"), Some(0));
        assert_eq!(effective(""), None);
    }
}
