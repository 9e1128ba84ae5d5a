//! The arguments of commands that search for actors and report what they find.

use std::path::PathBuf;

use ping_core::{address, protocol::DEFAULT_NAME};

/// What to search for, as whom, and how to report it.
#[derive(Debug, clap::Args)]
pub(crate) struct SearchArgs {
    /// Name that the actor is registered under (1 to 255 bytes)
    #[arg(long, default_value = DEFAULT_NAME, value_parser = address::parse_name)]
    pub(crate) name: String,

    /// File with this client's Ed25519 key, created on first use [default: a new identity each time]
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,

    /// File with the pre-shared key of a private network
    #[arg(long, value_name = "FILE")]
    pub(crate) secret: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
