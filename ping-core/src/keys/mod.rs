//! The files that hold keys: a node's identity, the secret of a private network, and a certificate for WebSocket.

pub mod certificate;
mod identity;
mod private_file;
pub mod secret;

pub use certificate::{Certificate, CertificateError};
pub use identity::{Identity, IdentityError};
pub use private_file::Exposure;
pub use secret::SecretError;
