//! The file with the pre-shared key of a private network.
//!
//! Its format is that of IPFS's `swarm.key`: the line `/key/swarm/psk/1.0.0/`, the line `/base16/`, and 64 hexadecimal
//! digits.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use libp2p::pnet::PreSharedKey;

use super::private_file::mode_for_others;

/// How much of the file is read, in bytes. A key takes 95.
const MAX_FILE_SIZE: u64 = 4096;

/// Why a file gave no key.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret file {path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
    /// The file holds something else.
    #[error(
        "the secret file {path} holds no key (/key/swarm/psk/1.0.0/, /base16/ and 64 hexadecimal digits, one line each)"
    )]
    WrongForm {
        /// The file.
        path: PathBuf,
    },
    /// Other users of this machine can read the file.
    #[error("other users can read the secret file {path} (mode {mode:04o})")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl SecretError {
    /// What the user can do about it, given the option that names the file.
    pub fn help(&self, option: &str) -> String {
        match self {
            Self::Unreadable { .. } | Self::WrongForm { .. } => format!("Name another file with {option}."),
            Self::Exposed { path, .. } => format!("Make it private: chmod 600 {}", path.display()),
        }
    }
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
    file.take(MAX_FILE_SIZE).read_to_string(&mut text).map_err(unreadable)?;
    text.parse().map_err(|_| SecretError::WrongForm { path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_key_is_read_only_from_a_private_file() {
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
