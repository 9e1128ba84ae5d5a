//! The machine that a program runs on.

/// The name of this machine, if the system tells.
#[cfg(unix)]
pub fn host_name() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().map(Into::into)
}

/// The name of this machine, if the system tells.
#[cfg(not(unix))]
pub fn host_name() -> Option<String> {
    std::env::var("COMPUTERNAME").ok()
}

/// The operating system and the processor's architecture, such as "Linux 6.8.0, x86_64".
pub fn system() -> String {
    #[cfg(unix)]
    let system = {
        let system = rustix::system::uname();
        format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy())
    };
    #[cfg(not(unix))]
    let system = std::env::consts::OS;
    format!("{system}, {}", std::env::consts::ARCH)
}
