//! Text that a peer sent.

use std::fmt::{self, Display, Write};

use serde::{Deserialize, Deserializer, Serialize};

/// How many characters of a text are kept.
const MAX_CHARS: usize = 256;

/// Text that a peer may have written: short and printable, for a terminal, a log or a report.
///
/// Whatever a program prints of a peer's words, it prints as one of these. Control characters could clear the terminal
/// or forge a line of the log, and format characters could reorder what is read; they are escaped as in Rust's
/// literals. What exceeds 256 characters is cut, and ends with an ellipsis.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct PeerText(String);

impl PeerText {
    /// Makes a text safe to print. However long it is, no more than a short part of it is formatted.
    pub fn new(text: impl Display) -> Self {
        let mut bounded = Bounded { text: String::new(), left: MAX_CHARS };
        if write!(bounded, "{text}").is_err() {
            bounded.text.push('…');
        }
        Self(bounded.text)
    }
}

impl Display for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for PeerText {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl AsRef<str> for PeerText {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for PeerText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Takes printable characters until it is full.
struct Bounded {
    text: String,
    left: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        // The standard library knows which characters are printable; quotes need no escape outside of a literal.
        let is_quote = matches!(c, '\'' | '"' | '\\');
        let escaped = c.escape_debug();
        self.left = self.left.checked_sub(if is_quote { 1 } else { escaped.len() }).ok_or(fmt::Error)?;
        if is_quote {
            self.text.push(c)
        } else {
            self.text.extend(escaped)
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::{IntoDeserializer, value::Error};

    #[test]
    fn plain_words_stay_as_they_are() {
        for text in ["", "it's \"done\" in C:\\tmp", "Привет, 世界 → ok"] {
            assert_eq!(PeerText::new(text).as_ref(), text);
        }
    }

    #[test]
    fn what_would_act_on_a_terminal_is_escaped() {
        let evil = "\x1b[2J\x1b]0;title\x07\r\nINFO forged\u{9b}31m\u{202e}\u{200f}\u{2066}\u{feff}\u{ad}\u{7f}\0";
        let text = PeerText::new(evil).to_string();
        assert!(text.chars().all(|c| c.is_ascii_graphic() || c == ' '), "{text}");
        assert!(text.contains("\\u{1b}[2J") && text.contains("\\u{202e}"), "{text}");
        let decoded: Result<_, Error> = PeerText::deserialize(evil.into_deserializer());
        assert_eq!(decoded.unwrap().to_string(), text);
    }

    #[test]
    fn no_text_is_long() {
        for long in ["x".repeat(4 << 20), "\u{202e}".repeat(4 << 20)] {
            let text = PeerText::new(long).to_string();
            assert!(text.chars().count() <= MAX_CHARS + 1 && text.ends_with('…'), "{text}");
        }
        assert!(!PeerText::new("x".repeat(MAX_CHARS)).as_ref().ends_with('…'));
    }
}
