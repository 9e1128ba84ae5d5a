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
            Self::Mode(_) => {
                format!("Make it private: chmod 600 {path} (a mounted secret: mount it with mode 0400)")
            }
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

/// How others get at a file, if they do. Root can read every file, so a file of root's is as private as one of this
/// user's, and so is one that root's group can read. Root may also give a group of this user a file to read, which is
/// how Kubernetes mounts secrets.
#[cfg(unix)]
pub(super) fn exposure(file: &File) -> io::Result<Option<Exposure>> {
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata()?;
    Ok(exposure_to(metadata.mode() & 0o777, metadata.uid(), metadata.gid(), rustix::process::geteuid().as_raw()))
}

#[cfg(unix)]
fn exposure_to(mode: u32, owner: u32, group: u32, user: u32) -> Option<Exposure> {
    let is_given = owner == 0 && user != 0;
    let group_may = if group == 0 || is_given { 0o040 } else { 0 };
    if mode & 0o077 & !group_may != 0 {
        return Some(Exposure::Mode(mode));
    }
    (owner != user && owner != 0).then_some(Exposure::Owner(owner))
}

#[cfg(not(unix))]
pub(super) fn exposure(_: &File) -> io::Result<Option<Exposure>> {
    Ok(None)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_for_its_owner_and_for_root_and_those_whom_root_gives_it_to() {
        let me = 1000;
        for (mode, owner, group, is_private) in [
            (0o600, me, me, true),
            (0o400, me, me, true),
            (0o640, me, 0, true),
            (0o640, me, me, false),
            (0o660, me, 0, false),
            (0o444, me, me, false),
            (0o444, 0, 0, false),
            (0o640, 0, me, true),
            (0o440, 0, me, true),
            (0o400, 0, 0, true),
            (0o600, 1001, me, false),
        ] {
            let exposure = exposure_to(mode, owner, group, me);
            assert_eq!(exposure.is_none(), is_private, "{mode:o} {owner}:{group}: {exposure:?}");
        }
        assert_eq!(exposure_to(0o600, me, me, 0), Some(Exposure::Owner(me)), "root uses nobody's key but its own");
        assert_eq!(exposure_to(0o640, 0, me, 0), Some(Exposure::Mode(0o640)));
    }
}
