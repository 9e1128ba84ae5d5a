//! `--allow`: who may connect.

use std::{collections::HashSet, path::PathBuf, str::FromStr};

use anyhow::{Context, Result, anyhow};
use libp2p::PeerId;
use ping_core::program::read_small_file;
use tracing::warn;

/// One value of `--allow`.
#[derive(Clone, Debug)]
pub(crate) enum Allow {
    Peer(PeerId),
    File(PathBuf),
}

impl FromStr for Allow {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::File(text.into()), Self::Peer))
    }
}

/// The identities that an option allows; `None` for everyone. Fails if a file cannot be read, or a line of it is not an
/// identity.
pub(crate) fn allowed(option: &str, values: &[Allow]) -> Result<Option<HashSet<PeerId>>> {
    if values.is_empty() {
        return Ok(None);
    }
    let mut peers = HashSet::new();
    for value in values {
        match value {
            Allow::Peer(peer) => drop(peers.insert(*peer)),
            Allow::File(path) => {
                let name = path.display();
                let text = read_small_file(path).with_context(|| {
                    format!("{option} {name} is neither an identity, such as 12D3Koo…, nor a readable file")
                })?;
                let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).zip(1..);
                for (line, number) in lines.filter(|(line, _)| !line.is_empty()) {
                    let peer = line.parse().map_err(|_| {
                        anyhow!(
                            "line {number} of {name} is not an identity. Write one per line, as from ping-client id."
                        )
                    })?;
                    peers.insert(peer);
                }
            }
        }
    }
    if peers.is_empty() {
        warn!("{option} names nobody: everyone will be rejected");
    }
    Ok(Some(peers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn identities_are_given_directly_or_in_files_with_comments() {
        let [one, two] = [PeerId::random(), PeerId::random()];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("allowed");
        fs::write(&path, format!("# my machines\n\n{two}  # the laptop\n")).unwrap();
        let values: Vec<Allow> =
            [one.to_string(), path.display().to_string()].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(allowed("--allow", &values).unwrap(), Some(HashSet::from([one, two])));
        assert_eq!(allowed("--allow", &[]).unwrap(), None);
        fs::write(&path, "hello").unwrap();
        assert!(allowed("--allow", &values).unwrap_err().to_string().starts_with("line 1 of"));
        fs::remove_file(&path).unwrap();
        assert!(allowed("--allow", &values).unwrap_err().to_string().contains("neither"));
    }
}
