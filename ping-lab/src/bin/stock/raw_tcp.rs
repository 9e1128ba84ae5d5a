//! Nothing but a TCP connection and frames of a fixed size: what the machine can do.

use std::{collections::VecDeque, time::Instant};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Load, print_figures};

/// The frames of the plain TCP programs when no payload is asked for: as large as a sequence number and a total.
const SMALL_FRAME: usize = 16;

/// Sends back whatever comes.
pub(super) async fn server() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut buffer = vec![0; 256 * 1024];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        });
    }
}

pub(super) async fn client(address: &str, load: Load) -> Result<()> {
    let Load { started, count, width, size } = load;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let frame = vec![0xA5; size.max(SMALL_FRAME)];
    let mut buffer = vec![0; frame.len()];
    let mut sent = VecDeque::new();
    let (mut first_pong, mut round_trips) = (None, Vec::new());
    let running = Instant::now();
    let (ask, asked) = tokio::sync::mpsc::channel::<()>(width);
    // Large frames fill the socket in both directions, so one task writes while the other reads.
    let writing = tokio::spawn(async move {
        let mut asked = asked;
        while asked.recv().await.is_some() {
            writer.write_all(&frame).await?;
        }
        std::io::Result::Ok(())
    });
    for _ in 0..(width as u64).min(count) {
        sent.push_back(Instant::now());
        ask.send(()).await?;
    }
    let mut left = count.saturating_sub(width as u64);
    while let Some(since) = sent.pop_front() {
        reader.read_exact(&mut buffer).await?;
        round_trips.push(since.elapsed());
        first_pong.get_or_insert_with(|| started.elapsed());
        if left > 0 {
            left -= 1;
            sent.push_back(Instant::now());
            ask.send(()).await?;
        }
    }
    print_figures(first_pong, round_trips, running.elapsed(), count);
    drop(ask);
    Ok(writing.await??)
}

pub(super) async fn batch_client(address: &str, load: Load) -> Result<()> {
    let Load { started, count, width, .. } = load;
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let frames = vec![0xA5; SMALL_FRAME * width];
    let mut buffer = vec![0; 256 * 1024];
    let (mut sent, mut round_trips) = (VecDeque::new(), Vec::with_capacity(count as usize));
    let (mut first_pong, mut left, mut partial) = (None, count, 0);
    let running = Instant::now();
    let mut room = width;
    while round_trips.len() < count as usize {
        let now = Instant::now();
        let batch = left.min(room as u64) as usize;
        sent.extend(std::iter::repeat_n(now, batch));
        left -= batch as u64;
        stream.write_all(&frames[..batch * SMALL_FRAME]).await?;
        let length = stream.read(&mut buffer).await?;
        let now = Instant::now();
        room = (partial + length) / SMALL_FRAME;
        partial = (partial + length) % SMALL_FRAME;
        round_trips.extend(sent.drain(..room).map(|since: Instant| now - since));
        first_pong.get_or_insert_with(|| started.elapsed());
    }
    print_figures(first_pong, round_trips, running.elapsed(), count);
    Ok(())
}
