//! The server's place in a cluster: whom it joins, whom it remembers, and what it reports.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use ping_core::{
    Event, ServerAddress,
    cluster::{self, Cluster, MemberInfo, State, join::join, record::HostedActor},
    hardening::LogLimit,
    program::read_small_file,
};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::{events::ServerEvent, listen::connection_address};

/// How long changes are gathered before the members are stored.
const GATHER: Duration = Duration::from_secs(1);

/// How many members are stored, and tried after a restart.
const MAX_STORED: usize = 100;

/// The pause between two rounds of trying the stored ones.
const PAUSE: Duration = Duration::from_secs(2);

/// Where to find a member.
#[derive(Clone, Debug)]
pub(crate) enum Seed {
    /// Anywhere on the local network.
    Mdns,
    /// There.
    Address(ServerAddress),
}

impl FromStr for Seed {
    type Err = <ServerAddress as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "mdns" { Ok(Self::Mdns) } else { text.parse().map(Self::Address) }
    }
}

/// The server's place in a cluster.
pub(crate) struct Membership {
    cluster: Cluster,
    joins_by_mdns: bool,
    namesakes: LogLimit,
}

impl Membership {
    /// Hosts actors for all members, and joins those that the seeds name. Members are stored in `file`, and joined
    /// after a restart, by a server that has seeds.
    pub(crate) fn start(cluster: Cluster, actors: Vec<HostedActor>, seeds: &[Seed], file: Option<PathBuf>) -> Self {
        cluster.host(actors);
        for seed in seeds {
            if let Seed::Address(address) = seed {
                tokio::spawn(join(cluster.clone(), address.clone()));
            }
        }
        if let Some(file) = file.filter(|_| !seeds.is_empty()) {
            tokio::spawn(remember(cluster.clone(), file));
        }
        let joins_by_mdns = seeds.iter().any(|seed| matches!(seed, Seed::Mdns));
        Self { cluster, joins_by_mdns, namesakes: LogLimit::default() }
    }

    /// Whether a peer is, or was, a member rather than a client.
    pub(crate) fn knows(&self, peer: &PeerId) -> bool {
        self.cluster.knows(peer)
    }

    /// Joins a member that mDNS found, if that is wanted.
    pub(crate) fn on_event(&self, event: &Event) {
        if let Event::Discovered { peer, address } = event
            && self.joins_by_mdns
            && !self.cluster.has(peer)
        {
            let (cluster, peer, address) = (self.cluster.clone(), *peer, address.clone());
            tokio::spawn(async move {
                if let Err(reason) = cluster.dial(address, Some(peer)).await {
                    debug!(%peer, %reason, "not joined");
                }
            });
        }
    }

    /// Tells that a member has the name of another one, which people then confuse.
    pub(crate) fn warn_of_namesakes(&mut self, member: &MemberInfo) {
        let Some(other) = self.cluster.namesake(&member.peer) else { return };
        // Anyone can make up members.
        if let Some(count) = self.namesakes.count() {
            warn!(
                "Two members are called {}: {other} and {}. Give one another --node ({count} so far)",
                member.node, member.peer
            );
        }
    }

    /// All members, as they are reported.
    pub(crate) fn members(&self) -> Vec<MemberInfo> {
        self.cluster.members()
    }
}

/// What is reported of a change in the cluster.
pub(crate) fn report(event: &cluster::Event) -> ServerEvent<'_> {
    match event {
        cluster::Event::Joined(member) => ServerEvent::MemberJoined(member.into()),
        cluster::Event::Left(member) => ServerEvent::MemberLeft(member.into()),
        cluster::Event::Died(member) => ServerEvent::MemberDied(member.into()),
        cluster::Event::Revived(member) => ServerEvent::MemberRevived(member.into()),
        cluster::Event::ActorCame(member, name) => {
            ServerEvent::ActorCame { node: &member.node, peer_id: member.peer, name }
        }
        cluster::Event::ActorGone(member, name) => {
            ServerEvent::ActorGone { node: &member.node, peer_id: member.peer, name }
        }
    }
}

/// Joins the members that were stored before a restart, and stores those that are there from now on.
async fn remember(cluster: Cluster, file: PathBuf) {
    let mut digest = cluster.digest();
    let stored = load(&file);
    while !stored.is_empty() && others(&cluster).next().is_none() {
        for (address, peer) in &stored {
            if cluster.dial(address.clone(), Some(*peer)).await.is_ok() {
                break;
            }
        }
        tokio::select! {
            _ = digest.changed() => {}
            () = sleep(PAUSE) => {}
        }
    }
    while digest.changed().await.is_ok() {
        sleep(GATHER).await;
        digest.mark_unchanged();
        let addresses: Vec<Multiaddr> = others(&cluster)
            .flat_map(|member| member.addresses.into_iter().take(1).map(move |it| connection_address(&it, member.peer)))
            .take(MAX_STORED)
            .collect();
        // Those that were there last are worth more than nobody.
        if !addresses.is_empty()
            && let Err(error) = store(&file, &addresses)
        {
            warn!("Cannot store the members in {}: {error}", file.display());
        }
    }
}

/// The other members that are there.
fn others(cluster: &Cluster) -> impl Iterator<Item = MemberInfo> {
    let me = cluster.me();
    cluster.members().into_iter().filter(move |member| member.peer != me && member.state == State::Alive)
}

/// The members in a file. What is not an address with an identity is passed over.
fn load(file: &Path) -> Vec<(Multiaddr, PeerId)> {
    let text = read_small_file(file).unwrap_or_default();
    let addresses = text.lines().filter_map(|line| line.parse::<Multiaddr>().ok());
    let pairs = addresses.filter_map(|mut address| match address.pop() {
        Some(Protocol::P2p(peer)) => Some((address, peer)),
        _ => None,
    });
    pairs.take(MAX_STORED).collect()
}

/// Replaces the file as a whole.
fn store(file: &Path, addresses: &[Multiaddr]) -> io::Result<()> {
    let draft = file.with_extension("members.new");
    let lines: Vec<_> = addresses.iter().map(|address| format!("{address}\n")).collect();
    fs::write(&draft, lines.concat())?;
    fs::rename(&draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_members_are_read_and_anything_else_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("identity.members");
        assert!(load(&file).is_empty());
        let peer = PeerId::random();
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        store(&file, &[connection_address(&address, peer)]).unwrap();
        fs::write(&file, format!("{}rubbish\n/ip4/192.0.2.2/tcp/2\n", fs::read_to_string(&file).unwrap())).unwrap();
        assert_eq!(load(&file), [(address, peer)]);
    }

    #[test]
    fn a_seed_is_an_address_or_mdns() {
        assert!(matches!("mdns".parse(), Ok(Seed::Mdns)));
        assert!(matches!("example.org:9001".parse(), Ok(Seed::Address(_))));
        assert!("/ip4/1.2.3.4".parse::<Seed>().is_err());
    }
}
