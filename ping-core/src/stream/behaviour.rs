//! How a node opens and accepts streams.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    option,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{
        Endpoint, UpgradeInfo,
        transport::PortUse,
        upgrade::{InboundUpgrade, ReadyUpgrade},
    },
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::warn;

use super::Ended;
use crate::{hardening::LogLimit, protocol::MAX_STREAMS};

/// A stream that a peer opened.
pub struct Inbound {
    /// Who opened it.
    pub peer: PeerId,
    /// On which connection.
    pub(crate) connection: ConnectionId,
    pub(crate) stream: Stream,
    /// The place of the stream among those that its connection may have.
    pub(crate) place: OwnedSemaphorePermit,
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Gets the stream that is being opened.
pub(crate) type Opening = oneshot::Sender<Result<Stream, Ended>>;

/// Gets the streams that peers open, if the node accepts any.
pub(crate) type Accepting = Option<mpsc::UnboundedSender<Inbound>>;

/// Opens and accepts the streams of one protocol.
pub(crate) struct Behaviour {
    protocol: StreamProtocol,
    accepting: Accepting,
    openings: VecDeque<(PeerId, ConnectionId, (StreamProtocol, Opening))>,
    waker: Option<Waker>,
    /// Streams above the limit, on all connections.
    rejections: Arc<Mutex<LogLimit>>,
}

impl Behaviour {
    pub(crate) fn new(protocol: StreamProtocol, accepting: Accepting) -> Self {
        Self { protocol, accepting, openings: VecDeque::new(), waker: None, rejections: Arc::default() }
    }

    /// Opens a stream to a peer. If the connection is gone, `opening` is dropped.
    pub(crate) fn open(&mut self, peer: PeerId, connection: ConnectionId, opening: Opening) {
        self.open_of(self.protocol.clone(), peer, connection, opening);
    }

    /// The same, of another protocol, of which none are accepted here.
    pub(crate) fn open_of(
        &mut self,
        protocol: StreamProtocol,
        peer: PeerId,
        connection: ConnectionId,
        opening: Opening,
    ) {
        self.openings.push_back((peer, connection, (protocol, opening)));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn handler(&self, peer: PeerId, connection: ConnectionId) -> Handler {
        let (accepting, rejections) = (self.accepting.clone(), self.rejections.clone());
        Handler {
            protocol: self.protocol.clone(),
            peer,
            connection,
            accepting,
            rejections,
            places: Arc::new(Semaphore::new(MAX_STREAMS)),
            openings: VecDeque::new(),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(peer, id))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(peer, id))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection, event)) = self.openings.pop_front() {
            let handler = NotifyHandler::One(connection);
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
        }
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// The inbound protocol, if streams are accepted.
pub(crate) struct Accept(Option<StreamProtocol>);

impl UpgradeInfo for Accept {
    type Info = StreamProtocol;
    type InfoIter = option::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Accept {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

/// Opens and accepts the streams of one connection.
pub(crate) struct Handler {
    protocol: StreamProtocol,
    peer: PeerId,
    connection: ConnectionId,
    accepting: Accepting,
    places: Arc<Semaphore>,
    rejections: Arc<Mutex<LogLimit>>,
    openings: VecDeque<(StreamProtocol, Opening)>,
}

impl Handler {
    fn log_rejection(&self) {
        if let Some(count) = self.rejections.lock().unwrap_or_else(PoisonError::into_inner).count() {
            warn!("Rejected a stream from {}: it has {MAX_STREAMS} already ({count} so far)", self.peer);
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = (StreamProtocol, Opening);
    type ToBehaviour = Infallible;
    type InboundProtocol = Accept;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Opening;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(Accept(self.accepting.as_ref().map(|_| self.protocol.clone())), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Opening, Self::ToBehaviour>> {
        // A connection polls its handlers after each event from the behaviour, so nothing needs to wake it.
        match self.openings.pop_front() {
            Some((protocol, opening)) => {
                let protocol = SubstreamProtocol::new(ReadyUpgrade::new(protocol), opening);
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
            }
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, opening: (StreamProtocol, Opening)) {
        self.openings.push_back(opening);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), Opening>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                match (&self.accepting, self.places.clone().try_acquire_owned()) {
                    (Some(accepting), Ok(place)) => {
                        // A program that accepts no more streams is about to end.
                        let _ = accepting.send(Inbound { peer: self.peer, connection: self.connection, stream, place });
                    }
                    // Dropping a stream resets it.
                    (Some(_), Err(_)) => self.log_rejection(),
                    (None, _) => {}
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: opening }) => {
                let _ = opening.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: opening, error }) => {
                let ended = match error {
                    StreamUpgradeError::NegotiationFailed => Ended::Unsupported,
                    StreamUpgradeError::Timeout => Ended::Io(std::io::ErrorKind::TimedOut.into()),
                    StreamUpgradeError::Io(error) => error.into(),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = opening.send(Err(ended));
            }
            _ => {}
        }
    }
}
