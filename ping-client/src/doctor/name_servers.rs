//! Asks each name server of this machine, and how long it takes.

use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_proto::{
    ProtoError,
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{net::UdpSocket, time::timeout};

/// How long a name server has to answer: as long as the system's resolver waits before it asks the next one
/// (resolv.conf(5), `timeout`).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How many name servers the system's resolver asks (resolv.conf(5), `MAXNS`).
const MAX_NAME_SERVERS: usize = 3;

/// The longest answer over UDP without an extension (RFC 1035, section 2.3.4).
const MAX_ANSWER: usize = 512;

/// The UDP port of DNS.
const PORT: u16 = 53;

/// What a name server answered.
pub(super) enum Answer {
    /// The number of addresses.
    Addresses(usize),
    /// That there is no such name, or another error.
    Error(ResponseCode),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses(0) => f.write_str("knows the name, but no IPv4 address"),
            Self::Addresses(1) => f.write_str("knows one IPv4 address"),
            Self::Addresses(count) => write!(f, "knows {count} IPv4 addresses"),
            Self::Error(code) => write!(f, "answers \"{code}\""),
        }
    }
}

/// The name servers that this machine asks. Empty where the system keeps them elsewhere than in `/etc/resolv.conf`.
pub(super) fn name_servers() -> Vec<IpAddr> {
    parse(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn parse(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
    servers.take(MAX_NAME_SERVERS).collect()
}

/// Asks this name server for the IPv4 addresses of a name. Fails if it does not answer in time.
pub(super) async fn ask(server: IpAddr, name: &str) -> io::Result<(Answer, Duration)> {
    let question = question(name).map_err(io::Error::other)?;
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(SocketAddr::from((server, PORT))).await?;
    let began = Instant::now();
    socket.send(&question.to_vec().map_err(io::Error::other)?).await?;
    let answer = async {
        let mut buffer = [0; MAX_ANSWER];
        loop {
            let length = socket.recv(&mut buffer).await?;
            // Anything else is no answer to this question.
            if let Ok(message) = Message::from_vec(&buffer[..length])
                && message.id() == question.id()
            {
                return Ok((read(&message), began.elapsed()));
            }
        }
    };
    timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn question(name: &str) -> Result<Message, ProtoError> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    let mut message = Message::new();
    message.add_query(Query::query(name, RecordType::A)).set_recursion_desired(true);
    Ok(message)
}

fn read(message: &Message) -> Answer {
    match message.response_code() {
        ResponseCode::NoError => {
            let addresses = message.answers().iter().filter(|record| record.record_type() == RecordType::A);
            Answer::Addresses(addresses.count())
        }
        code => Answer::Error(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_name_servers_are_asked() {
        let text = "# nameserver 9.9.9.9\nnameserver 127.0.0.53\noptions edns0\nnameserver ::1\nnameserver x\n\
                    nameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        let expected: [IpAddr; 3] = ["127.0.0.53", "::1", "192.0.2.1"].map(|ip| ip.parse().unwrap());
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn an_answer_is_told_in_words() {
        let mut message = question("example.org").unwrap();
        assert_eq!(message.queries()[0].name().to_string(), "example.org.");
        assert_eq!(read(&message).to_string(), "knows the name, but no IPv4 address");
        message.set_response_code(ResponseCode::NXDomain);
        assert_eq!(read(&message).to_string(), "answers \"Non-Existent Domain\"");
    }
}
