//! Where the programs are.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use crate::run::wait;

/// How long the programs may take to build.
const BUILD_DEADLINE: Duration = Duration::from_secs(60 * 60);

/// The path of one of the programs. All are built first, since cargo builds only those of the package under test.
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(build);
    target_folder().join(format!("{name}{}", env::consts::EXE_SUFFIX))
}

/// Whether this machine has a program of another project.
pub fn is_installed(name: &str) -> bool {
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders).any(|folder| folder.join(name).is_file())
}

/// The folder that cargo puts binaries into, for the profile of this program.
fn target_folder() -> PathBuf {
    let program = env::current_exe().unwrap();
    let folder = program.parent().unwrap();
    // Tests and benchmarks are in a folder below that of the programs.
    if folder.ends_with("deps") { folder.parent().unwrap().to_owned() } else { folder.to_owned() }
}

fn build() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--workspace", "--bins", "--examples"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if target_folder().ends_with("release") {
        cargo.arg("--release");
    } else {
        // With the tests, every crate has the features that `cargo test --workspace` has built it with.
        cargo.arg("--tests");
    }
    cargo.arg("--target-dir").arg(target_folder().parent().unwrap());
    // What cargo tells a test of its package would make build scripts believe that theirs has changed.
    let told = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars().filter(|(name, _)| told(name)) {
        cargo.env_remove(name);
    }
    let mut building = cargo.stdin(Stdio::null()).spawn().unwrap();
    let status = wait(&mut building, BUILD_DEADLINE);
    assert!(status.is_some_and(|status| status.success()), "the programs do not build");
}
