//! What a node asks of a member's directory without being one.

use std::collections::HashMap;

use libp2p::{
    PeerId,
    request_response::{Event as ExchangeEvent, Message, OutboundFailure, OutboundRequestId},
};
use tokio::sync::oneshot;

use super::{
    MemberInfo,
    directory::MAX_MEMBERS,
    messages::{Exchange, Listed, Path, Request, Response},
    record::{Record, Statement},
    with_guests,
};
use crate::{Node, PeerText, stream::is_refused};

/// Why a question about the directory has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AskError {
    /// The peer does not answer such questions.
    #[error("it keeps no directory of a cluster")]
    Unsupported,
    /// The connection was lost, or the answer took too long.
    #[error("{0}")]
    Lost(PeerText),
    /// The answer is not one to the question, or holds a record that nobody signed.
    #[error("its answer is unsound: {0}")]
    Unsound(PeerText),
    /// The peer measures for somebody else, or has just done so.
    #[error("it measures for somebody else; try again in a second")]
    Busy,
    /// This node stops.
    #[error("this node stops")]
    Stopped,
}

/// The members that a node knows, and their guests.
#[derive(Clone, Debug)]
pub struct Listing {
    /// They, in the order of peer ids.
    pub members: Vec<MemberInfo>,
    /// The digest of the directory, which changes with it.
    pub digest: u64,
}

/// Asks a connected member for all that it knows, or for those that host an actor under a name. It can leave members
/// out, but not invent any: each has signed its record.
///
/// # Errors
///
/// When it does not answer as a member does.
pub async fn list(node: &Node, of: PeerId, name: Option<&str>) -> Result<Listing, AskError> {
    let mut members: Vec<(PeerId, Record, bool)> = Vec::new();
    loop {
        let after = members.last().map(|(peer, ..)| *peer);
        let answer = node.ask_directory(of, Request::List { name: name.map(Into::into), after }).await?;
        let Response::Members { digest, members: listed, has_more } = answer else {
            return Err(AskError::Unsound("it is none to a list".into()));
        };
        let is_progress = !listed.is_empty();
        for listed in &listed {
            let (peer, record) = read(listed)?;
            if Some(peer) <= members.last().map(|(last, ..)| *last) {
                return Err(AskError::Unsound("its records are not in order".into()));
            }
            members.push((peer, record, listed.is_gone));
        }
        if !has_more || !is_progress || members.len() >= MAX_MEMBERS {
            let members = with_guests(members.iter().map(|(peer, record, is_gone)| (peer, record, *is_gone)));
            return Ok(Listing { members, digest });
        }
    }
}

/// Asks a connected member what it says of itself: which actors it hosts, above all.
///
/// # Errors
///
/// When it does not answer as a member does.
pub async fn own(node: &Node, of: PeerId) -> Result<MemberInfo, AskError> {
    let Response::Members { members, .. } = node.ask_directory(of, Request::Own).await? else {
        return Err(AskError::Unsound("it is none to the question".into()));
    };
    let (peer, record) = read(members.first().ok_or_else(|| AskError::Unsound("it has no record".into()))?)?;
    let member = MemberInfo::new(peer, &record, false);
    if peer == of { Ok(member) } else { Err(AskError::Unsound("it is another one's record".into())) }
}

/// The signed record of a member.
fn read(listed: &Listed) -> Result<(PeerId, Record), AskError> {
    match Statement::read(&listed.record) {
        Ok((peer, Statement::Record(record))) => Ok((peer, record)),
        Ok((_, Statement::Obituary(_))) => Err(AskError::Unsound("it is no record of a member".into())),
        Err(reason) => Err(AskError::Unsound(PeerText::new(reason.to_string()))),
    }
}

/// Asks a connected member how fast it reaches the actors of this name on all others.
///
/// # Errors
///
/// When it does not answer as a member does.
pub async fn paths(node: &Node, of: PeerId, name: &str, round_trips: u8) -> Result<Vec<Path>, AskError> {
    match node.ask_directory(of, Request::Measure { name: name.into(), round_trips }).await? {
        Response::Paths(paths) => Ok(paths),
        Response::Busy => Err(AskError::Busy),
        _ => Err(AskError::Unsound("it is none to a measurement".into())),
    }
}

/// Waits until the directory of a connected member has another digest than this.
///
/// # Errors
///
/// When it does not answer as a member does.
pub async fn next_digest(node: &Node, of: PeerId, digest: u64) -> Result<u64, AskError> {
    loop {
        match node.ask_directory(of, Request::Watch { digest }).await? {
            Response::Digest(now) if now != digest => return Ok(now),
            Response::Digest(_) => {}
            _ => return Err(AskError::Unsound("it is none to a watch".into())),
        }
    }
}

/// Gets the answer.
pub(crate) type Reply = oneshot::Sender<Result<Response, AskError>>;

/// The questions that are not answered yet.
#[derive(Default)]
pub(crate) struct Asked(HashMap<OutboundRequestId, Reply>);

impl Asked {
    /// Asks a connected peer.
    pub(crate) fn ask(&mut self, exchange: &mut Exchange, peer: &PeerId, request: Request, reply: Reply) {
        if exchange.is_connected(peer) {
            self.0.insert(exchange.send_request(peer, request), reply);
        } else {
            let _ = reply.send(Err(AskError::Lost("the connection is lost".into())));
        }
    }

    pub(crate) fn on_event(&mut self, event: ExchangeEvent<Request, Response>) {
        let (id, answer) = match event {
            ExchangeEvent::Message { message: Message::Response { request_id, response }, .. } => {
                (request_id, Ok(response))
            }
            ExchangeEvent::OutboundFailure { request_id, error, .. } => {
                let error = match error {
                    OutboundFailure::UnsupportedProtocols => AskError::Unsupported,
                    OutboundFailure::Io(error) if is_refused(&error) => AskError::Unsupported,
                    other => AskError::Lost(PeerText::new(other.to_string())),
                };
                (request_id, Err(error))
            }
            _ => return,
        };
        if let Some(reply) = self.0.remove(&id) {
            let _ = reply.send(answer);
        }
    }
}
