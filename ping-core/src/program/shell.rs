//! What a shell and a manual know of a program, from its own command line.

use std::{
    fs,
    io::{self, Write, stdout},
    path::Path,
};

use clap::Command;
use clap_complete::{Shell, generate};

/// Prints the script that completes a program's options in a shell.
///
/// # Errors
///
/// When standard output takes no more, except because its reader has left.
pub fn print_completions(mut command: Command, shell: Shell) -> io::Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    match stdout().write_all(&script) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes the manual page of a program, and of each of its subcommands, to a folder.
///
/// # Errors
///
/// When the folder cannot be made or written to.
pub fn write_manual(command: Command, folder: &Path) -> io::Result<()> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot write manual pages to {}: {error}", folder.display()))
    };
    fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder)).map_err(named)
}
