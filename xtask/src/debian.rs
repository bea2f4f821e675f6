// SPDX-License-Identifier: Apache-2.0
//! What is not in a language's own registry, from Debian's packages.

use std::process::{Command, Stdio};

use crate::process;

/// Whether a program is there and ends well with these arguments.
pub fn answers(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Installs packages, as root or by way of sudo.
pub fn install(packages: &[&str]) -> Result<(), String> {
    println!("installing {}", packages.join(", "));
    let root = answers("sh", &["-c", "[ \"$(id -u)\" = 0 ]"]);
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if root { "apt-get" } else { "sudo" });
        if !root {
            command.arg("apt-get");
        }
        process::run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}
