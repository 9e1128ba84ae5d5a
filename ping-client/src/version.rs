//! What `--version` says.

use ping_core::program::long_version;

use crate::output::SCHEMA;

/// The version, the libraries, and what is spoken.
pub(crate) fn long() -> String {
    format!("{}\nwrites JSON results of schema {SCHEMA}", long_version())
}
