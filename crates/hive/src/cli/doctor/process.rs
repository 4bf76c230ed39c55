//! What SPIRE can know of this process, and the entry that would give it an identity.

use super::Problem;
use aws_lc_rs::digest::{Context, SHA256};
use hive_security::WorkloadConfig;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// Where the name of this process' executable is kept.
const EXECUTABLE: &str = "/proc/self/exe";

pub(super) fn unknown(reason: &str, config: &WorkloadConfig) -> Problem {
    let facts = Facts::of_this_process();
    let domain = config.trust_domain.as_ref().map_or("TRUST_DOMAIN", |domain| domain.as_str());
    Problem {
        cause: reason.to_owned(),
        remedy: "register an entry whose selectors this process has, and wait some seconds until the agent has it. \
                 The parent is the agent's own ID (spire-server agent list). Selectors by path and sha256 need \
                 discover_workload_path = true in the agent's unix attestor; another program has a path of its own"
            .to_owned(),
        selectors: facts.selectors(),
        command: Some(facts.entry(domain)),
    }
}

/// What the agent's unix attestor looks at.
struct Facts {
    uid: u32,
    gid: u32,
    path: Option<PathBuf>,
    sha256: Option<String>,
}

impl Facts {
    fn of_this_process() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            path: std::fs::read_link(EXECUTABLE).ok(),
            sha256: File::open(EXECUTABLE).and_then(sha256).ok(),
        }
    }

    fn selectors(&self) -> Vec<String> {
        let mut selectors =
            vec![format!("unix:uid:{}", self.uid), format!("unix:gid:{}", self.gid)];
        selectors.extend(self.path.as_ref().map(|path| format!("unix:path:{}", path.display())));
        selectors.extend(self.sha256.as_ref().map(|digest| format!("unix:sha256:{digest}")));
        selectors
    }

    /// By user and path: a digest changes with every release, and a group says little more than the user.
    fn entry(&self, domain: &str) -> String {
        let mut command = format!(
            "spire-server entry create -parentID spiffe://{domain}/spire/agent/AGENT \
             -spiffeID spiffe://{domain}/WORKLOAD -selector unix:uid:{}",
            self.uid
        );
        if let Some(path) = &self.path {
            let selector = quoted(&format!("unix:path:{}", path.display()));
            let _ = write!(command, " -selector {selector}");
        }
        command
    }
}

fn sha256(mut file: impl Read) -> io::Result<String> {
    let (mut context, mut buffer) = (Context::new(&SHA256), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => context.update(&buffer[..read]),
        }
    }
    Ok(context.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:._-+=@".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_names_user_and_path_and_can_be_pasted() {
        let path = Some(PathBuf::from("/opt/my shop/it's"));
        let facts = Facts { uid: 1000, gid: 100, path, sha256: Some("ab".to_owned()) };
        assert_eq!(
            facts.entry("td"),
            "spire-server entry create -parentID spiffe://td/spire/agent/AGENT -spiffeID spiffe://td/WORKLOAD \
             -selector unix:uid:1000 -selector 'unix:path:/opt/my shop/it'\\''s'"
        );
        let selectors = facts.selectors();
        assert_eq!(selectors.first().map(String::as_str), Some("unix:uid:1000"));
        assert_eq!(selectors.last().map(String::as_str), Some("unix:sha256:ab"));
    }

    #[test]
    fn the_digest_is_that_of_the_whole_file() {
        let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&b"abc"[..]).ok().as_deref(), Some(of_abc));
    }
}
