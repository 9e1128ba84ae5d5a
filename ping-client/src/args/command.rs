//! What the client does besides pinging.

use std::path::PathBuf;

use clap::Subcommand;
use clap_complete::Shell;
use ping_core::nat::Ticket;

use crate::{
    cluster::{MatrixArgs, MembersArgs},
    compare::CompareArgs,
    doctor::DoctorArgs,
    list::ListArgs,
    watch::WatchArgs,
};

/// What the client does besides pinging.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the servers on the local network
    List(ListArgs),
    /// Show what a ticket says
    Ticket {
        /// The ticket, as a server printed it
        ticket: Ticket,
    },
    /// Compare two results that --json wrote
    Compare(CompareArgs),
    /// Print the identity in a key file, for --allow
    ///
    /// Creates the file if there is none.
    Id {
        /// File with this client's Ed25519 key
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
    },
    /// List the members of a server's cluster
    Members(MembersArgs),
    /// Check every step to a pong, and say which fails
    Doctor(DoctorArgs),
    /// Show which members reach each other, and how fast
    Matrix(MatrixArgs),
    /// Ping servers for days, and report what changes
    ///
    /// A line for each server that comes or goes, slows down, or is reached by another path, and summaries.
    Watch(WatchArgs),
    /// Print the script that completes the options in a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    #[command(hide = true)]
    Manual {
        /// The folder to write them to
        folder: PathBuf,
    },
}
