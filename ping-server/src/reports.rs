//! What a running server reports, in the order in which it happens.

use std::future::pending;

use anyhow::Result;
use futures::future::OptionFuture;
use libp2p::{Multiaddr, PeerId};
use ping_core::{Event, actor::Tally, cluster, nat::MappingEvent};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::{
    client_reports::ClientReports,
    events::{Reporter, ServerEvent},
    listen,
    membership::{self, Membership},
    metrics::Metrics,
    ping_reports::PingReports,
    visits::Visits,
    ways::{self, Verdict, Way, Ways},
};

/// What a running server reports.
pub(crate) struct Reports {
    ours: PeerId,
    reporter: Reporter,
    clients: ClientReports,
    pings: PingReports,
    total: watch::Receiver<u64>,
    membership: Option<Membership>,
    rally: Option<mpsc::UnboundedReceiver<ServerEvent<'static>>>,
    visits: Visits,
    ways: Option<Ways>,
    metrics: Option<Metrics>,
    is_ready: bool,
}

impl Reports {
    /// Reports as JSON lines or as a log; `total` is what is counted so far. Fails if the system lacks a thread.
    pub(crate) fn start(ours: PeerId, json: bool, total: watch::Receiver<u64>, tally: Tally) -> Result<Self> {
        let reporter = if json { Reporter::json()? } else { Reporter::Log };
        let pings = PingReports::after(*total.borrow());
        Ok(Self {
            ours,
            reporter,
            clients: ClientReports::new(),
            pings,
            total,
            membership: None,
            rally: None,
            visits: Visits::new(tally),
            ways: None,
            metrics: None,
            is_ready: false,
        })
    }

    /// Reports that the actor can be found under this name, on this node of the cluster.
    pub(crate) fn ready(
        &mut self,
        name: &str,
        node: &str,
        membership: Option<Membership>,
        rally: Option<mpsc::UnboundedReceiver<ServerEvent<'static>>>,
    ) {
        let members = membership.as_ref().map(Membership::members).unwrap_or_default();
        let members = members.iter().map(Into::into).collect();
        self.reporter.report(&ServerEvent::Ready { peer_id: self.ours, name, node, members });
        (self.membership, self.rally, self.is_ready) = (membership, rally, true);
    }

    /// Whether a peer is a client, as far as is known. Only its first words tell that it is a member.
    fn is_client(&self, peer: &PeerId) -> bool {
        self.membership.as_ref().is_none_or(|membership| !membership.knows(peer))
    }

    /// Reports events until one cannot be written; returns why.
    pub(crate) async fn run(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) -> anyhow::Error {
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => self.on_event(&event),
                    // The node has failed, which the server notices.
                    None => pending().await,
                },
                Some(Some(event)) = OptionFuture::from(self.rally.as_mut().map(mpsc::UnboundedReceiver::recv)) => {
                    self.reporter.report(&event);
                }
                failure = self.reporter.failed() => return failure,
                Some(way) = OptionFuture::from(self.ways.as_mut().map(Ways::next)) => self.on_way(&way),
                () = self.pings.wait(&mut self.total) => self.report_pings(),
                () = self.clients.wait() => self.report_more_clients(),
            }
        }
    }

    pub(crate) fn on_event(&mut self, event: &Event) {
        self.metrics.iter().for_each(|metrics| metrics.on_event(event));
        match event {
            Event::Listening(address) if listen::is_usable(address) => {
                let connection_address = listen::connection_address(address, self.ours);
                if self.is_ready && matches!(self.reporter, Reporter::Log) {
                    info!("Now also at {connection_address}");
                }
                self.reporter.report(&ServerEvent::Listening { address, connection_address: &connection_address });
            }
            Event::StoppedListening(address) if listen::is_usable(address) => {
                self.reporter.report(&ServerEvent::StoppedListening { address });
            }
            Event::AcceptFailed { error, count } => warn_about_failed_accept(error, *count),
            Event::Refused { address, reason, count } => {
                self.reporter.report(&ServerEvent::ClientRefused { address, reason, count: *count });
            }
            Event::PeerConnected { peer, address, is_dialed: false } if self.is_client(peer) => {
                self.visits.begin(*peer);
                let event = ServerEvent::ClientConnected { peer_id: *peer, address };
                if self.clients.admits(&event) {
                    self.reporter.report(&event);
                }
            }
            Event::PeerDisconnected { peer, address, ending } if self.is_client(peer) => {
                // Its pings are reported before its end.
                self.report_pings();
                if let Some((connected_s, pings)) = self.visits.end(peer) {
                    let (peer_id, ending) = (*peer, ending.name());
                    let event = ServerEvent::ClientDisconnected { peer_id, address, connected_s, pings, ending };
                    if self.clients.admits(&event) {
                        self.reporter.report(&event);
                    }
                }
            }
            Event::Cluster(event) => {
                self.reporter.report(&membership::report(event));
                if let (cluster::Event::Joined(member), Some(membership)) = (event, &mut self.membership) {
                    membership.warn_of_namesakes(member);
                }
            }
            Event::Tested { address, by, is_reached } => self.on_tested(address, *by, *is_reached),
            Event::Discovered { .. } => {
                self.membership.iter().for_each(|membership| membership.on_event(event));
            }
            _ => {}
        }
    }

    /// From now on, counts what happens in these figures, if there are any.
    pub(crate) fn count(&mut self, metrics: Option<Metrics>) {
        self.metrics = metrics;
    }

    /// From now on, reports what becomes of these ways.
    pub(crate) fn follow(&mut self, ways: Ways) {
        self.ways = Some(ways);
    }

    fn on_way(&mut self, way: &Way) {
        if let (Some(metrics), Way::Held { .. } | Way::Lost { .. }) = (&self.metrics, way) {
            metrics.on_relay(matches!(way, Way::Held { .. }));
        }
        match way {
            Way::Held { relay, .. } => {
                self.reporter.report(&ServerEvent::RelayHeld { relay: *relay });
                self.report_ticket();
            }
            Way::Lost { relay, reason } => {
                self.reporter.report(&ServerEvent::RelayLost { relay: *relay, reason });
            }
            Way::Mapping(MappingEvent::Mapped(mapping)) => {
                self.reporter.report(&ServerEvent::PortMapped { address: ways::multiaddr(mapping), by: mapping.by });
                self.report_ticket();
            }
            Way::Mapping(MappingEvent::Lost(mapping, reason)) => {
                self.reporter.report(&ServerEvent::PortUnmapped { address: ways::multiaddr(mapping), reason });
            }
            Way::Mapping(MappingEvent::Failed(transport, reason)) => {
                let transport = transport.to_string().to_lowercase();
                self.reporter.report(&ServerEvent::PortNotMapped { transport, reason });
            }
        }
    }

    fn on_tested(&mut self, address: &Multiaddr, relay: PeerId, is_reached: bool) {
        let Some(ways) = &mut self.ways else { return };
        let before = ways.ticket();
        let verdict = ways.on_tested(address, is_reached);
        let is_ticket_new = ways.ticket() != before;
        match (verdict, is_reached) {
            (Verdict::Known, _) => {}
            (Verdict::New, false) => self.reporter.report(&ServerEvent::NotReachable { address, relay }),
            (Verdict::New, true) => self.reporter.report(&ServerEvent::Reachable { address, relay }),
        }
        if is_ticket_new {
            self.report_ticket();
        }
    }

    fn report_ticket(&mut self) {
        if let Some(ticket) = self.ways.as_ref().and_then(Ways::ticket) {
            self.reporter.report(&ServerEvent::Ticket { ticket: &ticket });
        }
    }

    fn report_more_clients(&mut self) {
        self.clients.summary().into_iter().for_each(|event| self.reporter.report(&event));
    }

    fn report_pings(&mut self) {
        let total = *self.total.borrow_and_update();
        if let Some(event) = self.pings.next(total, || self.visits.pings()) {
            self.reporter.report(&event);
        }
    }

    /// Reports what is left when the node has stopped.
    pub(crate) fn finish(mut self, events: &mut mpsc::UnboundedReceiver<Event>) {
        while let Ok(event) = events.try_recv() {
            self.on_event(&event);
        }
        while let Some(Ok(event)) = self.rally.as_mut().map(mpsc::UnboundedReceiver::try_recv) {
            self.reporter.report(&event);
        }
        self.report_pings();
        self.report_more_clients();
        self.reporter.report(&ServerEvent::Stopped { total: *self.total.borrow() });
        self.reporter.finish();
    }
}

fn warn_about_failed_accept(error: &str, count: u64) {
    #[cfg(unix)]
    if let Some(limit) = crate::open_files::limit().filter(|_| error.contains("open files")) {
        warn!(
            "Cannot accept a connection: {error}, the limit is {limit} ({count} so far). Raise it (ulimit -n), or \
             lower --max-connections"
        );
        return;
    }
    warn!("Cannot accept a connection: {error} ({count} so far)");
}
