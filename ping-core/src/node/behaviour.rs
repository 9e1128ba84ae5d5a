//! The protocols that a node runs.

use std::{collections::HashSet, io};

use kameo::remote;
use libp2p::{
    PeerId,
    allow_block_list::{self, AllowedPeers, BlockedPeers},
    identity::Keypair,
    ping, relay,
    request_response::ProtocolSupport,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};

use super::{boxed::Boxed, discovery::Discovery, keep_alive::KeepAlive, options::Options};
use crate::{
    cluster::{
        self, Cluster,
        messages::{Exchange, exchange},
    },
    hardening::{ConnectionLimits, GuardedKameo},
    nat::Circuits,
    protocol::{MAX_IN_FLIGHT, MAX_REQUEST_SIZE, STREAM_PROTOCOL},
    registry::Registry,
    stream::{self, behaviour::Accepting},
};

/// The protocols of one node.
///
/// The limits come first: the others never see what they deny.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) blocked: allow_block_list::Behaviour<BlockedPeers>,
    allowed: Toggle<allow_block_list::Behaviour<AllowedPeers>>,
    pub(super) limits: ConnectionLimits,
    pub(super) kameo: GuardedKameo,
    pub(super) streams: stream::behaviour::Behaviour,
    keep_alive: KeepAlive,
    pub(super) mdns: Toggle<Discovery>,
    pub(super) cluster: Toggle<Boxed<cluster::Behaviour>>,
    /// Asks members.
    pub(super) asker: Toggle<Boxed<Exchange>>,
    pub(super) circuits: Toggle<Boxed<Circuits>>,
}

impl Behaviour {
    /// Lets these peers connect and no others, if the node restricts who may.
    pub(super) fn allow(&mut self, peers: &HashSet<PeerId>) {
        let Some(allowed) = self.allowed.as_mut() else { return };
        let gone: Vec<_> = allowed.allowed_peers().difference(peers).copied().collect();
        for peer in gone {
            allowed.disallow_peer(peer);
        }
        for peer in peers {
            allowed.allow_peer(*peer);
        }
    }

    /// Composes the protocols of the node with this key, and the handle of its cluster if it is to be a member.
    ///
    /// # Errors
    ///
    /// When mDNS is wanted and the system does not let this process watch the network interfaces.
    pub(super) fn new(
        key: &Keypair,
        options: Options,
        relay: Option<relay::client::Behaviour>,
        (punches, returns): (Accepting, Accepting),
    ) -> io::Result<(Self, Option<Cluster>)> {
        let peer = key.public().to_peer_id();
        let messaging = remote::messaging::Config::default()
            .with_request_timeout(options.request_timeout)
            // A request's stream lives a little longer than the request.
            .with_max_concurrent_streams(2 * MAX_IN_FLIGHT as usize)
            .with_request_size_maximum(MAX_REQUEST_SIZE)
            .with_response_size_maximum(MAX_REQUEST_SIZE);
        let allowed = options.allowed.map(|peers| {
            let mut allowed = allow_block_list::Behaviour::<AllowedPeers>::default();
            for peer in peers {
                allowed.allow_peer(peer);
            }
            allowed
        });
        let keep_alive =
            ping::Config::new().with_interval(options.keep_alive_interval).with_timeout(options.keep_alive_timeout);
        let mdns = options.mdns.then(|| Discovery::new(peer)).transpose()?;
        let (cluster, handle) =
            options.cluster.map(|options| cluster::Behaviour::new(key, options)).transpose()?.unzip();
        let behaviour = Self {
            blocked: allow_block_list::Behaviour::default(),
            allowed: allowed.into(),
            limits: ConnectionLimits::new(options.limits),
            kameo: GuardedKameo::new(
                remote::Behaviour::new(peer, messaging),
                Registry::new(peer, handle.clone()),
                options.tally,
                options.listens,
            ),
            streams: stream::behaviour::Behaviour::new(STREAM_PROTOCOL, options.streams),
            keep_alive: KeepAlive::new(keep_alive),
            mdns: mdns.into(),
            cluster: cluster.map(Boxed).into(),
            asker: options.asks_directories.then(|| Boxed(exchange(ProtocolSupport::Outbound))).into(),
            circuits: relay.map(|client| Boxed(Circuits::new(key, client, punches, returns))).into(),
        };
        Ok((behaviour, handle))
    }
}
