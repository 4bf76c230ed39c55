//! etcd: what the machine has, else Debian's package, unpacked and not installed, so that no service starts.

use super::openbao::link;
use super::redis::unpack;
use crate::tools::{self, Recipe};
use anyhow::{Context, Result};

/// One static program.
const PACKAGES: [&str; 1] = ["etcd-server"];

pub(super) fn install() -> Result<()> {
    let tools = tools::directory()?;
    let program = tools.join("bin/etcd");
    if let Some(installed) = tools::on_path("etcd") {
        return link(&installed, &program);
    }
    let recipe = Recipe::new(&PACKAGES.join(" "), &[])?;
    recipe.once(std::slice::from_ref(&program), &tools.join("etcd.stamp"), || {
        let directory = tools.join("etcd");
        println!("unpacking etcd into {}, once", directory.display());
        unpack(&directory, &PACKAGES).context(
            "etcd is missing: install etcd (3.4 or newer) where Debian's packages cannot be had",
        )?;
        link(&directory.join("root/usr/bin/etcd"), &program)
    })
}
