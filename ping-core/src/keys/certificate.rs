//! The certificate that a node shows to those that connect by WebSocket over TLS.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::private_file::{Exposure, exposure};
use crate::program::open_regular;

/// How much of each file is read, in bytes. Chains of certificates have some thousands.
const MAX_FILE_SIZE: u64 = 256 * 1024;

/// The name in a certificate that a node signs for itself. Nobody checks it.
const OWN_NAME: &str = "kameo-ping";

/// A certificate, those of its issuers, and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<PrivateKeyDer<'static>>,
}

/// Why files gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read the file {path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
    /// A file holds something else.
    #[error("the file {path} holds no {what} in PEM form")]
    WrongForm {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The key is of a kind that is not supported, or of another certificate.
    #[error(
        "the key in {key} does not belong to the certificate in {certificate}, or is of another kind than P-256, \
         P-384, Ed25519 and RSA"
    )]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// Other users of this machine can read the key, or it is theirs.
    #[error("{exposure} the key file {path}. {}", exposure.help(path))]
    Exposed {
        /// The file.
        path: PathBuf,
        /// To whom.
        exposure: Exposure,
    },
}

impl Certificate {
    /// Reads a certificate, with those of its issuers behind it, and its key, each from a file in PEM form.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or holds something else, or others can read the key.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let wrong = |path: &Path, what| CertificateError::WrongForm { path: path.into(), what };
        let bytes = read(certificate, false)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
            .collect::<Result<_, _>>()
            .map_err(|_| wrong(certificate, "certificate"))?;
        if chain.is_empty() {
            return Err(wrong(certificate, "certificate"));
        }
        let bytes = read(key, true)?;
        let private =
            PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| wrong(key, "private key that is not encrypted"))?;
        let signs = ring::default_provider().key_provider.load_private_key(private.clone_key());
        let belongs = signs.is_ok_and(|signs| CertifiedKey::new(chain.clone(), signs).keys_match().is_ok());
        if !belongs {
            return Err(CertificateError::Mismatch { certificate: certificate.into(), key: key.into() });
        }
        Ok(Self { chain, key: Arc::new(private) })
    }

    /// A new one that the node signs for itself.
    pub(crate) fn self_signed() -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed([OWN_NAME.to_owned()]).map_err(io::Error::other)?;
        let key = PrivateKeyDer::try_from(made.key_pair.serialize_der()).map_err(io::Error::other)?;
        Ok(Self { chain: vec![made.cert.into()], key: Arc::new(key) })
    }
}

fn read(path: &Path, is_private: bool) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |cause| CertificateError::Unreadable { path: path.into(), cause };
    let file = open_regular(path).map_err(unreadable)?;
    if is_private && let Some(exposure) = exposure(&file).map_err(unreadable)? {
        return Err(CertificateError::Exposed { path: path.into(), exposure });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_certificate_is_read_with_its_private_key() {
        let folder = tempfile::tempdir().unwrap();
        let [certificate, key] = ["certificate", "key"].map(|name| folder.path().join(name));
        assert!(matches!(Certificate::read(&certificate, &key), Err(CertificateError::Unreadable { .. })));
        let made = rcgen::generate_simple_self_signed([OWN_NAME.to_owned()]).unwrap();
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.key_pair.serialize_pem()).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
            assert!(matches!(Certificate::read(&certificate, &key), Err(CertificateError::Exposed { .. })));
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert_eq!(Certificate::read(&certificate, &key).unwrap().chain.len(), 1);
        let other = rcgen::generate_simple_self_signed([OWN_NAME.to_owned()]).unwrap();
        fs::write(&certificate, other.cert.pem()).unwrap();
        assert!(matches!(Certificate::read(&certificate, &key), Err(CertificateError::Mismatch { .. })));
        for wrong in ["", "-----BEGIN CERTIFICATE-----\n", "hello"] {
            fs::write(&certificate, wrong).unwrap();
            let error = Certificate::read(&certificate, &key).unwrap_err();
            assert!(matches!(error, CertificateError::WrongForm { .. }), "{wrong}: {error}");
        }
    }
}
