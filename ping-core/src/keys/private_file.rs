//! Files that only their owner may read, where the system knows such a thing.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    path::Path,
};

/// Makes a file that is created readable and writable by its owner alone.
pub(super) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// How others than this user get at a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exposure {
    /// Its permission bits let them.
    Mode(u32),
    /// It belongs to this user.
    Owner(u32),
}

impl Exposure {
    pub(super) fn help(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Mode(_) => format!("Make it private: chmod 600 {path}"),
            Self::Owner(_) => format!("Use a file of your own, or make it yours: chown $(id -u) {path}"),
        }
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode(mode) => write!(f, "other users can read (mode {mode:04o})"),
            Self::Owner(user) => write!(f, "another user owns (number {user})"),
        }
    }
}

/// How others get at a file, if they do.
#[cfg(unix)]
pub(super) fn exposure(file: &File) -> io::Result<Option<Exposure>> {
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata()?;
    let mode = metadata.mode() & 0o777;
    let is_foreign = metadata.uid() != rustix::process::geteuid().as_raw();
    Ok(if mode & 0o077 != 0 {
        Some(Exposure::Mode(mode))
    } else {
        is_foreign.then_some(Exposure::Owner(metadata.uid()))
    })
}

#[cfg(not(unix))]
pub(super) fn exposure(_: &File) -> io::Result<Option<Exposure>> {
    Ok(None)
}
