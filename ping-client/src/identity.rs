//! The client's own identity: a new one each time, or that of a file.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Result, anyhow};
use libp2p::identity::Keypair;
use ping_core::identity::{Identity, IdentityError};
use tracing::info;

/// A key, and the file that it is kept in, which is locked for as long as this lives.
pub(crate) struct Own {
    pub(crate) keypair: Keypair,
    _file: Option<Identity>,
}

/// The identity in the file, or a new one.
///
/// # Errors
///
/// When the file cannot be read or made, holds something else, is readable by others, or is in use.
pub(crate) fn own(path: Option<&Path>) -> Result<Own> {
    let Some(path) = path else { return Ok(Own { keypair: Keypair::generate_ed25519(), _file: None }) };
    let identity = Identity::load_or_create(path).map_err(|error| explain(&error))?;
    if identity.created {
        info!("Made a new identity in {}", path.display());
    }
    Ok(Own { keypair: identity.keypair.clone(), _file: Some(identity) })
}

fn explain(error: &IdentityError) -> anyhow::Error {
    anyhow!("{error}. {}", error.mend("leave it out"))
}

/// Prints the identity in the file, which may be in use.
///
/// # Errors
///
/// As [`own`], and when it cannot be printed.
pub(crate) fn print(path: &Path) -> Result<ExitCode> {
    let public = Identity::public(path).map_err(|error| explain(&error))?;
    writeln!(io::stdout(), "{}", public.to_peer_id())?;
    Ok(ExitCode::SUCCESS)
}
