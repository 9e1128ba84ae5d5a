//! The files that hold keys: a node's identity, and the secret of a private network.

mod identity;
mod private_file;
pub mod secret;

pub use identity::{Identity, IdentityError};
pub use private_file::Exposure;
pub use secret::SecretError;
