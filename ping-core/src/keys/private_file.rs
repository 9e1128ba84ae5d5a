//! Files that only their owner may read, where the system knows such a thing.

use std::{
    fs::{File, OpenOptions},
    io,
};

/// Makes a file that is created readable and writable by its owner alone.
pub(super) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// The permission bits of a file that other users can read.
#[cfg(unix)]
pub(super) fn mode_for_others(file: &File) -> io::Result<Option<u32>> {
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata()?;
    let mode = metadata.mode() & 0o777;
    Ok((metadata.is_file() && mode & 0o077 != 0).then_some(mode))
}

#[cfg(not(unix))]
pub(super) fn mode_for_others(_: &File) -> io::Result<Option<u32>> {
    Ok(None)
}
