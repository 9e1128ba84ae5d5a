//! Sizes and counts on the command line.

use bytesize::ByteSize;

/// Reads a number of bytes: 512, 64KiB or 64kB, or 64K as iperf3 takes it, which is 65,536.
///
/// # Errors
///
/// When it is none of these.
pub fn size(text: &str) -> Result<u64, String> {
    let unit = if text.ends_with(['k', 'K', 'm', 'M', 'g', 'G']) { "iB" } else { "" };
    let parsed = format!("{text}{unit}").parse();
    parsed.map(|ByteSize(size)| size).map_err(|_| "write it as 512, 64K or 1MiB".into())
}

/// Reads a count: 500, 10k or 1M.
///
/// # Errors
///
/// When it is none of these, or not a whole number.
pub fn count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1_000),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    let number: Option<u64> = digits.parse().ok();
    number.and_then(|number| number.checked_mul(factor)).ok_or_else(|| "write it as 500, 10k or 1M".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_or_decimal_units_or_are_bytes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64K", 65_536),
            ("64k", 65_536),
            ("64KiB", 65_536),
            ("64 kB", 64_000),
            ("1M", 1_048_576),
            ("1MiB", 1_048_576),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert!(size("many").is_err() && size("-1").is_err() && size("").is_err());
    }

    #[test]
    fn counts_have_decimal_units() {
        assert_eq!(["0", "500", "10k", "2M"].map(|text| count(text).unwrap()), [0, 500, 10_000, 2_000_000]);
        for wrong in ["", "k", "1.5k", "-1", "99999999999999M"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
    }
}
