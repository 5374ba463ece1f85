//! Why a system call failed, as programs are told.

use linux_raw_sys::errno;

/// An error number of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u32);

macro_rules! errors {
    ($($name:ident)*) => {
        impl Errno {
            $(pub const $name: Self = Self(errno::$name);)*
        }
    };
}

errors! {
    E2BIG EACCES EAFNOSUPPORT EAGAIN EBADF EBUSY ECHILD EEXIST EFAULT EFBIG EINTR EINVAL EISDIR ELOOP EMFILE ENAMETOOLONG ENODEV ENOENT ENOEXEC
    ENOMEM ENOSPC ENOSYS ENOTDIR ENOTEMPTY ENOTTY ENXIO EOPNOTSUPP EPERM EPIPE ERANGE EROFS ESPIPE ESRCH ETIMEDOUT
}

impl Errno {
    /// A signal came first. The call is made again, or fails with [`EINTR`](Self::EINTR), as the signal's handler says; programs never see this
    /// number.
    pub const RESTART: Self = Self(512);
}

impl From<kpkeys_mm::Error> for Errno {
    fn from(error: kpkeys_mm::Error) -> Self {
        use kpkeys_mm::Error;
        match error {
            Error::OutOfMemory | Error::OutOfAddresses(_) | Error::TooManyReferences => {
                Self::ENOMEM
            }
            Error::NotMapped(_) | Error::Forbidden(_) => Self::EFAULT,
            Error::Occupied(..) => Self::ENOMEM,
            Error::Tables(_) | Error::BadOrder(_) | Error::BehindEnd(_) | Error::OtherMemory => {
                Self::EINVAL
            }
        }
    }
}

/// What a system call gives: a value, or why it failed.
pub type Outcome<T = u64> = Result<T, Errno>;
