//! Whether a firewall sends packets back.
//!
//! The system reports a packet that a firewall refuses as it does one that no router can deliver: "no route to host".
//! The ICMP message that came back tells them apart; a socket passes it on when asked to (ip(7), `IP_RECVERR`).

use std::net::SocketAddr;

use super::Transport;

/// Whether a firewall on the way, or on the other machine, answers that it prohibits packets to this address. Takes
/// some seconds if none does. Known on Linux only.
pub async fn is_prohibited(transport: Transport, destination: SocketAddr) -> bool {
    #[cfg(target_os = "linux")]
    return linux::is_prohibited(transport, destination).await.unwrap_or(false);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (transport, destination);
        false
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{io, net::SocketAddr, os::fd::AsRawFd, time::Duration};

    use nix::{
        cmsg_space,
        errno::Errno,
        libc,
        sys::socket::{
            ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
            sockopt::{Ipv4RecvErr, Ipv6RecvErr},
        },
    };
    use socket2::{Domain, Socket, Type};
    use tokio::{
        io::Interest,
        net::{TcpStream, UdpSocket},
        time::timeout,
    };

    use super::Transport;

    /// How long the message may take. Linux sends one such message a second to a host, after the first six, and TCP
    /// repeats its packet after one second.
    const PATIENCE: Duration = Duration::from_millis(2500);
    const REPEAT_AFTER: Duration = Duration::from_millis(300);

    pub(super) async fn is_prohibited(transport: Transport, destination: SocketAddr) -> io::Result<bool> {
        let kind = if transport == Transport::Quic { Type::DGRAM } else { Type::STREAM };
        let socket = Socket::new(Domain::for_address(destination), kind, None)?;
        socket.set_nonblocking(true)?;
        match destination {
            SocketAddr::V4(_) => setsockopt(&socket, Ipv4RecvErr, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvErr, &true)?,
        }
        match socket.connect(&destination.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Ok(false),
            _ => {}
        }
        if kind == Type::STREAM {
            let stream = TcpStream::from_std(socket.into())?;
            let told = timeout(PATIENCE, stream.ready(Interest::ERROR)).await;
            return Ok(told.is_ok() && prohibits(&stream)?);
        }
        let socket = UdpSocket::from_std(socket.into())?;
        for _ in 0..PATIENCE.as_millis() / REPEAT_AFTER.as_millis() {
            // No QUIC endpoint answers this.
            let _ = socket.try_send(&[0]);
            if timeout(REPEAT_AFTER, socket.ready(Interest::ERROR)).await.is_ok() {
                return prohibits(&socket);
            }
        }
        Ok(false)
    }

    /// Whether an error message that a socket has got says so.
    fn prohibits(socket: &impl AsRawFd) -> io::Result<bool> {
        let mut space = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut [], Some(&mut space), flags)?;
        Ok(message.cmsgs()?.any(|message| match message {
            ControlMessageOwned::Ipv4RecvErr(error, _) => is_prohibition_v4(error.ee_type, error.ee_code),
            ControlMessageOwned::Ipv6RecvErr(error, _) => is_prohibition_v6(error.ee_type, error.ee_code),
            _ => false,
        }))
    }

    /// Destination unreachable: network, host, or communication administratively prohibited (RFC 792, RFC 1812).
    fn is_prohibition_v4(kind: u8, code: u8) -> bool {
        kind == 3 && [9, 10, 13].contains(&code)
    }

    /// Destination unreachable: administratively prohibited, or rejected by policy (RFC 4443).
    fn is_prohibition_v6(kind: u8, code: u8) -> bool {
        kind == 1 && [1, 5, 6].contains(&code)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_no_firewall() {
        for transport in Transport::USUAL {
            assert!(!is_prohibited(transport, "127.0.0.1:9".parse().unwrap()).await);
            assert!(!is_prohibited(transport, "[::1]:9".parse().unwrap()).await);
        }
    }
}
