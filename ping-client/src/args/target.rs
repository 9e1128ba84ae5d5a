//! Where to find a server, as the user says it.

use std::{fmt, str::FromStr};

use libp2p::PeerId;
use ping_core::{
    ServerAddress,
    address::ParseAddressError,
    nat::{Ticket, ticket::TicketError},
};

/// Where to find a server.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    At(ServerAddress),
    /// Where mDNS finds it.
    Peer(PeerId),
    /// Where its ticket says, or the address of its place on a relay.
    Ticket(Ticket),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(server) => server.fmt(f),
            Self::Peer(peer) => peer.fmt(f),
            Self::Ticket(ticket) => ticket.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        if let Ok(peer) = text.parse() {
            return Ok(Self::Peer(peer));
        }
        if let Some(ticket) = text.parse().ok().as_ref().and_then(Ticket::of_circuit) {
            return Ok(Self::Ticket(ticket));
        }
        match text.parse::<Ticket>() {
            Ok(ticket) => Ok(Self::Ticket(ticket)),
            Err(TicketError::NoTicket) => text.parse().map(Self::At),
            Err(error) => Err(ParseAddressError::new(error.to_string())),
        }
    }
}

/// The address of a target, if it has one.
pub(crate) fn server(target: &Target) -> Option<&ServerAddress> {
    if let Target::At(server) = target { Some(server) } else { None }
}

/// Reads a target that says where the server is.
pub(crate) fn place(text: &str) -> Result<Target, String> {
    match text.parse() {
        Ok(Target::Peer(_)) => Err("a peer id does not say where the server is; give an address or a ticket".into()),
        parsed => parsed.map_err(|error: ParseAddressError| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_a_peer_id_or_a_ticket() {
        let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let circuit = format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}/p2p-circuit/p2p/{peer}");
        assert!(matches!(peer.parse(), Ok(Target::Peer(_))));
        assert!(matches!("host".parse(), Ok(Target::At(_))));
        assert!(matches!(circuit.parse(), Ok(Target::Ticket(_))));
        assert!("kping1x".parse::<Target>().unwrap_err().to_string().contains("damaged"));
    }
}
