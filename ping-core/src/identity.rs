//! The Ed25519 key file that gives a node the same peer id after every restart.
//!
//! The file holds the key in libp2p's own protobuf encoding, so that other libp2p programs can read it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process,
};

use libp2p::identity::{KeyType, Keypair};

/// The largest key file that is read, in bytes. An Ed25519 key in protobuf has 68.
const MAX_KEY_FILE: u64 = 4096;

/// An identity read from its file, and held so that no other process on this machine can take it.
#[derive(Debug)]
pub struct Identity {
    /// The key itself.
    pub keypair: Keypair,
    /// Whether the file was made just now.
    pub created: bool,
    // The lock lasts as long as this file is open.
    _lock: File,
}

/// Why an identity could not be had from a file.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read the identity file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file, its lock file or its folder cannot be made.
    #[error("cannot write the identity file {path}: {source}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file holds something else than a key, or a key of another kind.
    #[error("the identity file {path} holds no Ed25519 key: {reason}")]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        reason: String,
    },
    /// Other users of this machine can read the file.
    #[error("the identity file {path} can be read by other users (mode {mode:04o})")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process holds the identity.
    #[error("the identity {path} is in use by {holder}")]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process that holds it, as far as it said.
        holder: String,
    },
}

impl Identity {
    /// Reads the identity in `path`, or makes one there (mode 0600) if there is no such file, and locks it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or made, holds something else, is readable by others, or is in use.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|source| IdentityError::Unwritable { path: path.into(), source })?;
        }
        // Two names of one file are one identity.
        let path = &fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let lock = lock(path)?;
        match read(path) {
            Ok(keypair) => Ok(Self { keypair, created: false, _lock: lock }),
            Err(IdentityError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let keypair = create(path).map_err(|source| IdentityError::Unwritable { path: path.into(), source })?;
                Ok(Self { keypair, created: true, _lock: lock })
            }
            Err(error) => Err(error),
        }
    }
}

/// Takes the lock file beside `path` and writes this process's number into it.
fn lock(path: &Path) -> Result<File, IdentityError> {
    let unwritable = |source| IdentityError::Unwritable { path: path.into(), source };
    let lock_path = beside(path, ".lock");
    let mut lock = private(OpenOptions::new().read(true).write(true).create(true).truncate(false))
        .open(&lock_path)
        .map_err(unwritable)?;
    match lock.try_lock() {
        Ok(()) => {
            lock.set_len(0).and_then(|()| writeln!(lock, "{}", process::id())).map_err(unwritable)?;
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Where the lock also forbids reading (Windows), the holder stays unnamed.
            let _ = lock.take(32).read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => "another process".into(),
                pid => format!("process {pid}"),
            };
            Err(IdentityError::InUse { path: path.into(), holder })
        }
        Err(TryLockError::Error(source)) => Err(unwritable(source)),
    }
}

fn read(path: &Path) -> Result<Keypair, IdentityError> {
    let unreadable = |source| IdentityError::Unreadable { path: path.into(), source };
    let wrong_kind = |reason| IdentityError::WrongKind { path: path.into(), reason };
    let file = File::open(path).map_err(unreadable)?;
    refuse_exposed(path, &file)?;
    let mut bytes = Vec::new();
    file.take(MAX_KEY_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_KEY_FILE {
        return Err(wrong_kind(format!("it is longer than {MAX_KEY_FILE} bytes")));
    }
    let keypair = Keypair::from_protobuf_encoding(&bytes).map_err(|error| wrong_kind(error.to_string()))?;
    match keypair.key_type() {
        KeyType::Ed25519 => Ok(keypair),
        other => Err(wrong_kind(format!("its key is of the kind {other}"))),
    }
}

/// Makes a key and its file in one step that either happens or does not, whatever interrupts it.
fn create(path: &Path) -> io::Result<Keypair> {
    let keypair = Keypair::generate_ed25519();
    let bytes = keypair.to_protobuf_encoding().map_err(io::Error::other)?;
    let draft = beside(path, ".new");
    // What an interrupted attempt left behind may be readable by others, or lead elsewhere.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private(OpenOptions::new().write(true).create_new(true)).open(&draft)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(keypair)
}

/// `path` with something added to its file name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes what is created readable and writable by its owner alone, where the system knows such a thing.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

#[cfg(unix)]
fn refuse_exposed(path: &Path, file: &File) -> Result<(), IdentityError> {
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata().map_err(|source| IdentityError::Unreadable { path: path.into(), source })?;
    match metadata.mode() & 0o777 {
        mode if metadata.is_file() && mode & 0o077 != 0 => Err(IdentityError::Exposed { path: path.into(), mode }),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn refuse_exposed(_: &Path, _: &File) -> Result<(), IdentityError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn an_identity_survives_a_restart() {
        let folder = folder();
        let path = folder.path().join("deep/down/identity.key");
        let first = Identity::load_or_create(&path).unwrap();
        assert!(first.created);
        let peer = first.keypair.public().to_peer_id();
        drop(first);
        let second = Identity::load_or_create(&path).unwrap();
        assert!(!second.created);
        assert_eq!(second.keypair.public().to_peer_id(), peer);
    }

    #[test]
    fn an_identity_in_use_names_the_process_that_holds_it() {
        let folder = folder();
        let path = folder.path().join("identity.key");
        let _held = Identity::load_or_create(&path).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(matches!(error, IdentityError::InUse { .. }), "{error}");
        #[cfg(unix)]
        assert!(error.to_string().contains(&format!("process {}", process::id())), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn another_name_of_the_file_is_the_same_identity() {
        let folder = folder();
        let path = folder.path().join("identity.key");
        let _held = Identity::load_or_create(&path).unwrap();
        let alias = folder.path().join("alias.key");
        std::os::unix::fs::symlink(&path, &alias).unwrap();
        assert!(matches!(Identity::load_or_create(&alias), Err(IdentityError::InUse { .. })));
    }

    #[test]
    fn what_is_no_ed25519_key_is_refused() {
        let folder = folder();
        for (name, bytes) in [("text", &b"not a key"[..]), ("empty", b""), ("long", &[0; 5000])] {
            let path = folder.path().join(name);
            private(OpenOptions::new().write(true).create(true)).open(&path).unwrap().write_all(bytes).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::WrongKind { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn a_folder_is_no_identity_file() {
        let folder = folder();
        let path = folder.path().join("folder");
        fs::create_dir(&path).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(matches!(error, IdentityError::Unreadable { .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_private_and_must_stay_so() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder();
        let path = folder.path().join("identity.key");
        drop(Identity::load_or_create(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(matches!(error, IdentityError::Exposed { mode: 0o644, .. }), "{error}");
    }
}
