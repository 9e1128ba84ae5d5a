//! `--max-memory`: how much memory peers may make the server hold; and how it goes back to the system.

use std::{convert::Infallible, hint::black_box, time::Duration};

use ping_core::{Node, program::size};
use tokio::time::sleep;

/// The smallest useful limit: one connection may hold half of it, and our client keeps up to 25 MiB of the largest
/// payloads in flight.
const MIN: u64 = 64 * 1024 * 1024;

/// What a server may take that has a machine to itself.
const MAX_DEFAULT: u64 = 256 * 1024 * 1024;

/// The limit if the user sets none: 256 MiB, or a quarter of the machine's memory if that is less.
pub(crate) fn default_limit() -> u64 {
    machine_memory().map_or(MAX_DEFAULT, |all| (all / 4).clamp(MIN, MAX_DEFAULT))
}

/// The memory of this machine, where the system says so.
#[cfg(target_os = "linux")]
fn machine_memory() -> Option<u64> {
    let system = rustix::system::sysinfo();
    Some(system.totalram * u64::from(system.mem_unit))
}

#[cfg(not(target_os = "linux"))]
fn machine_memory() -> Option<u64> {
    None
}

/// Reads the limit.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let limit = size(text)?;
    if limit < MIN { Err("the limit must be at least 64MiB".into()) } else { Ok(limit) }
}

/// The pause between two attempts to give freed memory back.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(1);

/// After how many allocations mimalloc looks for memory to give back (the default of `generic_collect` in its
/// `options.c`).
const COLLECT_AFTER: u32 = 10_000;

/// The size of these allocations, in bytes. mimalloc does not count those up to 1 KiB (`_mi_malloc_generic` in its
/// `page.c`).
const SIZE: usize = 2048;

/// How often memory is given back after a burst: mimalloc waits some time until it returns a page, and what a burst
/// took is not free at once.
const TIMES: u32 = 20;

/// Lets the allocator give back what bursts left, for as long as the server runs.
///
/// mimalloc gives memory back while it allocates, so that a server which is idle after a burst keeps all that it took.
/// Allocating the same block again and again makes mimalloc look. It takes half a millisecond. A server that is idle
/// for long is not woken.
pub(crate) async fn give_back(node: &Node) -> Infallible {
    loop {
        node.memory_released().await;
        for _ in 0..TIMES {
            sleep(GIVE_BACK_INTERVAL).await;
            for _ in 0..COLLECT_AFTER {
                drop(black_box(Vec::<u8>::with_capacity(SIZE)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_has_a_unit_and_is_not_too_low() {
        assert_eq!(parse("64MiB"), Ok(64 * 1024 * 1024));
        assert!(parse("1MiB").is_err() && parse("much").is_err());
        assert!((MIN..=MAX_DEFAULT).contains(&default_limit()));
    }
}
