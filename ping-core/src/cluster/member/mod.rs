//! One member at work.
//!
//! - `dials`: whom this node dials, why, and how often at most.
//! - `links`: its links to other members, their signs of life and their loss.
//! - `accusing`: what it says of others that it cannot reach.
//! - `statements`: what it hears, compares and passes on.
//! - `own`: the record that it writes of itself.
//! - `measuring`: measurements of paths that clients ask for.

mod accusing;
mod dials;
mod links;
mod measuring;
mod own;
mod statements;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    gossipsub,
    identity::Keypair,
    request_response::{Event as ExchangeEvent, InboundRequestId, Message, ProtocolSupport, ResponseChannel},
    swarm::{
        ConnectionDenied, ConnectionId, DialFailure, ExpiredListenAddr, FromSwarm, NetworkBehaviour, NewListenAddr,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionEstablished, ExternalAddrConfirmed},
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::{Sleep, sleep_until},
};

use super::{
    Cluster, Command, Event, Options, Shared,
    directory::Directory,
    gossip::Gossip,
    messages::{Exchange, Request, Response, exchange},
    record::Stamp,
};
use dials::Dials;
use links::Links;
use measuring::Measuring;
use own::Own;
use statements::Watchers;

/// How often a member looks for what is due.
const TICK: Duration = Duration::from_millis(200);

/// Something to do at a time.
#[derive(Debug)]
enum Task {
    /// Look for what is due.
    Tick,
    /// Write the own record, because it is no longer true.
    Write,
    /// Say that a member is gone, if it has not been heard of since its record of this stamp.
    Accuse(PeerId, Stamp),
    /// Dial a member whose link was lost.
    Redial(PeerId),
    /// Close connections that were made for a measurement.
    Close(Vec<PeerId>),
    /// Compare directories with two links, because there was more news than is spread one by one.
    Compare,
}

/// The protocols of a member.
#[derive(NetworkBehaviour)]
pub(crate) struct Protocols {
    gossip: Gossip,
    exchange: Exchange,
}

type Action = ToSwarm<Event, THandlerInEvent<Protocols>>;

/// A member of a cluster, which may be alone.
pub(crate) struct Behaviour {
    protocols: Protocols,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    own: Own,
    links: Links,
    dials: Dials,
    watchers: Watchers,
    measuring: Measuring,
    /// What is due, and when.
    tasks: Vec<(Instant, Task)>,
    timer: Pin<Box<Sleep>>,
    actions: VecDeque<Action>,
}

impl Behaviour {
    /// The member with this key, and its handle.
    ///
    /// # Errors
    ///
    /// When gossipsub rejects its configuration.
    pub(crate) fn new(key: &Keypair, options: Options) -> io::Result<(Self, Cluster)> {
        let me = key.public().to_peer_id();
        let directory = Mutex::new(Directory::new(me));
        let shared = Arc::new(Shared { me, directory, digest: watch::Sender::new(0) });
        let (sender, commands) = mpsc::unbounded_channel();
        let protocols = Protocols { gossip: Gossip::new()?, exchange: exchange(ProtocolSupport::Full) };
        let handle = Cluster { shared: shared.clone(), commands: sender };
        let behaviour = Self {
            protocols,
            shared,
            commands,
            own: Own::new(key.clone(), options.node),
            links: Links::default(),
            dials: Dials::default(),
            watchers: Watchers::default(),
            measuring: Measuring::new(handle.commands.clone()),
            tasks: Vec::new(),
            timer: Box::pin(sleep_until((Instant::now() + TICK).into())),
            actions: VecDeque::new(),
        };
        Ok((behaviour, handle))
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Host(actors) => {
                self.own.record.actors = actors;
                self.write();
            }
            Command::SpeakFor(guests) => self.speak_for(guests),
            Command::Join { address, expected, reply } => self.join(address, expected, reply),
            Command::Leave(reply) => self.leave(reply),
            Command::Measured(channel, paths) => self.on_measured(channel, paths),
        }
    }

    fn on_protocol_event(&mut self, event: ProtocolsEvent) {
        match event {
            ProtocolsEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                self.on_heard(propagation_source, &message_id, &message.data);
            }
            ProtocolsEvent::Gossip(_) => {}
            ProtocolsEvent::Exchange(event) => match event {
                ExchangeEvent::Message { peer, message, .. } => match message {
                    Message::Request { request, request_id, channel } => {
                        self.on_request(peer, request, request_id, channel);
                    }
                    Message::Response { request_id, response } => {
                        self.on_response(peer, request_id, response);
                    }
                },
                ExchangeEvent::OutboundFailure { peer, request_id, error, .. } => {
                    self.on_unanswered(peer, request_id, &error);
                }
                ExchangeEvent::InboundFailure { request_id, .. } => self.watchers.forget(request_id),
                ExchangeEvent::ResponseSent { .. } => {}
            },
        }
    }

    fn on_request(&mut self, peer: PeerId, request: Request, id: InboundRequestId, channel: ResponseChannel<Response>) {
        // What a sound member does not send gets no answer.
        if !request.is_sound() {
            return;
        }
        let response = match request {
            Request::Beat { digest } => self.on_beat(peer, digest),
            Request::Compare { buckets, lines } => self.on_compare(&buckets, &lines),
            Request::Push { statements } => {
                self.take(peer, &statements);
                Response::Done
            }
            Request::LetGo => {
                self.links.let_go(peer);
                Response::Done
            }
            Request::Own => self.own(),
            Request::List { name, after } => self.list(name.as_deref(), after),
            Request::Watch { digest } => return self.watchers.add(id, digest, channel),
            Request::Measure { name, round_trips } => return self.measure(name, round_trips, channel),
        };
        // The peer may have gone in the meantime.
        let _ = self.protocols.exchange.send_response(channel, response);
    }

    fn on_due(&mut self, task: Task, now: Instant) {
        match task {
            Task::Tick => self.tick(now),
            Task::Write => self.write(),
            Task::Accuse(peer, stamp) => self.accuse(peer, stamp),
            Task::Redial(peer) => self.redial(peer, now),
            Task::Close(peers) => self.close_unlinked(&peers),
            Task::Compare => self.compare_with_two(),
        }
    }

    /// Whether there is, or was, anybody else.
    fn is_active(&self) -> bool {
        !self.links.is_empty() || !self.dials.is_empty() || self.shared.directory().members().nth(1).is_some()
    }

    /// Does something at a time.
    fn plan(&mut self, at: Instant, task: Task) {
        self.tasks.push((at, task));
    }

    /// Does everything that is due, and sets the timer for what is next.
    fn poll_tasks(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let has_tick = self.tasks.iter().any(|(_, task)| matches!(task, Task::Tick));
        if !has_tick && self.is_active() {
            self.links.wake(Instant::now());
            self.plan(Instant::now() + TICK, Task::Tick);
        }
        let Some(next) = self.tasks.iter().map(|(at, _)| *at).min() else { return Poll::Pending };
        if self.timer.deadline() != next.into() {
            self.timer.as_mut().reset(next.into());
        }
        ready!(self.timer.as_mut().poll(context));
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.tasks).into_iter().partition(|(at, _)| *at <= now);
        self.tasks = later;
        due.into_iter().for_each(|(_, task)| self.on_due(task, now));
        Poll::Ready(())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = THandler<Protocols>;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.protocols.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut known = self.protocols.handle_pending_outbound_connection(id, peer, addresses, role)?;
        // Members are dialed at the addresses in their records, whichever protocol dials them. Who dials with addresses
        // wants those.
        if let Some(peer) = peer.filter(|_| addresses.is_empty()) {
            known.extend(self.shared.addresses(&peer));
        }
        Ok(known)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.protocols.handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.protocols.on_swarm_event(event);
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                self.measuring.connected.insert(peer_id);
                self.on_connected(peer_id, connection_id);
            }
            FromSwarm::ConnectionClosed(closed) if closed.remaining_established == 0 => {
                self.measuring.connected.remove(&closed.peer_id);
                self.on_lost(closed.peer_id);
            }
            FromSwarm::DialFailure(DialFailure { connection_id, error, .. }) => {
                self.on_dial_failed(connection_id, error);
            }
            FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr }) if self.own.add_external(addr) => {
                self.write_soon();
            }
            FromSwarm::NewListenAddr(NewListenAddr { addr, .. }) if self.own.add_address(addr) => self.write_soon(),
            FromSwarm::ExpiredListenAddr(ExpiredListenAddr { addr, .. }) if self.own.remove_address(addr) => {
                self.write_soon();
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.protocols.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            if let Poll::Ready(Some(command)) = self.commands.poll_recv(context) {
                self.on_command(command);
                continue;
            }
            match self.protocols.poll(context) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => {
                    self.on_protocol_event(event);
                    continue;
                }
                Poll::Ready(ToSwarm::Dial { opts }) => return Poll::Ready(ToSwarm::Dial { opts }),
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event }) => {
                    return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
                }
                Poll::Ready(ToSwarm::CloseConnection { peer_id, connection }) => {
                    return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection });
                }
                // The protocols neither listen nor name addresses of this node.
                Poll::Ready(_) => continue,
                Poll::Pending => {}
            }
            if self.poll_tasks(context).is_pending() && self.actions.is_empty() {
                return Poll::Pending;
            }
        }
    }
}
