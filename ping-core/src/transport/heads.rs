//! Messages that follow each other in a byte stream, each behind a head that says how long the rest is.

/// Finds the heads of messages, however their bytes are split.
#[derive(Debug)]
pub(super) struct Heads<const LENGTH: usize> {
    head: [u8; LENGTH],
    /// How much of the head has passed.
    has: usize,
    /// How much of the rest has not.
    left: usize,
}

impl<const LENGTH: usize> Default for Heads<LENGTH> {
    fn default() -> Self {
        Self { head: [0; LENGTH], has: 0, left: 0 }
    }
}

impl<const LENGTH: usize> Heads<LENGTH> {
    /// Takes what passes. `on_head` gets each head when it is complete, and returns how many bytes follow it.
    ///
    /// # Errors
    ///
    /// When `on_head` fails. The rest of the bytes is then not read.
    pub(super) fn pass<E>(
        &mut self,
        mut bytes: &[u8],
        mut on_head: impl FnMut(&[u8; LENGTH]) -> Result<usize, E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let rest = self.left.min(bytes.len());
            self.left -= rest;
            bytes = &bytes[rest..];
            let head = (LENGTH - self.has).min(bytes.len());
            self.head[self.has..self.has + head].copy_from_slice(&bytes[..head]);
            self.has += head;
            bytes = &bytes[head..];
            if self.has == LENGTH {
                self.left = on_head(&self.head)?;
                self.has = 0;
            }
        }
        Ok(())
    }

    /// The last head, unless a part of the next one has passed.
    pub(super) fn last(&self) -> Option<&[u8; LENGTH]> {
        (self.has == 0).then_some(&self.head)
    }

    /// Whether the next byte begins a message.
    pub(super) fn is_at_start(&self) -> bool {
        self.has == 0 && self.left == 0
    }
}
