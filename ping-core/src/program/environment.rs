//! Options from the environment.

use clap::{ArgAction, Command, builder::BoolishValueParser, builder::OsStr};

/// Lets every option of a command, but none of its subcommands, come from the environment too: `--option-name` from
/// `{prefix}OPTION_NAME`. What the command line says goes first.
#[must_use]
pub fn from_environment(command: Command, prefix: &str) -> Command {
    command.mut_args(|arg| match arg.get_long() {
        Some(long) => {
            let name = format!("{prefix}{}", long.replace(['-', '.'], "_").to_uppercase());
            let arg = arg.env(OsStr::from(name)).hide_env(true);
            // A flag is set by 1, true or yes.
            if matches!(arg.get_action(), ArgAction::SetTrue) {
                arg.value_parser(BoolishValueParser::new())
            } else {
                arg
            }
        }
        None => arg,
    })
}
