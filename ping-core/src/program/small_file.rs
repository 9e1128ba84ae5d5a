//! Small files that the user names: keys, lists, settings.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// How much of such a file is read, in bytes.
const MAX_SMALL_FILE: u64 = 1024 * 1024;

/// Opens a file to read it, if it is a regular file. A pipe or a device might never end.
///
/// # Errors
///
/// When it is something else, or cannot be opened.
pub fn open_regular(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

/// Reads a text file of at most 1 MiB.
///
/// # Errors
///
/// When it is no regular file, cannot be read, is longer, or is not text.
pub fn read_small_file(path: &Path) -> io::Result<String> {
    read_file(path, MAX_SMALL_FILE)
}

/// Reads a text file of at most this many bytes.
///
/// # Errors
///
/// When it is no regular file, cannot be read, is longer, or is not text.
pub fn read_file(path: &Path, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    if open_regular(path)?.take(limit + 1).read_to_end(&mut bytes)? as u64 > limit {
        return Err(io::Error::other(format!("it is longer than {} MiB", limit / (1024 * 1024))));
    }
    decode(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not text in UTF-8 or UTF-16"))
}

/// The text of a file in UTF-8, or in UTF-16 as PowerShell writes it, without its byte order mark. UTF-16 needs one.
/// `None` if it is no text.
pub fn decode(bytes: &[u8]) -> Option<String> {
    let utf16 = |bytes: &[u8], read: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units = pairs.iter().map(|pair| read(*pair));
        if rest.is_empty() { char::decode_utf16(units).collect::<Result<_, _>>().ok() } else { None }
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] | rest => str::from_utf8(rest).ok().map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "text").unwrap();
        assert_eq!(read_small_file(&path).unwrap(), "text");
        fs::write(&path, [0xff; 10]).unwrap();
        assert!(read_small_file(&path).is_err());
        fs::write(&path, "x".repeat(MAX_SMALL_FILE as usize + 1)).unwrap();
        assert!(read_small_file(&path).is_err());
        assert!(read_small_file(folder.path()).is_err());
    }

    #[test]
    fn a_file_may_have_been_written_by_another_system() {
        let utf16 = |mark: [u8; 2], bytes: fn(u16) -> [u8; 2]| {
            mark.into_iter().chain("k\u{e9}y\r\n".encode_utf16().flat_map(bytes)).collect::<Vec<u8>>()
        };
        for bytes in [
            "k\u{e9}y\r\n".as_bytes().to_vec(),
            "\u{feff}k\u{e9}y\r\n".as_bytes().to_vec(),
            utf16([0xff, 0xfe], u16::to_le_bytes),
            utf16([0xfe, 0xff], u16::to_be_bytes),
        ] {
            assert_eq!(decode(&bytes).as_deref(), Some("k\u{e9}y\r\n"), "{bytes:x?}");
        }
        for bytes in [&[0xff, 0xfe, 0x41][..], &[0xff, 0xfe, 0x00, 0xd8], &[0xe9]] {
            assert_eq!(decode(bytes), None, "{bytes:x?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_never_ends_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [&pipe, Path::new("/dev/zero")] {
            assert!(read_small_file(path).unwrap_err().to_string().contains("not a regular file"));
        }
    }
}
