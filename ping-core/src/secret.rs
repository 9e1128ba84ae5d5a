//! The file with the pre-shared key of a private network.
//!
//! Its form is that of IPFS's `swarm.key`: the line `/key/swarm/psk/1.0.0/`, the line `/base16/`, and 64 hexadecimal digits.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use libp2p::pnet::PreSharedKey;

use crate::identity::mode_for_others;

/// How much of the file is read, in bytes. A key in its form has 95.
const MAX_FILE: u64 = 4096;

/// Why a key could not be had from a file.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret file {path}: {cause}. Name another one with --secret.")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The file holds something else than a key.
    #[error(
        "the secret file {path} holds no key of the form /key/swarm/psk/1.0.0/, /base16/, 64 hexadecimal digits, a line each. \
         Name another one with --secret."
    )]
    WrongForm {
        /// The file.
        path: PathBuf,
    },
    /// Other users of this machine can read the file.
    #[error("the secret file {path} can be read by other users (mode {mode:04o}). Make it private: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Reads the key.
///
/// # Errors
///
/// When the file cannot be read, is readable by others, or holds something else.
pub fn read(path: &Path) -> Result<PreSharedKey, SecretError> {
    let unreadable = |cause| SecretError::Unreadable { path: path.into(), cause };
    let file = File::open(path).map_err(unreadable)?;
    if let Some(mode) = mode_for_others(&file).map_err(unreadable)? {
        return Err(SecretError::Exposed { path: path.into(), mode });
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(unreadable)?;
    text.parse().map_err(|_| SecretError::WrongForm { path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_key_is_read_from_a_private_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("swarm.key");
        assert!(matches!(read(&path), Err(SecretError::Unreadable { .. })));
        let key = "0123456789abcdef".repeat(4);
        fs::write(&path, format!("/key/swarm/psk/1.0.0/\n/base16/\n{key}\n")).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            assert!(matches!(read(&path), Err(SecretError::Exposed { mode: 0o644, .. })));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert!(read(&path).is_ok());
        for text in ["", "hello", &key] {
            fs::write(&path, text).unwrap();
            assert!(matches!(read(&path), Err(SecretError::WrongForm { .. })), "{text}");
        }
    }
}
