//! The programs under test, built once and up to date.

use serde_json::Value;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The real `puller`.
pub fn puller() -> &'static Path {
    &built().puller
}

/// The real `pullback-agent`.
pub fn agent() -> &'static Path {
    &built().agent
}

/// The hostile writer.
pub fn hostile_writer() -> PathBuf {
    of_this_package("hostile-writer")
}

/// The application that reads and judges.
pub fn watcher() -> PathBuf {
    of_this_package("watcher")
}

/// The application that gets stuck.
pub fn stuck_application() -> PathBuf {
    of_this_package("stuck-application")
}

/// A program of this package: cargo builds it before it runs a test of `tests/`.
fn of_this_package(name: &str) -> PathBuf {
    let path = profile_folder().join(name);
    assert!(path.is_file(), "{} is not built: run this test through `cargo test`", path.display());
    path
}

struct Built {
    puller: PathBuf,
    agent: PathBuf,
}

fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        // Test processes that start together build one after the other; the later ones find all done.
        let lock =
            File::create(profile_folder().join(".pullback-tests.lock")).expect("a lock file can be made");
        lock.lock().expect("the lock file can be locked");
        build()
    })
}

/// Builds both programs as cargo built this test: the same target folder and profile, and with this package among the
/// chosen ones, the same features of dependencies, so that after `cargo test --workspace` there is nothing left to do.
fn build() -> Built {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let profile_folder = profile_folder();
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => panic!("{} names no profile", profile_folder.display()),
    };
    let mut command = Command::new(cargo);
    command
        .args(["build", "--bins", "-p", "puller", "-p", "pullback-agent", "-p", "pullback-tests"])
        .args(["--profile", profile, "--message-format", "json-render-diagnostics", "--quiet"])
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    // Of this package, for this test. Some build scripts look at them, and would have half of all built anew, again and again.
    let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        command.env_remove(name);
    }
    let target = profile_folder.parent().expect("a profile's folder lies in the target folder");
    match target.join("CACHEDIR.TAG").exists() {
        true => command.arg("--target-dir").arg(target),
        // Built with `--target`: TARGET/TRIPLE/PROFILE.
        false => {
            let root = target.parent().expect("a triple's folder lies in the target folder");
            let triple = target.file_name().expect("a triple's folder has a name");
            command.arg("--target").arg(triple).arg("--target-dir").arg(root)
        }
    };
    let output = command.output().expect("cargo can be started");
    assert!(output.status.success(), "the programs under test do not build");
    let messages = String::from_utf8(output.stdout).expect("cargo's messages are UTF-8");
    Built { puller: executable(&messages, "puller"), agent: executable(&messages, "pullback-agent") }
}

/// Where cargo says it put the binary called `name`.
fn executable(messages: &str, name: &str) -> PathBuf {
    let is_it = |message: &Value| message["target"]["name"] == name && message["executable"].is_string();
    let message = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(is_it)
        .unwrap_or_else(|| panic!("cargo built no binary called `{name}`"));
    PathBuf::from(message["executable"].as_str().expect("an executable has a path"))
}

/// `TARGET/PROFILE`: the folder above the `deps` this very test lies in, or that of this very binary.
fn profile_folder() -> PathBuf {
    let exe = std::env::current_exe().expect("a process knows its own program");
    let deps = exe.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "deps"));
    let folder = deps.unwrap_or(&exe).parent().expect("a program lies in a folder");
    folder.to_owned()
}
