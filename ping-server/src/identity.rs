//! The file of the server's identity.

use std::{env, path::PathBuf};

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

/// A file in the state directory that a service manager has made (`STATE_DIRECTORY`, systemd.exec(5)), or in that of
/// the user, or in the local data directory on systems without one.
fn default_path(name: &str) -> Option<PathBuf> {
    // It may have made several.
    let of_service = env::var_os("STATE_DIRECTORY").and_then(|paths| env::split_paths(&paths).next());
    let of_user = || Some(dirs::state_dir().or_else(dirs::data_local_dir)?.join("kameo-ping"));
    Some(of_service.filter(|path| path.is_absolute()).or_else(of_user)?.join(name))
}
