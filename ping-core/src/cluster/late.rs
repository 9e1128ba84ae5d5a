//! A connection handler that sleeps until it is needed.
//!
//! Every stream that a peer opens is offered the protocols of all handlers, and every handler is polled with each. Most
//! connections are those of clients, which need not pay for the protocols of members.

use std::{
    iter::Flatten,
    option,
    task::{Context, Poll},
};

use futures::future::{Either, Pending, pending};
use libp2p::{
    Stream,
    core::{InboundUpgrade, UpgradeInfo},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
        handler::{ConnectionEvent, FullyNegotiatedInbound, ListenUpgradeError},
    },
};

/// What a behaviour tells such a handler.
#[derive(Debug)]
pub(crate) enum ToLate<T> {
    /// It is needed from now on.
    Wake,
    /// An event for the handler itself.
    Event(T),
}

/// A handler that may be asleep.
pub(crate) struct Late<H> {
    handler: H,
    is_awake: bool,
}

impl<H> Late<H> {
    pub(super) fn new(handler: H, is_awake: bool) -> Self {
        Self { handler, is_awake }
    }
}

/// Its inbound protocols: none, as long as it is asleep.
pub(crate) struct LateUpgrade<U>(Option<U>);

impl<U: UpgradeInfo> UpgradeInfo for LateUpgrade<U> {
    type Info = U::Info;
    type InfoIter = Flatten<option::IntoIter<U::InfoIter>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.as_ref().map(|upgrade| upgrade.protocol_info()).into_iter().flatten()
    }
}

impl<U: InboundUpgrade<Stream>> InboundUpgrade<Stream> for LateUpgrade<U> {
    type Output = U::Output;
    type Error = U::Error;
    type Future = Either<U::Future, Pending<Result<U::Output, U::Error>>>;

    fn upgrade_inbound(self, stream: Stream, info: U::Info) -> Self::Future {
        match self.0 {
            Some(upgrade) => Either::Left(upgrade.upgrade_inbound(stream, info)),
            // No peer agrees on a protocol that is not offered.
            None => Either::Right(pending()),
        }
    }
}

impl<H, U> ConnectionHandler for Late<H>
where
    H: ConnectionHandler<InboundProtocol = U, InboundOpenInfo = ()>,
    U: InboundUpgrade<Stream, Output: Send, Error: Send, Future: Send>
        + UpgradeInfo<Info: Clone + Send, InfoIter: IntoIterator<IntoIter: Send> + Send>
        + Send
        + 'static,
{
    type FromBehaviour = ToLate<H::FromBehaviour>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = LateUpgrade<U>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, ()> {
        if self.is_awake {
            self.handler.listen_protocol().map_upgrade(|upgrade| LateUpgrade(Some(upgrade)))
        } else {
            SubstreamProtocol::new(LateUpgrade(None), ())
        }
    }

    fn connection_keep_alive(&self) -> bool {
        self.handler.connection_keep_alive()
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if self.is_awake { self.handler.poll(context) } else { Poll::Pending }
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        // A connection polls its handlers after each event from the behaviour.
        self.is_awake = true;
        if let ToLate::Event(event) = event {
            self.handler.on_behaviour_event(event);
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), Self::OutboundOpenInfo>,
    ) {
        self.handler.on_connection_event(match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
            }
            ConnectionEvent::FullyNegotiatedOutbound(event) => ConnectionEvent::FullyNegotiatedOutbound(event),
            ConnectionEvent::DialUpgradeError(event) => ConnectionEvent::DialUpgradeError(event),
            ConnectionEvent::AddressChange(event) => ConnectionEvent::AddressChange(event),
            ConnectionEvent::LocalProtocolsChange(event) => ConnectionEvent::LocalProtocolsChange(event),
            ConnectionEvent::RemoteProtocolsChange(event) => ConnectionEvent::RemoteProtocolsChange(event),
            _ => return,
        });
    }
}
