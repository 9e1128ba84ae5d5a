//! Requests and replies over a NATS server, in its own protocol: <https://docs.nats.io/reference/reference-protocols>.

use std::{collections::VecDeque, time::Instant};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{Load, print_figures};

/// The payload of a small request: as large as a sequence number and a total.
const SMALL: usize = 16;

/// A connection to a NATS server.
struct Nats {
    reader: BufReader<OwnedReadHalf>,
    writer: BufWriter<OwnedWriteHalf>,
    line: String,
    payload: Vec<u8>,
}

impl Nats {
    async fn connect(address: &str, subject: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let reader = BufReader::with_capacity(256 * 1024, reader);
        let writer = BufWriter::with_capacity(256 * 1024, writer);
        let mut nats = Self { reader, writer, line: String::new(), payload: Vec::new() };
        let hello = format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {subject} 1\r\nPING\r\n");
        nats.writer.write_all(hello.as_bytes()).await?;
        nats.writer.flush().await?;
        // The server answers when it has subscribed.
        while nats.line().await? != "PONG" {}
        Ok(nats)
    }

    async fn line(&mut self) -> Result<&str> {
        self.line.clear();
        if self.reader.read_line(&mut self.line).await? == 0 {
            bail!("the NATS server closed the connection");
        }
        Ok(self.line.trim_end())
    }

    /// Waits for a message, and returns the subject to reply to. Its payload is in `payload`. What was written is sent
    /// before anything is waited for.
    async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if self.reader.buffer().is_empty() {
                self.writer.flush().await?;
            }
            let line = self.line().await?;
            let words: Vec<&str> = line.split(' ').collect();
            let (reply, size) = match words[..] {
                ["MSG", _, _, size] => (None, size.parse()?),
                ["MSG", _, _, reply, size] => (Some(reply.to_owned()), size.parse()?),
                ["PING"] => {
                    self.writer.write_all(b"PONG\r\n").await?;
                    continue;
                }
                _ => bail!("unexpected line {line:?}"),
            };
            self.payload.resize(size, 0);
            self.reader.read_exact(&mut self.payload).await?;
            self.reader.read_exact(&mut [0; 2]).await?;
            return Ok(reply);
        }
    }

    async fn publish(&mut self, head: &str, payload: &[u8]) -> Result<()> {
        self.writer.write_all(format!("PUB {head} {}\r\n", payload.len()).as_bytes()).await?;
        self.writer.write_all(payload).await?;
        Ok(self.writer.write_all(b"\r\n").await?)
    }
}

/// Sends back whatever comes.
pub(super) async fn responder(address: &str) -> Result<()> {
    let mut nats = Nats::connect(address, "ping").await?;
    println!("ready");
    loop {
        let reply = nats.next().await?.context("a message without a subject to reply to")?;
        let payload = std::mem::take(&mut nats.payload);
        nats.publish(&reply, &payload).await?;
        nats.payload = payload;
    }
}

pub(super) async fn client(address: &str, load: Load) -> Result<()> {
    let Load { started, count, width, size } = load;
    let mut nats = Nats::connect(address, "pong").await?;
    let payload = vec![0xA5; size.max(SMALL)];
    let (mut sent, mut round_trips, mut first_pong) = (VecDeque::new(), Vec::new(), None);
    let running = Instant::now();
    let mut left = count;
    while left > 0 || !sent.is_empty() {
        while left > 0 && sent.len() < width {
            left -= 1;
            sent.push_back(Instant::now());
            nats.publish("ping pong", &payload).await?;
        }
        nats.next().await?;
        round_trips.extend(sent.pop_front().map(|since| since.elapsed()));
        first_pong.get_or_insert_with(|| started.elapsed());
    }
    print_figures(first_pong, round_trips, running.elapsed(), count);
    Ok(())
}
