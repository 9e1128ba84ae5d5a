//! A connection handler that is not made until it is needed.
//!
//! Every stream that a peer opens is offered the protocols of all handlers, and every handler is polled with each. Most
//! connections are those of clients, which need not pay for the protocols of members. gossipsub's queue alone takes
//! 60 kB.

use std::{
    fmt,
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
pub(crate) enum ToLate<H: ConnectionHandler> {
    /// It is needed from now on.
    Begin(Box<H>),
    /// An event for the handler itself.
    Event(H::FromBehaviour),
}

impl<H: ConnectionHandler> fmt::Debug for ToLate<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin(_) => f.write_str("Begin"),
            Self::Event(event) => event.fmt(f),
        }
    }
}

/// A handler that may not exist yet.
pub(crate) struct Late<H>(pub(super) Option<Box<H>>);

/// Its inbound protocols: none, as long as there is no handler.
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
    type FromBehaviour = ToLate<H>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = LateUpgrade<U>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, ()> {
        match &self.0 {
            Some(handler) => handler.listen_protocol().map_upgrade(|upgrade| LateUpgrade(Some(upgrade))),
            None => SubstreamProtocol::new(LateUpgrade(None), ()),
        }
    }

    fn connection_keep_alive(&self) -> bool {
        self.0.as_ref().is_some_and(|handler| handler.connection_keep_alive())
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        self.0.as_mut().map_or(Poll::Pending, |handler| handler.poll(context))
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        // A connection polls its handlers after each event from the behaviour.
        match (event, &mut self.0) {
            (ToLate::Begin(handler), _) => self.0 = Some(handler),
            (ToLate::Event(event), Some(handler)) => handler.on_behaviour_event(event),
            (ToLate::Event(_), None) => {}
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), Self::OutboundOpenInfo>,
    ) {
        let Some(handler) = &mut self.0 else { return };
        handler.on_connection_event(match event {
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
