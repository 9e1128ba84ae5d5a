//! `ping-client ticket`: what a ticket says.

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use ping_core::nat::{Ticket, circuit};

/// Prints who the server is, and each way to reach it.
pub(crate) fn print(ticket: &Ticket) -> Result<ExitCode> {
    let mut text = format!("server   {}\n", ticket.peer);
    for address in &ticket.addresses {
        text += &format!("direct   {address}\n");
    }
    for (relay, addresses) in &ticket.relays {
        for address in addresses {
            text += &format!("relayed  {}\n", circuit(address, *relay));
        }
    }
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write what the ticket says"),
        _ => Ok(ExitCode::SUCCESS),
    }
}
