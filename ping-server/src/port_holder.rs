//! Who holds a port that the server wants.
//!
//! The default port lies in the range from which Linux takes the ports of outgoing connections, so any program's
//! connection may hold it for a while.

use std::net::SocketAddr;

use ping_core::Transport;

/// Whether only outgoing connections of other programs hold the port: it becomes free when they end. Known on Linux
/// only.
pub(crate) fn is_outgoing(transport: Transport, socket: SocketAddr) -> bool {
    let tables = match transport {
        Transport::Quic => ["/proc/net/udp", "/proc/net/udp6"],
        _ => ["/proc/net/tcp", "/proc/net/tcp6"],
    };
    let tables = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let states: Vec<_> = tables.iter().flat_map(|table| states(table, socket.port())).collect();
    !states.is_empty() && states.iter().all(|state| is_of_outgoing(transport, state))
}

/// The states of the sockets in one of the system's tables that use this local port, as in proc(5).
fn states(table: &str, port: u16) -> impl Iterator<Item = &str> {
    let ending = format!(":{port:04X}");
    table.lines().skip(1).filter_map(move |line| {
        let mut words = line.split_whitespace();
        let local = words.nth(1)?;
        let state = words.nth(1)?;
        local.ends_with(&ending).then_some(state)
    })
}

/// A TCP socket that does not listen, and a UDP socket that is connected.
fn is_of_outgoing(transport: Transport, state: &str) -> bool {
    match transport {
        Transport::Quic => state == "01",
        _ => state != "0A",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
                     0: 0100007F:8DF5 00000000:0000 0A 00000000:00000000\n\
                     1: 0100007F:8DF6 0100007F:0050 01 00000000:00000000\n";
        assert_eq!(states(table, 0x8df5).collect::<Vec<_>>(), ["0A"]);
        assert_eq!(states(table, 0x8df6).collect::<Vec<_>>(), ["01"]);
        assert_eq!(states(table, 80).count(), 0, "the remote port is another");
        assert!(!is_of_outgoing(Transport::Tcp, "0A") && is_of_outgoing(Transport::Tcp, "06"));
        assert!(!is_of_outgoing(Transport::Quic, "07") && is_of_outgoing(Transport::Quic, "01"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_port_of_a_connection_is_known_as_such() {
        use std::net::{TcpListener, TcpStream, UdpSocket};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let connection = TcpStream::connect(there).unwrap();
        assert!(!is_outgoing(Transport::Tcp, there));
        assert!(is_outgoing(Transport::Tcp, connection.local_addr().unwrap()));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = socket.local_addr().unwrap();
        assert!(!is_outgoing(Transport::Quic, own));
        socket.connect(there).unwrap();
        assert!(is_outgoing(Transport::Quic, own));
    }
}
