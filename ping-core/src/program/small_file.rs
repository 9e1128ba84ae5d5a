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
    let mut text = String::new();
    if open_regular(path)?.take(MAX_SMALL_FILE + 1).read_to_string(&mut text)? as u64 > MAX_SMALL_FILE {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(text)
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
