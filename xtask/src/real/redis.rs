//! Redis: what the machine has, else Debian's packages, unpacked and not installed, so that no service starts.

use super::openbao::link;
use crate::tools::{self, Recipe, run};
use anyhow::{Context, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The server, and the libraries of its own that a machine without it does not have.
const PACKAGES: [&str; 8] = [
    "libatomic1",
    "libjemalloc2",
    "liblua5.1-0",
    "liblzf1",
    "lua-bitop",
    "lua-cjson",
    "redis-server",
    "redis-tools",
];

pub(super) fn install() -> Result<()> {
    let tools = tools::directory()?;
    let program = tools.join("bin/redis-server");
    if let Some(installed) = tools::on_path("redis-server") {
        return link(&installed, &program);
    }
    let recipe = Recipe::new(&PACKAGES.join(" "), &[])?;
    recipe.once(std::slice::from_ref(&program), &tools.join("redis.stamp"), || {
        println!("unpacking Redis into {}, once", tools.join("redis").display());
        unpack(&tools.join("redis"), &PACKAGES).context(
            "Redis is missing: install redis-server (7.0 or newer) where Debian's packages cannot be had",
        )?;
        start_script(&tools.join("redis/root"), &program)
    })
}

/// Unpacks packages of Debian below `root`.
pub(super) fn unpack(directory: &Path, packages: &[&str]) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let download = || {
        run(Command::new("apt-get").args(["-qq", "download"]).args(packages).current_dir(directory))
    };
    if download().is_err() {
        // The list of packages is older than the packages.
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        download()?;
    }
    let archives = tools::files(directory)?;
    for archive in archives.iter().filter(|path| path.extension().is_some_and(|e| e == "deb")) {
        run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(directory.join("root")))?;
    }
    Ok(())
}

/// The libraries are found where they were unpacked; `exec` keeps the process ID that a test knows.
fn start_script(root: &Path, program: &PathBuf) -> Result<()> {
    let text = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{root}/usr/lib/x86_64-linux-gnu:{root}/usr/lib/aarch64-linux-gnu' \
         exec '{root}/usr/bin/redis-server' \"$@\"\n",
        root = root.display()
    );
    if program.symlink_metadata().is_ok() {
        std::fs::remove_file(program).with_context(|| program.display().to_string())?;
    }
    std::fs::write(program, text).with_context(|| program.display().to_string())?;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(program, executable).with_context(|| program.display().to_string())
}
