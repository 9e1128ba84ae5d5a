//! When and where a result was measured.

use std::time::SystemTime;

use humantime::format_rfc3339_seconds;
use ping_core::program::{datable, host_name, system};

/// When and where a result was measured.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) started: SystemTime,
    /// The name of the machine.
    pub(crate) host: String,
    /// Its operating system and architecture.
    pub(crate) system: String,
}

impl Origin {
    /// Now, on this machine.
    pub(crate) fn here() -> Self {
        Self {
            started: datable(SystemTime::now()),
            host: host_name().unwrap_or_else(|| "unknown".into()),
            system: system(),
        }
    }

    /// The date and time in UTC (RFC 3339).
    pub(crate) fn started_text(&self) -> String {
        format_rfc3339_seconds(self.started).to_string()
    }
}
