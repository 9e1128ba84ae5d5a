//! The file of the server's identity.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use ping_core::keys::Identity;
use tracing::info;

/// The identity in this file, or in that of this user, made if there is none.
pub(crate) fn load(path: Option<PathBuf>) -> Result<Identity> {
    load_from(self::path(path))
}

/// The identity of a relay.
pub(crate) fn load_relay(path: Option<PathBuf>) -> Result<Identity> {
    load_from(path.or_else(|| default_path("relay.key")))
}

fn load_from(path: Option<PathBuf>) -> Result<Identity> {
    let path = path.ok_or_else(|| {
        anyhow!("this user has no home directory for an identity. Name a file with --identity, or use --ephemeral.")
    })?;
    let identity = Identity::load_or_create(&path)
        .map_err(|error| anyhow!("{error}. {}", error.help("--identity", "use --ephemeral")))?;
    if identity.created {
        info!("Created a new identity in {}", path.display());
    }
    Ok(identity)
}

/// The file of the identity: this one, or that of this user.
pub(crate) fn path(path: Option<PathBuf>) -> Option<PathBuf> {
    path.or_else(|| default_path("identity.key"))
}

/// A file of `kameo-ping` in the state directory, or in the local data directory on systems without one.
fn default_path(name: &str) -> Option<PathBuf> {
    Some(dirs::state_dir().or_else(dirs::data_local_dir)?.join("kameo-ping").join(name))
}
