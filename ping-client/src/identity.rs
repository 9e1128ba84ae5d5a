//! The client's own identity: a new one each time, or that of a file.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Result, anyhow};
use libp2p::identity::Keypair;
use ping_core::keys::{Identity, IdentityError};
use tracing::info;

/// A key, and the file that holds it, which stays locked while this lives.
pub(crate) struct OwnIdentity {
    pub(crate) keypair: Keypair,
    _file: Option<Identity>,
}

/// The identity in the file, or a new one.
pub(crate) fn load(path: Option<&Path>) -> Result<OwnIdentity> {
    let Some(path) = path else { return Ok(OwnIdentity { keypair: Keypair::generate_ed25519(), _file: None }) };
    let identity = Identity::load_or_create(path).map_err(|error| explain(&error))?;
    if identity.created {
        info!("Created a new identity in {}", path.display());
    }
    Ok(OwnIdentity { keypair: identity.keypair.clone(), _file: Some(identity) })
}

/// Prints the identity in the file, which may be in use.
pub(crate) fn print(path: &Path) -> Result<ExitCode> {
    let public = Identity::public(path).map_err(|error| explain(&error))?;
    match writeln!(io::stdout(), "{}", public.to_peer_id()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn explain(error: &IdentityError) -> anyhow::Error {
    anyhow!("{error}. {}", error.help("--identity", "omit --identity"))
}
