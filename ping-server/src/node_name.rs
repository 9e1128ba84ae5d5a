//! The name of a node for people.

use ping_core::{cluster::record::MAX_NODE_NAME, program::host_name};

/// Reads a name: text without control characters, of a length that a record holds.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    if !(1..=MAX_NODE_NAME).contains(&text.len()) {
        return Err(format!("a name has 1 to {MAX_NODE_NAME} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("a name has no control characters".into());
    }
    Ok(text.to_owned())
}

/// The first label of the name of this machine.
pub(crate) fn of_this_machine() -> String {
    let host = host_name().unwrap_or_default();
    let label = host.split('.').next().unwrap_or_default();
    parse(label).unwrap_or_else(|_| "node".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_text_without_control_characters() {
        assert_eq!(parse("alpha"), Ok("alpha".into()));
        for wrong in ["", "a\nb", "\u{1b}[2J", &"x".repeat(64)] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse(&of_this_machine()).is_ok());
    }
}
