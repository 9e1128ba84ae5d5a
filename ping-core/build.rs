//! Tells the crate which commit it is built from, and with which Kameo and libp2p.

use std::{env, fs, path::Path, process::Command};

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let root = Path::new(&root).join("..");
    // A packaged crate has neither; then nothing is told.
    let commit = Command::new("git").args(["rev-parse", "--short=9", "HEAD"]).current_dir(&root).output();
    let commit = commit.ok().filter(|output| output.status.success());
    if let Some(commit) = commit.and_then(|output| String::from_utf8(output.stdout).ok()) {
        println!("cargo:rustc-env=PING_COMMIT={}", commit.trim());
    }
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap_or_default();
    for (name, variable) in [("kameo", "KAMEO_VERSION"), ("libp2p", "LIBP2P_VERSION")] {
        let entry = format!("name = \"{name}\"\nversion = \"");
        if let Some(version) = lock.split_once(&entry).and_then(|(_, rest)| rest.split('"').next()) {
            println!("cargo:rustc-env={variable}={version}");
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
    // Where it exists, it changes with every commit.
    for file in [".git/logs/HEAD", "Cargo.lock"].map(|file| root.join(file)) {
        if file.exists() {
            println!("cargo:rerun-if-changed={}", file.display());
        }
    }
}
