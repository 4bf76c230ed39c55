//! Documents for programs that cannot speak to the Workload API. What is written here is not renewed.

use crate::cli::stack::{self, Failure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hive_runtime::errors::chain;
use hive_security::{Audience, X509Bundle, X509Material, X509Svid};
use secrecy::{ExposeSecret, SecretString};
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// For what only this user may read: keys and tokens.
const PRIVATE: u32 = 0o600;
/// For certificates.
const PUBLIC: u32 = 0o644;
/// Bits of a directory's mode with which others could put a file of theirs in the place of ours.
const WRITABLE_BY_OTHERS: u32 = 0o022;

pub(super) async fn jwt(audience: &str, output: &Path) -> Result<(), Failure> {
    let audience = Audience::parse(audience).map_err(|error| Failure::bad_input(chain(&error)))?;
    let to_stdout = output == Path::new("-");
    if !to_stdout {
        check_directory(parent(output)).map_err(Failure::bad_input)?;
    }
    let workload = stack::attach().await?;
    let svid = workload.jwt_svid(&audience).await;
    let svid = svid.map_err(|error| Failure::unavailable(chain(&error)))?;
    let token = svid.token().expose_secret();
    if to_stdout {
        let mut out = io::stdout().lock();
        let written = writeln!(out, "{token}").and_then(|()| out.flush());
        return written.map_err(|error| Failure::error(format!("standard output: {error}")));
    }
    write(output, PRIVATE, token.as_bytes())
}

/// Writes `svid.N.pem`, `svid.N.key`, `bundle.N.pem` and `federated_bundle.N.M.pem`, as SPIRE's agent calls them.
pub(super) async fn x509(directory: &Path) -> Result<(), Failure> {
    check_directory(directory).map_err(Failure::bad_input)?;
    let workload = stack::attach().await?;
    let state = workload.x509().current();
    let material = state.as_ref().as_ref().map_err(|error| Failure::unavailable(chain(error)))?;
    for (index, svid) in material.svids().iter().enumerate() {
        write_identity(directory, index, svid, material)?;
        println!("{}  {}", directory.join(format!("svid.{index}.pem")).display(), svid.spiffe_id());
    }
    Ok(())
}

fn write_identity(
    directory: &Path,
    index: usize,
    svid: &X509Svid,
    material: &X509Material,
) -> Result<(), Failure> {
    let file = |name: String| directory.join(name);
    let own = svid.spiffe_id().trust_domain();
    if let Some(bundle) = material.bundle(&own) {
        write(&file(format!("bundle.{index}.pem")), PUBLIC, certificates_of(bundle).as_bytes())?;
    }
    let federated = material.bundles().iter().filter(|bundle| *bundle.trust_domain() != own);
    for (number, bundle) in federated.enumerate() {
        let name = format!("federated_bundle.{index}.{number}.pem");
        write(&file(name), PUBLIC, certificates_of(bundle).as_bytes())?;
    }
    let key = SecretString::from(pem("PRIVATE KEY", svid.private_key().expose_secret()));
    write(&file(format!("svid.{index}.key")), PRIVATE, key.expose_secret().as_bytes())?;
    // The certificate last: who waits for it to change finds its key.
    let chain = svid.certificate_chain().iter().map(|certificate| pem("CERTIFICATE", certificate));
    write(&file(format!("svid.{index}.pem")), PUBLIC, chain.collect::<String>().as_bytes())
}

fn certificates_of(bundle: &X509Bundle) -> String {
    bundle.authorities().iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
}

/// RFC 7468, 64 characters a line.
fn pem(label: &str, der: &[u8]) -> String {
    let encoded = SecretString::from(STANDARD.encode(der));
    let (mut rest, mut text) = (encoded.expose_secret(), format!("-----BEGIN {label}-----\n"));
    // As long as it will be, so that no part of a key is left behind by growing.
    text.reserve_exact(rest.len() + rest.len() / 64 + 2 * label.len() + 40);
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The file is there as a whole or as it was before; at no moment can others read what is private.
fn write(path: &Path, mode: u32, content: &[u8]) -> Result<(), Failure> {
    let written = || -> io::Result<()> {
        let mut file =
            tempfile::Builder::new().prefix(".hive-").rand_bytes(12).tempfile_in(parent(path))?;
        file.write_all(content)?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        fs::File::open(parent(path))?.sync_all()
    };
    written().map_err(|error| Failure::error(format!("cannot write {}: {error}", path.display())))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn check_directory(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let metadata = fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
    if !metadata.is_dir() {
        return Err(format!("{shown} is not a directory"));
    }
    let mode = metadata.mode();
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(format!(
            "{shown} can be written by others (mode {:04o}), who could replace what is written there; \
             use a directory of your own: chmod go-w",
            mode & 0o7777
        ));
    }
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(format!("{shown} belongs to another user (uid {owner})"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_has_lines_of_64_characters_and_ends_them() {
        let text = pem("CERTIFICATE", &[0; 60]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[0], "-----BEGIN CERTIFICATE-----");
        assert_eq!(lines[1].len(), 64);
        assert_eq!(lines[2].len(), 16);
        assert_eq!(lines[3], "-----END CERTIFICATE-----");
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_without_leftovers() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("svid.0.key");
        fs::write(&path, "before").expect("a file");
        write(&path, PRIVATE, b"after").expect("it can be written");
        assert_eq!(fs::read(&path).expect("a file"), b"after");
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o777, PRIVATE);
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(check_directory(directory.path()), Ok(()));
        for mode in [0o770, 0o702, 0o1777] {
            fs::set_permissions(directory.path(), Permissions::from_mode(mode))
                .expect("it is ours");
            let refused = check_directory(directory.path()).expect_err("others can write it");
            assert!(refused.contains("can be written by others"), "{refused}");
        }
        assert!(check_directory(&directory.path().join("missing")).is_err());
    }
}
