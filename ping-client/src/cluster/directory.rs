//! The members of a cluster, as one of them knows them, and those that come and go.

use std::{collections::HashMap, time::Duration};

use libp2p::PeerId;
use ping_core::{
    Node, ServerAddress,
    cluster::{MemberInfo, list, next_digest},
};
use tokio::{sync::oneshot, time::sleep};
use tracing::{debug, info, warn};

use crate::{error::Error, find::Finder, plan::Plan};

/// How long to wait before another member is asked for the directory.
const PAUSE: Duration = Duration::from_millis(250);

/// A member that is there and hosts the actor.
pub(super) struct New {
    pub(super) member: MemberInfo,
    /// Where it is.
    pub(super) server: ServerAddress,
    /// Says that it is gone.
    pub(super) gone: oneshot::Receiver<()>,
}

/// A member with which something is begun.
struct Known {
    member: MemberInfo,
    is_gone: bool,
    /// Ends it.
    ending: oneshot::Sender<()>,
}

/// The members of the cluster, as one of them knows them.
pub(super) struct Members<'a> {
    plan: &'a Plan,
    node: &'a Node,
    seeds: &'a [ServerAddress],
    /// Whether what is begun with a member goes on when it is back.
    lasts: bool,
    /// Those with which something is begun.
    known: HashMap<PeerId, Known>,
    /// Who is asked, and the digest of what it said.
    source: Option<(PeerId, u64)>,
}

impl<'a> Members<'a> {
    /// The members of the cluster that the servers at these addresses belong to. With `lasts`, a member that is back is
    /// not new, because what was begun with it reconnects by itself.
    pub(super) fn new(plan: &'a Plan, node: &'a Node, seeds: &'a [ServerAddress], lasts: bool) -> Self {
        Self { plan, node, seeds, lasts, known: HashMap::new(), source: None }
    }

    /// Connects to the first of the servers that answers, and asks it. Fails if nobody hosts the actor.
    ///
    /// The connection is closed then, because there is one with a peer at most: from now on, the directory is asked
    /// over those of the sessions.
    pub(super) async fn find(&mut self) -> Result<Vec<New>, Error> {
        self.reach().await?;
        let members = self.update().await?;
        if let Some((peer, _)) = self.source.take() {
            self.node.disconnect(peer);
        }
        if members.is_empty() {
            return Err(Error::NoMemberHosts { name: self.plan.find.name.clone() });
        }
        Ok(members)
    }

    /// Connects to the first of the servers that answers.
    async fn reach(&mut self) -> Result<(), Error> {
        let (plan, node) = (self.plan, self.node);
        let mut last = Error::NothingDiscovered;
        for seed in self.seeds {
            let finder = Finder::new(node, &plan.find.name, plan.find.timeout);
            match finder.within_limit(finder.reach(seed), || Error::no_answer(seed)).await {
                Ok(connection) => {
                    self.source = Some((connection.peer, 0));
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Waits until the directory changes; if the member that was asked is gone, until there is another one.
    async fn wait(&mut self) {
        if let Some((peer, digest)) = self.source {
            match next_digest(self.node, peer, digest).await {
                Ok(_) => return,
                Err(error) => {
                    debug!(%error, %peer, "the directory is not answered");
                    self.source = None;
                }
            }
        }
        while self.source.is_none() {
            // Every session has a connection to its member.
            for peer in self.known.keys() {
                if list(self.node, *peer, None).await.is_ok() {
                    self.source = Some((*peer, 0));
                    return;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits for members that join. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> Vec<New> {
        self.wait().await;
        self.update().await.unwrap_or_else(|error| {
            debug!(%error, "another member is asked");
            Vec::new()
        })
    }

    /// Finds members that are new, and ends the sessions of those that are gone.
    async fn update(&mut self) -> Result<Vec<New>, Error> {
        let Some((peer, _)) = self.source else { return Ok(Vec::new()) };
        let (plan, node) = (self.plan, self.node);
        let listing = list(node, peer, None).await.map_err(|error| Error::NoDirectory { peer, error })?;
        self.source = Some((peer, listing.digest));
        let mut new = Vec::new();
        for member in listing.members {
            if member.is_there() && member.actor(&plan.find.name).is_some() {
                new.extend(self.add(member));
            } else {
                self.lose(member.peer);
            }
        }
        Ok(new)
    }

    fn lose(&mut self, peer: PeerId) {
        let Some(known) = self.known.get_mut(&peer).filter(|known| !known.is_gone) else { return };
        warn!("Member gone: {} ({peer})", known.member.node);
        known.is_gone = true;
        if !self.lasts
            && let Some(known) = self.known.remove(&peer)
        {
            let _ = known.ending.send(());
        }
    }

    fn add(&mut self, member: MemberInfo) -> Option<New> {
        if let Some(known) = self.known.get_mut(&member.peer) {
            if std::mem::take(&mut known.is_gone) {
                info!("Member is back: {} ({})", member.node, member.peer);
            }
            return None;
        }
        let Some(server) = ServerAddress::of_peer(member.peer, &member.addresses) else {
            warn!("Cannot ping {} ({}): it names no address", member.node, member.peer);
            return None;
        };
        let (ending, gone) = oneshot::channel();
        self.known.insert(member.peer, Known { member: member.clone(), is_gone: false, ending });
        Some(New { member, server, gone })
    }
}
