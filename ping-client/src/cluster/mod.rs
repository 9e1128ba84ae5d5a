//! The client and a cluster: everything that asks a member for the others.
//!
//! - `members`: lists them, and follows who comes and goes.
//! - `matrix`: asks each of them how fast it reaches the others.
//! - `several`: pings all of them, or any servers, side by side.
//! - `spread`: spreads one stream of pings over all of them.
//! - `directory`: who is there, and who comes and goes.

mod directory;
mod matrix;
mod members;
mod several;
mod spread;

use std::{future::pending, io::ErrorKind, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use libp2p::identity::Keypair;
use ping_core::{
    Connection, Event, Node, Options, ServerAddress,
    program::{StopSignals, last_words},
};
use tokio::sync::mpsc;

use crate::{args::find_timeout, error::Error, find::Finder, identity, runtime::block_on, session::secret};

pub(crate) use matrix::{MatrixArgs, matrix};
pub(crate) use members::{MembersArgs, members};
pub(crate) use several::ping_several;
pub(crate) use spread::spread;

/// Where to find a member, and as whom.
#[derive(Debug, ClapArgs)]
pub(crate) struct MemberArgs {
    /// Where any member of the cluster is: as ADDRESS of a ping
    #[arg(value_name = "ANY")]
    member: ServerAddress,

    /// File with this client's Ed25519 key, created on first use [default: a new identity each time]
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,

    /// File with the pre-shared key of the members' private network
    #[arg(long, value_name = "FILE")]
    secret: Option<PathBuf>,

    /// How long to look for the member (1ms to 1d)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = find_timeout())]
    find_timeout: Duration,
}

/// Connects to a member and does something with it, until that is done or a signal stops it. Its error, if any, is the
/// last thing that is printed.
fn with_member(args: &MemberArgs, work: impl AsyncFnOnce(&Node, &Connection) -> Result<(), Error>) -> Result<ExitCode> {
    block_on(async {
        let mut signals = StopSignals::new().context("cannot handle signals")?;
        let own = identity::load(args.identity.as_deref())?;
        let options = Options { secret: secret(args.secret.as_deref())?, ..Options::default() };
        let (node, mut events) = start(&own.keypair, options)?;
        let finder = Finder::new(&node, "", args.find_timeout);
        let work = async {
            let search = finder.reach(&args.member);
            let connection = finder.within_limit(search, || Error::no_answer(&args.member)).await?;
            work(&node, &connection).await
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = signals.next() => Ok(()),
            reason = node.failed() => Err(Error::node_failed(&reason)),
            () = async { while events.recv().await.is_some() {} pending().await } => Ok(()),
        };
        node.stop().await;
        Ok(match outcome {
            // A reader that has gone ends the program quietly, as it does `ping`.
            Ok(()) | Err(Error::Output { kind: ErrorKind::BrokenPipe, .. }) => ExitCode::SUCCESS,
            Err(error) => {
                last_words("ping-client", &format_args!("{error}. {}", error.help()));
                ExitCode::from(2)
            }
        })
    })
}

/// A node that can ask members about their directories, and its events.
fn start(keypair: &Keypair, options: Options) -> Result<(Node, mpsc::UnboundedReceiver<Event>)> {
    Node::start(keypair, Options { asks_directories: true, ..options }).context("cannot start the node")
}
