//! The file with the pre-shared key of a private network.
//!
//! Its format is that of IPFS's `swarm.key`: the line `/key/swarm/psk/1.0.0/`, the line `/base16/`, and 64 hexadecimal
//! digits.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use libp2p::pnet::PreSharedKey;

use super::private_file::{Exposure, exposure};
use crate::program::{decode, open_regular};

/// How much of the file is read, in bytes. A key takes 95.
const MAX_FILE_SIZE: u64 = 4096;

/// How many digits a key has.
const KEY_DIGITS: usize = 64;

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
    /// Other users of this machine can read the file, or it is theirs.
    #[error("{exposure} the secret file {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// To whom.
        exposure: Exposure,
    },
}

impl SecretError {
    /// What the user can do about it, given the option that names the file.
    pub fn help(&self, option: &str) -> String {
        match self {
            Self::Unreadable { .. } | Self::WrongForm { .. } => format!("Name another file with {option}."),
            Self::Exposed { path, exposure } => exposure.help(path),
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
    let file = open_regular(path).map_err(unreadable)?;
    if let Some(exposure) = exposure(&file).map_err(unreadable)? {
        return Err(SecretError::Exposed { path: path.into(), exposure });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE).read_to_end(&mut bytes).map_err(unreadable)?;
    parse(&bytes).ok_or_else(|| SecretError::WrongForm { path: path.into() })
}

/// Reads the key, if the text has its form. libp2p's own parser panics on some texts, and takes others for a key.
fn parse(bytes: &[u8]) -> Option<PreSharedKey> {
    let text = decode(bytes)?;
    let digits = text.lines().nth(2)?.trim_end();
    let is_key = digits.len() == KEY_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_key { text.parse().ok() } else { None }
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
            assert!(matches!(read(&path), Err(SecretError::Exposed { exposure: Exposure::Mode(0o644), .. })));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert!(read(&path).is_ok());
        let form = |key: &[u8]| [b"/key/swarm/psk/1.0.0/\n/base16/\n", key].concat();
        let (foreign, signs) = ("é".repeat(32), "+f".repeat(32));
        let shifted = format!("a{}a", "é".repeat(31));
        for bytes in [
            b"".to_vec(),
            b"hello".to_vec(),
            key.as_bytes().to_vec(),
            form(&[0xff; 64]),
            form(foreign.as_bytes()),
            form(shifted.as_bytes()),
            form(signs.as_bytes()),
            form(&key.as_bytes()[1..]),
            form(format!("{key}0").as_bytes()),
        ] {
            fs::write(&path, &bytes).unwrap();
            assert!(matches!(read(&path), Err(SecretError::WrongForm { .. })), "{bytes:?}");
        }
    }
}
