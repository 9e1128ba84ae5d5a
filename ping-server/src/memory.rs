//! `--max-memory`: how much memory peers may make the server hold.

use bytesize::ByteSize;

/// The least that makes sense: a quarter of it, which one connection may hold, takes a request of the largest size.
const MIN: u64 = 32 * 1024 * 1024;

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
    let ByteSize(size) = text.parse().map_err(|error| format!("{error}; write it as 256MiB"))?;
    if size < MIN { Err("the limit must be at least 32MiB".into()) } else { Ok(size) }
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
