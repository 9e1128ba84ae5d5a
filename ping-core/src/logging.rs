//! `tracing` set up the same way for every program.

use std::{
    fmt::Display,
    io::{IsTerminal, Write, stderr},
};

use tracing_subscriber::EnvFilter;

/// What is shown when `RUST_LOG` says nothing: this project's own lines, and only errors of the libraries.
///
/// libp2p's mDNS reports every interface that it cannot send on as an error, such as one that has just lost its cable;
/// none of that is the user's concern as long as one interface works.
const LIBRARIES: &str = "error,libp2p_mdns=off";

/// Prints the sentence with which a program ends on stderr. A stderr that takes nothing is no reason to end otherwise.
pub fn last_words(program: &str, sentence: &dyn Display) {
    let _ = writeln!(stderr(), "{program}: {sentence}");
}

/// Sends log lines at `level` and above to stderr, with colour only on a terminal.
///
/// `RUST_LOG` overrides `level` and may name any module of this program and its libraries.
pub fn init(level: tracing::Level) {
    let ours = ["ping_core", "ping_server", "ping_client"].map(|module| format!(",{module}={level}")).concat();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{LIBRARIES}{ours}")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr)
        // Without a stderr to write to there is none to say so on either.
        .log_internal_errors(false)
        .init();
}
