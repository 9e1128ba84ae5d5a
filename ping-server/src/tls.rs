//! The certificate that clients see who connect by WebSocket over TLS.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;
use ping_core::keys::Certificate;

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct TlsArgs {
    /// File with a certificate in PEM form, to show on /tls/ws [default: one that the server signs itself]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,

    /// File with its private key in PEM form
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads the certificate, if one is named.
    pub(crate) fn certificate(&self) -> Result<Option<Certificate>> {
        match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => Ok(Some(Certificate::read(certificate, key)?)),
            _ => Ok(None),
        }
    }
}
