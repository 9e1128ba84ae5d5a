//! The Ed25519 key file that gives a node the same peer id after every restart.
//!
//! The file holds the key in libp2p's own protobuf encoding, so that other libp2p programs can read it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process,
};

use libp2p::identity::{KeyType, Keypair, PublicKey};

use super::private_file::{Exposure, exposure, private};
use crate::program::{open_regular, read_small_file};

/// How much of a key file is read, in bytes. An Ed25519 key in protobuf takes 68.
const MAX_FILE_SIZE: u64 = 4096;

/// What follows the name of a key file in that of a draft of it.
const DRAFT: &str = ".new-";

/// An identity read from its file, and held so that no other process on this machine can take it.
#[derive(Debug)]
pub struct Identity {
    /// The key itself.
    pub keypair: Keypair,
    /// Whether the file was just created.
    pub created: bool,
    // The lock lasts as long as this file is open.
    _lock: File,
}

/// Why a file gave no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read the identity file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The file or its folder cannot be created.
    #[error("cannot write the identity file {path}: {source}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The file holds something else, or a key of another kind.
    #[error("the identity file {path} holds no Ed25519 key: {reason}")]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        reason: String,
    },
    /// Other users of this machine can read the file, or it is theirs.
    #[error("{exposure} the identity file {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// To whom.
        exposure: Exposure,
    },
    /// Another process holds the identity.
    #[error("the identity {path} is in use by {holder}")]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process that holds it, if its number is known.
        holder: String,
    },
}

impl IdentityError {
    /// What the user can do about it, given the option that names the file, and what makes the file unnecessary, such
    /// as "use --ephemeral".
    pub fn help(&self, option: &str, otherwise: &str) -> String {
        match self {
            Self::Unreadable { .. } | Self::Unwritable { .. } => {
                format!("Name another file with {option}, or {otherwise}.")
            }
            Self::WrongKind { .. } => {
                format!("Name another file with {option}, or remove this one to have a new key created.")
            }
            Self::Exposed { path, exposure } => exposure.help(path),
            Self::InUse { .. } => format!("Stop that process, name another file with {option}, or {otherwise}."),
        }
    }
}

impl Identity {
    /// The public half of the identity in `path`, which is created if there is none. It may be in use.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or created, holds something else, or is readable by others.
    pub fn public(path: &Path) -> Result<PublicKey, IdentityError> {
        match Self::load_or_create(path) {
            Ok(identity) => Ok(identity.keypair.public()),
            Err(IdentityError::InUse { .. }) => {
                let file =
                    open_regular(path).map_err(|source| IdentityError::Unreadable { path: path.into(), source })?;
                read(path, &file).map(|keypair| keypair.public())
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the identity in `path`, or creates one there (mode 0600) if there is no such file, and locks it.
    ///
    /// The lock is on the file itself, so it holds under every name that the file has.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or created, holds something else, is readable by others, or is in use.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        let unreadable = |source| IdentityError::Unreadable { path: path.into(), source };
        remove_drafts(path);
        let (file, created) = match open_regular(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path).map_err(|source| IdentityError::Unwritable { path: path.into(), source })?;
                (open_regular(path), true)
            }
            opened => (opened, false),
        };
        let file = file.map_err(unreadable)?;
        if let Some(exposure) = exposure(&file).map_err(unreadable)? {
            return Err(IdentityError::Exposed { path: path.into(), exposure });
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(IdentityError::InUse { path: path.into(), holder: holder(path) });
            }
            Err(TryLockError::Error(error)) => return Err(unreadable(error)),
        }
        let keypair = read(path, &file)?;
        // For the message to a process that is refused later. What has the name already may be a link or a pipe.
        let note = beside(path, ".pid");
        let _ = fs::remove_file(&note);
        let _ = write_new(format!("{}\n", process::id()).as_bytes(), &note);
        Ok(Self { keypair, created, _lock: file })
    }
}

/// The process that holds the file, if its number is known.
fn holder(path: &Path) -> String {
    // The path may be a link, and the number is beside the file itself.
    let names = [Some(path.to_owned()), fs::canonicalize(path).ok()];
    let mut notes = names.into_iter().flatten().filter_map(|name| read_small_file(&beside(&name, ".pid")).ok());
    match notes.find_map(|note| note.trim().parse::<u32>().ok()) {
        Some(pid) => format!("process {pid}"),
        None => "another process".into(),
    }
}

fn read(path: &Path, file: &File) -> Result<Keypair, IdentityError> {
    let wrong_kind = |reason: &str| IdentityError::WrongKind { path: path.into(), reason: reason.into() };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| IdentityError::Unreadable { path: path.into(), source })?;
    if bytes.is_empty() {
        return Err(wrong_kind("it is empty"));
    }
    match Keypair::from_protobuf_encoding(&bytes) {
        Ok(keypair) if keypair.key_type() == KeyType::Ed25519 => Ok(keypair),
        _ => Err(wrong_kind("it holds something else")),
    }
}

/// Creates a key and its file, and the folder if necessary. If another process is faster, its file stays.
fn create(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let bytes = Keypair::generate_ed25519().to_protobuf_encoding().map_err(io::Error::other)?;
    publish(&bytes, path, |draft, path| fs::hard_link(draft, path))
}

/// Writes a draft and gives it its name by `link`, in one step that an interruption cannot split. Where the file system
/// has no links, the file is created in place.
fn publish(bytes: &[u8], path: &Path, link: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let draft = beside(path, &format!("{DRAFT}{}", process::id()));
    // What an interrupted attempt left may be readable by others, or be a link.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // While the draft is locked, no other process removes it.
    let _lock = write_new(bytes, &draft)?;
    let published = match link(&draft, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => write_new(bytes, path).map(drop),
        linked => linked,
    };
    fs::remove_file(&draft)?;
    match published {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        published => published,
    }
}

/// Writes a file that must not exist, and locks it.
fn write_new(bytes: &[u8], path: &Path) -> io::Result<File> {
    let mut file = private(OpenOptions::new().write(true).create_new(true)).open(path)?;
    let _ = file.try_lock();
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Removes the drafts that interrupted processes left beside the file. One that is in use is locked.
fn remove_drafts(path: &Path) {
    let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned() + DRAFT) else { return };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_draft = entry.file_name().to_string_lossy().starts_with(&name);
        if is_draft && entry.file_type().is_ok_and(|kind| kind.is_file()) && is_unlocked(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_unlocked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// `path` with something added to its file name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
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
    fn the_faster_process_wins_even_without_links() {
        let folder = folder();
        let path = folder.path().join("identity.key");
        let no_links = |_: &Path, _: &Path| Err(io::ErrorKind::Unsupported.into());
        publish(b"first", &path, no_links).unwrap();
        publish(b"second", &path, no_links).unwrap();
        publish(b"third", &path, |draft, path| fs::hard_link(draft, path)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
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
        let [soft, hard] = ["soft.key", "hard.key"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink(&path, &soft).unwrap();
        fs::hard_link(&path, &hard).unwrap();
        for alias in [soft, hard] {
            assert!(matches!(Identity::load_or_create(&alias), Err(IdentityError::InUse { .. })));
        }
    }

    #[cfg(unix)]
    #[test]
    fn only_a_regular_file_is_opened() {
        // Reading a pipe that nothing writes to would never end.
        let path = folder().keep().join("pipe");
        assert!(process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Unreadable { .. })));
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn drafts_that_a_kill_left_are_removed_and_those_in_use_are_not() {
        let folder = folder();
        let path = folder.path().join("identity.key");
        let [left, in_use, other] = ["identity.key.new-1", "identity.key.new-2", "other.new-1"];
        for name in [left, other] {
            fs::write(folder.path().join(name), "draft").unwrap();
        }
        let _lock = write_new(b"draft", &folder.path().join(in_use)).unwrap();
        let identity = Identity::load_or_create(&path).unwrap();
        assert!(identity.created);
        let exists = |name: &str| folder.path().join(name).exists();
        assert!(!exists(left) && exists(in_use) && exists(other));
    }

    #[cfg(unix)]
    #[test]
    fn the_note_of_the_process_follows_no_link_and_waits_for_no_pipe() {
        let folder = folder();
        let path = folder.path().join("identity.key");
        let [victim, note] = ["victim", "identity.key.pid"].map(|name| folder.path().join(name));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &note).unwrap();
        drop(Identity::load_or_create(&path).unwrap());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        fs::remove_file(&note).unwrap();
        assert!(process::Command::new("mkfifo").arg(&note).status().unwrap().success());
        let _held = Identity::load_or_create(&path).unwrap();
        fs::remove_file(&note).unwrap();
        assert!(process::Command::new("mkfifo").arg(&note).status().unwrap().success());
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
    }

    #[test]
    fn anything_but_an_ed25519_key_is_rejected() {
        let folder = folder();
        for (name, bytes) in [("text", &b"not a key"[..]), ("empty", b""), ("long", &[0; 5000])] {
            let path = folder.path().join(name);
            private(OpenOptions::new().write(true).create(true)).open(&path).unwrap().write_all(bytes).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::WrongKind { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn a_folder_is_not_an_identity_file() {
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
        assert!(matches!(error, IdentityError::Exposed { exposure: Exposure::Mode(0o644), .. }), "{error}");
    }
}
