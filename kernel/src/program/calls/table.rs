//! The table of system calls: of each its number, the kinds of its arguments, and what makes it.

use super::{
    Arguments, attributes, cloning, control, files, futex, identity, memory, names, opening, paths,
    pipes, poll, processes, robust, scheduling, signals, status, time, usage, users, waiting,
};
use crate::program::errno::Outcome;
use linux_raw_sys::general as number;

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number.
    Value,
    /// Points to text that ends with a zero.
    Text,
    /// Points to so many bytes, or is null.
    Bytes(u64),
    /// Points to elements of so many bytes, as many as the argument at that place says; or is null.
    Counted(u64, usize),
}

/// A system call.
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub number: u64,
    /// What its arguments are.
    pub arguments: &'static [Kind],
    /// What it makes stays on the kernel's heap, so that it fails where that is short.
    pub keeps: bool,
    /// What makes it.
    pub run: fn(&mut Arguments<'_>) -> Outcome,
}

macro_rules! keeps {
    () => {
        false
    };
    (keeps) => {
        true
    };
}

macro_rules! calls {
    ($($(#[$only:meta])? $number:ident = $run:path [$($kind:expr),*] $($keeps:ident)?;)*) => {
        /// Every system call there is.
        pub const CALLS: &[Call] = &[
            $($(#[$only])? Call {
                name: stringify!($number),
                number: number::$number as u64,
                arguments: &[$($kind),*],
                keeps: keeps!($($keeps)?),
                run: $run,
            },)*
        ];
    };
}

use Kind::{Bytes, Counted, Text, Value as V};

/// Bytes of the structures that calls point to.
mod size {
    #[cfg(target_arch = "x86_64")]
    pub const STAT: u64 = 144;
    #[cfg(target_arch = "aarch64")]
    pub const STAT: u64 = 128;
    pub const STATX: u64 = 256;
    pub const STATFS: u64 = 120;
    pub const TIME: u64 = 16;
    pub const POLL: u64 = 8;
    pub const VECTOR: u64 = 16;
    pub const NAMES: u64 = 390;
    pub const ACTION: u64 = 32;
    pub const MASK: u64 = 8;
    pub const USAGE: u64 = 144;
    pub const SYSTEM: u64 = 112;
    pub const LIMIT: u64 = 16;
    pub const STACK: u64 = 24;
    pub const SETS: u64 = 128;
}
use size::*;

calls! {
    __NR_read = files::read [V, Counted(1, 2), V];
    __NR_write = files::write [V, Counted(1, 2), V];
    __NR_readv = files::readv [V, Counted(VECTOR, 2), V];
    __NR_writev = files::writev [V, Counted(VECTOR, 2), V];
    __NR_pread64 = files::pread [V, Counted(1, 2), V, V];
    __NR_pwrite64 = files::pwrite [V, Counted(1, 2), V, V];
    __NR_lseek = files::lseek [V, V, V];
    __NR_close = files::close [V];
    __NR_close_range = files::close_range [V, V, V];
    __NR_dup = files::dup [V] keeps;
    __NR_dup3 = files::dup3 [V, V, V] keeps;
    __NR_pipe2 = pipes::pipe2 [Bytes(8), V] keeps;
    __NR_fcntl = files::fcntl [V, V, V];
    __NR_ftruncate = files::ftruncate [V, V];
    __NR_fallocate = files::fallocate [V, V, V, V];
    __NR_fsync = files::nothing [V];
    __NR_fdatasync = files::nothing [V];
    __NR_sync = files::nothing [];
    __NR_fadvise64 = files::nothing [V, V, V, V];
    __NR_syncfs = files::nothing [V];
    __NR_sync_file_range = files::nothing [V, V, V, V];
    __NR_readahead = files::nothing [V, V, V];
    __NR_getxattr = files::not_supported [Text, Text, Counted(1, 3), V];
    __NR_lgetxattr = files::not_supported [Text, Text, Counted(1, 3), V];
    __NR_fgetxattr = files::not_supported [V, Text, Counted(1, 3), V];
    __NR_setxattr = files::not_supported [Text, Text, Counted(1, 3), V, V];
    __NR_lsetxattr = files::not_supported [Text, Text, Counted(1, 3), V, V];
    __NR_fsetxattr = files::not_supported [V, Text, Counted(1, 3), V, V];
    __NR_listxattr = files::not_supported [Text, Counted(1, 2), V];
    __NR_llistxattr = files::not_supported [Text, Counted(1, 2), V];
    __NR_flistxattr = files::not_supported [V, Counted(1, 2), V];
    __NR_socket = files::socket [V, V, V];
    __NR_socketpair = files::socket [V, V, V, Bytes(8)];
    __NR_getdents64 = files::getdents64 [V, Counted(1, 2), V];
    __NR_ioctl = control::ioctl [V, V, V];
    __NR_openat = opening::openat [V, Text, V, V] keeps;
    __NR_newfstatat = status::newfstatat [V, Text, Bytes(STAT), V];
    __NR_fstat = status::fstat [V, Bytes(STAT)];
    __NR_statx = status::statx [V, Text, V, V, Bytes(STATX)];
    __NR_statfs = status::statfs [Text, Bytes(STATFS)];
    __NR_fstatfs = status::fstatfs [V, Bytes(STATFS)];
    __NR_faccessat = status::faccessat [V, Text, V];
    __NR_faccessat2 = status::faccessat [V, Text, V, V];
    __NR_readlinkat = names::readlinkat [V, Text, Counted(1, 3), V];
    __NR_mknodat = names::mknodat [V, Text, V, V] keeps;
    __NR_mkdirat = names::mkdirat [V, Text, V] keeps;
    __NR_unlinkat = names::unlinkat [V, Text, V];
    __NR_renameat = names::renameat [V, Text, V, Text] keeps;
    __NR_renameat2 = names::renameat2 [V, Text, V, Text, V] keeps;
    __NR_linkat = names::linkat [V, Text, V, Text, V] keeps;
    __NR_symlinkat = names::symlinkat [Text, V, Text] keeps;
    __NR_fchmodat = attributes::fchmodat [V, Text, V];
    __NR_fchmod = attributes::fchmod [V, V];
    __NR_fchownat = attributes::fchownat [V, Text, V, V, V];
    __NR_fchown = attributes::fchown [V, V, V];
    __NR_utimensat = attributes::utimensat [V, Text, Bytes(2 * TIME), V];
    __NR_truncate = attributes::truncate [Text, V];
    __NR_chdir = paths::chdir [Text];
    __NR_fchdir = paths::fchdir [V];
    __NR_chroot = paths::chroot [Text];
    __NR_getcwd = paths::getcwd [Counted(1, 1), V];
    __NR_umask = paths::umask [V];
    __NR_ppoll = poll::ppoll [Counted(POLL, 1), V, Bytes(TIME), Bytes(MASK), V];
    __NR_pselect6 = poll::pselect6 [V, Bytes(SETS), Bytes(SETS), Bytes(SETS), Bytes(TIME), Bytes(TIME)];
    __NR_mmap = memory::mmap [V, V, V, V, V, V] keeps;
    __NR_munmap = memory::munmap [V, V];
    __NR_mprotect = memory::mprotect [V, V, V];
    __NR_mremap = memory::mremap [V, V, V, V, V] keeps;
    __NR_madvise = memory::madvise [V, V, V];
    __NR_brk = memory::brk [V];
    __NR_mlock = memory::mlock [V, V];
    __NR_mlock2 = memory::mlock [V, V, V];
    __NR_munlock = files::nothing [V, V];
    __NR_mlockall = files::nothing [V];
    __NR_munlockall = files::nothing [];
    __NR_msync = memory::msync [V, V, V];
    __NR_mincore = memory::mincore [V, V, Bytes(1)];
    __NR_memfd_create = memory::memfd_create [Text, V] keeps;
    __NR_clone = cloning::clone [V, V, Bytes(4), V, V] keeps;
    __NR_clone3 = cloning::clone3 [Bytes(64), V] keeps;
    __NR_execve = processes::execve [Text, Bytes(8), Bytes(8)] keeps;
    __NR_wait4 = waiting::wait4 [V, Bytes(4), V, Bytes(USAGE)];
    __NR_waitid = waiting::waitid [V, V, Bytes(128), V, Bytes(USAGE)];
    __NR_exit = processes::exit [V];
    __NR_exit_group = processes::exit_group [V];
    __NR_set_tid_address = processes::set_tid_address [V];
    __NR_set_robust_list = robust::set_robust_list [Bytes(robust::HEAD), V];
    __NR_get_robust_list = robust::get_robust_list [V, Bytes(8), Bytes(8)];
    __NR_getpid = identity::getpid [];
    __NR_getppid = identity::getppid [];
    __NR_gettid = identity::gettid [];
    __NR_getpgid = identity::getpgid [V];
    __NR_setpgid = identity::setpgid [V, V];
    __NR_getsid = identity::getsid [V];
    __NR_setsid = identity::setsid [];
    __NR_getuid = users::root [];
    __NR_geteuid = users::root [];
    __NR_getgid = users::root [];
    __NR_getegid = users::root [];
    __NR_setuid = users::set_root [V];
    __NR_setgid = users::set_root [V];
    __NR_getresuid = users::root_thrice [Bytes(4), Bytes(4), Bytes(4)];
    __NR_getresgid = users::root_thrice [Bytes(4), Bytes(4), Bytes(4)];
    __NR_setreuid = users::set_two [V, V];
    __NR_setregid = users::set_two [V, V];
    __NR_setresuid = users::set_three [V, V, V];
    __NR_setresgid = users::set_three [V, V, V];
    __NR_setgroups = users::setgroups [V, V];
    __NR_capget = users::capget [Bytes(8), Bytes(12)];
    __NR_capset = users::capset [Bytes(8), Bytes(12)];
    __NR_getgroups = users::root [V, V];
    __NR_uname = identity::uname [Bytes(NAMES)];
    __NR_sysinfo = identity::sysinfo [Bytes(SYSTEM)];
    __NR_prlimit64 = identity::prlimit64 [V, V, Bytes(LIMIT), Bytes(LIMIT)];
    __NR_getrusage = usage::getrusage [V, Bytes(USAGE)];
    __NR_prctl = identity::prctl [V, V, V, V, V];
    __NR_getrandom = identity::getrandom [Counted(1, 1), V, V];
    __NR_sched_yield = scheduling::sched_yield [];
    __NR_sched_getaffinity = scheduling::sched_getaffinity [V, V, Counted(1, 1)];
    __NR_sched_setaffinity = scheduling::sched_setaffinity [V, V, Counted(1, 1)];
    __NR_sched_getscheduler = scheduling::sched_getscheduler [V];
    __NR_sched_setscheduler = scheduling::sched_setscheduler [V, V, Bytes(4)];
    __NR_sched_getparam = scheduling::sched_getparam [V, Bytes(4)];
    __NR_sched_get_priority_max = scheduling::sched_get_priority [V];
    __NR_sched_get_priority_min = scheduling::sched_get_priority [V];
    __NR_getpriority = scheduling::getpriority [V, V];
    __NR_setpriority = scheduling::setpriority [V, V, V];
    __NR_personality = identity::personality [V];
    __NR_getcpu = identity::getcpu [Bytes(4), Bytes(4)];
    __NR_rt_sigaction = signals::rt_sigaction [V, Bytes(ACTION), Bytes(ACTION), V];
    __NR_rt_sigprocmask = signals::rt_sigprocmask [V, Bytes(MASK), Bytes(MASK), V];
    __NR_rt_sigpending = signals::rt_sigpending [Bytes(MASK), V];
    __NR_rt_sigsuspend = signals::rt_sigsuspend [Bytes(MASK), V];
    __NR_rt_sigreturn = signals::rt_sigreturn [];
    __NR_sigaltstack = signals::sigaltstack [Bytes(STACK), Bytes(STACK)];
    __NR_kill = signals::kill [V, V];
    __NR_tkill = signals::tkill [V, V];
    __NR_tgkill = signals::tgkill [V, V, V];
    __NR_futex = futex::futex [Bytes(4), V, V, V, V, V];
    __NR_nanosleep = time::nanosleep [Bytes(TIME), Bytes(TIME)];
    __NR_clock_nanosleep = time::clock_nanosleep [V, V, Bytes(TIME), Bytes(TIME)];
    __NR_clock_gettime = time::clock_gettime [V, Bytes(TIME)];
    __NR_clock_getres = time::clock_getres [V, Bytes(TIME)];
    __NR_gettimeofday = time::gettimeofday [Bytes(TIME), Bytes(8)];
    __NR_setitimer = time::setitimer [V, Bytes(32), Bytes(32)];
    __NR_getitimer = time::getitimer [V, Bytes(32)];
    __NR_times = usage::times [Bytes(32)];
    #[cfg(target_arch = "x86_64")] __NR_open = opening::open [Text, V, V] keeps;
    #[cfg(target_arch = "x86_64")] __NR_creat = opening::creat [Text, V] keeps;
    #[cfg(target_arch = "x86_64")] __NR_stat = status::stat [Text, Bytes(STAT)];
    #[cfg(target_arch = "x86_64")] __NR_lstat = status::lstat [Text, Bytes(STAT)];
    #[cfg(target_arch = "x86_64")] __NR_access = status::access [Text, V];
    #[cfg(target_arch = "x86_64")] __NR_readlink = names::readlink [Text, Counted(1, 2), V];
    #[cfg(target_arch = "x86_64")] __NR_mknod = names::mknod [Text, V, V] keeps;
    #[cfg(target_arch = "x86_64")] __NR_mkdir = names::mkdir [Text, V] keeps;
    #[cfg(target_arch = "x86_64")] __NR_rmdir = names::rmdir [Text];
    #[cfg(target_arch = "x86_64")] __NR_unlink = names::unlink [Text];
    #[cfg(target_arch = "x86_64")] __NR_rename = names::rename [Text, Text] keeps;
    #[cfg(target_arch = "x86_64")] __NR_link = names::link [Text, Text] keeps;
    #[cfg(target_arch = "x86_64")] __NR_symlink = names::symlink [Text, Text] keeps;
    #[cfg(target_arch = "x86_64")] __NR_chmod = attributes::chmod [Text, V];
    #[cfg(target_arch = "x86_64")] __NR_chown = attributes::chown [Text, V, V];
    #[cfg(target_arch = "x86_64")] __NR_lchown = attributes::chown [Text, V, V];
    #[cfg(target_arch = "x86_64")] __NR_pipe = pipes::pipe [Bytes(8)] keeps;
    #[cfg(target_arch = "x86_64")] __NR_dup2 = files::dup2 [V, V] keeps;
    #[cfg(target_arch = "x86_64")] __NR_poll = poll::poll [Counted(POLL, 1), V, V];
    #[cfg(target_arch = "x86_64")] __NR_select = poll::select [V, Bytes(SETS), Bytes(SETS), Bytes(SETS), Bytes(TIME)];
    #[cfg(target_arch = "x86_64")] __NR_fork = cloning::fork [] keeps;
    #[cfg(target_arch = "x86_64")] __NR_vfork = cloning::vfork [] keeps;
    #[cfg(target_arch = "x86_64")] __NR_arch_prctl = identity::arch_prctl [V, V];
    #[cfg(target_arch = "x86_64")] __NR_getpgrp = identity::getpgrp [];
    #[cfg(target_arch = "x86_64")] __NR_getrlimit = identity::getrlimit [V, Bytes(LIMIT)];
    #[cfg(target_arch = "x86_64")] __NR_setrlimit = identity::setrlimit [V, Bytes(LIMIT)];
    #[cfg(target_arch = "x86_64")] __NR_alarm = time::alarm [V];
    #[cfg(target_arch = "x86_64")] __NR_time = time::time [Bytes(8)];
    #[cfg(target_arch = "x86_64")] __NR_pause = signals::pause [];
}

/// More than any call's number.
const NUMBERS: usize = 512;

/// Where in [`CALLS`] a number's call is, counted from 1.
static PLACES: [u8; NUMBERS] = {
    assert!(CALLS.len() < u8::MAX as usize);
    let mut places = [0; NUMBERS];
    let mut place = 0;
    while place < CALLS.len() {
        let number = CALLS[place].number as usize;
        assert!(places[number] == 0, "a call is there twice");
        places[number] = place as u8 + 1;
        place += 1;
    }
    places
};

/// The call with a number.
pub fn find(number: u64) -> Option<&'static Call> {
    let place = PLACES.get(usize::try_from(number).ok()?)?;
    CALLS.get(usize::from(*place).checked_sub(1)?)
}
