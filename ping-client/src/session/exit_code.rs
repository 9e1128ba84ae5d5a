//! The exit code of a session.

use crate::{error::Error, figures::SessionResult, gates};

/// As `ping(8)`: 0 if a pong arrived, or, where that is `required`, all pongs; 1 if not; 2 if there was no server to
/// ping. Also 2 if this program failed. 3 if a gate did.
pub(crate) fn exit_code(required: Option<u64>, result: &SessionResult) -> u8 {
    let is_bug = matches!(result.error, Some(Error::Bug { .. }));
    if !result.gates.is_empty() && !is_bug {
        return gates::EXIT_CODE;
    }
    code(required, result.figures.received, result.server.is_some(), result.error.as_ref())
}

fn code(required: Option<u64>, received: u64, was_found: bool, error: Option<&Error>) -> u8 {
    match error {
        Some(Error::Bug { .. }) => 2,
        _ if required.map_or(received > 0, |required| received >= required) => 0,
        Some(Error::Interrupted { .. } | Error::Deadline { .. }) | None => 1,
        Some(_) if was_found => 1,
        Some(_) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_ping() {
        let lost = Error::Lost { reason: "it ended".into() };
        let bug = Error::Bug { reason: "it panicked".into(), culprit: None };
        for (required, received, was_found, error, expected) in [
            // Without a requirement, one pong is enough.
            (None, 1, true, None, 0),
            (None, 1, true, Some(&lost), 0),
            (None, 0, true, None, 1),
            (None, 0, true, Some(&lost), 1),
            // With a count and a deadline, every pong is required.
            (Some(5), 5, true, None, 0),
            (Some(5), 4, true, None, 1),
            (Some(5), 4, true, Some(&lost), 1),
            // A search.
            (None, 0, false, Some(&Error::NothingDiscovered), 2),
            (Some(5), 0, false, Some(&Error::NothingDiscovered), 2),
            (None, 0, false, Some(&Error::Interrupted { last: None }), 1),
            (None, 0, false, Some(&Error::Deadline { deadline: std::time::Duration::ZERO }), 1),
            // This program itself.
            (None, 100, true, Some(&bug), 2),
        ] {
            let code = code(required, received, was_found, error);
            assert_eq!(code, expected, "{required:?} {received} {was_found} {error:?}");
        }
    }
}
