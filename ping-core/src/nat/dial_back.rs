//! How a relay finds out whether others reach a node ([`reachability`] has the exchange).

use std::{collections::HashMap, io, net::IpAddr};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{
    Multiaddr, PeerId, Stream,
    core::ConnectedPoint,
    swarm::{
        ConnectionId, NetworkBehaviour,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{sleep, timeout},
};
use tracing::debug;

use super::reachability::{self, Answer, MAX_ADDRESSES, PART_TIMEOUT};
use crate::{
    stream::{Ended, Inbound, behaviour::Behaviour as Streams},
    transport::endpoint,
};

/// How many nodes are dialed at a time, and at one IP address.
const MAX_DIALS: usize = 64;
const MAX_DIALS_PER_HOST: usize = 8;

/// The protocols of the questions and of the dials.
#[derive(NetworkBehaviour)]
pub(super) struct Protocols {
    questions: Streams,
    returns: Streams,
}

/// A question that is read.
pub(super) struct Question {
    peer: PeerId,
    stream: Stream,
    _place: OwnedSemaphorePermit,
    nonce: u64,
    addresses: Vec<Multiaddr>,
}

/// What is done next.
pub(super) enum Step {
    /// A question came.
    Came(Inbound),
    /// It is read.
    Read(io::Result<Question>),
    /// The number was said there, or not.
    Returned(ConnectionId, bool),
    /// The dial has taken long enough.
    Late(ConnectionId),
    /// A question is answered.
    Answered,
}

/// The questions that are not answered yet.
pub(super) struct DialBacks {
    questions: mpsc::UnboundedReceiver<Inbound>,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
    /// The questions whose dials are in progress, each with the place of the address.
    dials: HashMap<ConnectionId, (Question, usize)>,
    /// From where each peer is connected.
    hosts: HashMap<ConnectionId, (PeerId, IpAddr)>,
}

impl DialBacks {
    /// With the protocols to run.
    pub(super) fn new() -> (Self, Protocols) {
        let (asking, questions) = mpsc::unbounded_channel();
        let protocols = Protocols {
            questions: Streams::new(reachability::QUESTION, Some(asking)),
            returns: Streams::new(reachability::RETURN, None),
        };
        let steps = FuturesUnordered::new();
        (Self { questions, steps, dials: HashMap::new(), hosts: HashMap::new() }, protocols)
    }

    /// Waits for the next step.
    pub(super) async fn next(&mut self) -> Step {
        tokio::select! {
            Some(step) = self.steps.next() => step,
            Some(question) = self.questions.recv() => Step::Came(question),
            else => std::future::pending().await,
        }
    }

    /// Takes a step. Returns what to dial, or a connection to close.
    pub(super) fn on_step(&mut self, step: Step) -> (Option<DialOpts>, Option<ConnectionId>) {
        match step {
            Step::Came(inbound) => self.steps.push(read(inbound).map(Step::Read).boxed()),
            Step::Read(Ok(question)) => return (self.on_question(question), None),
            Step::Read(Err(error)) => debug!(%error, "a question about reachability that was not read"),
            Step::Returned(id, has_heard) => {
                self.finish(id, if has_heard { Answer::Reached } else { Answer::Unreachable });
                return (None, Some(id));
            }
            Step::Late(id) => self.finish(id, Answer::Unreachable),
            Step::Answered => {}
        }
        (None, None)
    }

    fn on_question(&mut self, question: Question) -> Option<DialOpts> {
        let hosts = self.hosts.values().filter(|(peer, _)| *peer == question.peer).map(|(_, host)| *host);
        let Some((place, address)) = dialable(&question.addresses, &hosts.collect::<Vec<_>>()) else {
            self.answer(question, 0, Answer::Refused);
            return None;
        };
        // An identity costs nothing, so the limit is that of its host.
        let host = endpoint(&address).map(|(ip, ..)| ip);
        let of_host = |(question, place): &&(Question, usize)| {
            question.addresses.get(*place).and_then(endpoint).map(|(ip, ..)| ip) == host
        };
        let of_host = self.dials.values().filter(of_host).count();
        if self.dials.len() >= MAX_DIALS || of_host >= MAX_DIALS_PER_HOST {
            self.answer(question, place, Answer::Rejected);
            return None;
        }
        let options = DialOpts::peer_id(question.peer).addresses(vec![address]).condition(PeerCondition::Always);
        // The router of the node knows the port that the relay listens on.
        let options = options.allocate_new_port().build();
        let id = options.connection_id();
        self.dials.insert(id, (question, place));
        self.steps.push(sleep(PART_TIMEOUT).map(move |()| Step::Late(id)).boxed());
        Some(options)
    }

    /// A connection stands. Returns whether it was made for a question that is answered already.
    pub(super) fn on_connected(
        &mut self,
        protocols: &mut Protocols,
        (peer, id): (PeerId, ConnectionId),
        point: &ConnectedPoint,
    ) -> bool {
        if !point.is_dialer() {
            if let Some((ip, ..)) = endpoint(point.get_remote_address()) {
                self.hosts.insert(id, (peer, ip));
            }
            return false;
        }
        let Some((question, _)) = self.dials.get(&id) else { return true };
        let nonce = question.nonce;
        let (opening, opened) = oneshot::channel();
        protocols.returns.open(peer, id, opening);
        let back = async move {
            let stream = opened.await.unwrap_or(Err(Ended::NotConnected)).map_err(io::Error::other)?;
            reachability::come_back(stream, nonce).await
        };
        let back = timeout(PART_TIMEOUT, back);
        self.steps.push(back.map(move |said| Step::Returned(id, matches!(said, Ok(Ok(()))))).boxed());
        false
    }

    /// Whether a peer has connected again after this connection.
    pub(super) fn has_later(&self, peer: &PeerId, than: ConnectionId) -> bool {
        self.hosts.iter().any(|(id, (other, _))| other == peer && *id > than)
    }

    pub(super) fn on_closed(&mut self, id: ConnectionId) {
        self.hosts.remove(&id);
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId) {
        self.finish(id, Answer::Unreachable);
    }

    fn finish(&mut self, id: ConnectionId, answer: Answer) {
        if let Some((question, place)) = self.dials.remove(&id) {
            self.answer(question, place, answer);
        }
    }

    fn answer(&self, mut question: Question, place: usize, answer: Answer) {
        let say = async move {
            let _ = timeout(PART_TIMEOUT, reachability::answer(&mut question.stream, place, answer)).await;
            Step::Answered
        };
        self.steps.push(say.boxed());
    }
}

/// The first of these addresses that is of one of the hosts from which its peer is connected, with its place. No other
/// host is dialed because a peer says so.
fn dialable(addresses: &[Multiaddr], hosts: &[IpAddr]) -> Option<(usize, Multiaddr)> {
    let is_its_own = |address: &Multiaddr| {
        endpoint(address).is_some_and(|(ip, port, transport)| hosts.contains(&ip) && port != 0 && transport.is_usual())
    };
    let place = addresses.iter().take(MAX_ADDRESSES).position(is_its_own)?;
    Some((place, addresses[place].clone()))
}

async fn read(Inbound { peer, mut stream, place, .. }: Inbound) -> io::Result<Question> {
    let (addresses, nonce) =
        timeout(PART_TIMEOUT, reachability::question(&mut stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(Question { peer, stream, _place: place, nonce, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_host_but_the_one_that_asks_is_dialed() {
        let hosts = [IpAddr::from([198, 51, 100, 1])];
        let dialable = |texts: &[&str]| {
            let addresses: Vec<Multiaddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
            dialable(&addresses, &hosts).map(|(place, _)| place)
        };
        let own = "/ip4/198.51.100.1/tcp/1";
        let foreign = [
            "/ip4/198.51.100.2/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/10.0.0.1/udp/1/quic-v1",
            "/ip6/::1/tcp/1",
            "/ip4/198.51.100.1/tcp/0",
            "/ip4/198.51.100.1/tcp/1/ws",
            "/dns4/example.com/tcp/1",
        ];
        assert_eq!(dialable(&foreign), None);
        assert_eq!(dialable(&[&foreign[..], &[own]].concat()), Some(foreign.len()));
        assert_eq!(dialable(&[&[foreign[0]; MAX_ADDRESSES][..], &[own]].concat()), None, "it is one of too many");
    }
}
