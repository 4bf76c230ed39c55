//! What etcd reads, in the form in which it does.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hive_dev::etcd::Files;
use hive_security::Workload;
use secrecy::ExposeSecret;

pub(crate) fn of(workload: &Workload, directory: &Path) -> Files {
    let svid = workload.x509_svid().unwrap();
    let material = workload.x509().current();
    let bundle = material.as_ref().as_ref().unwrap().bundle(&workload.trust_domain()).unwrap();
    let chain = svid.certificate_chain().iter().map(|one| pem("CERTIFICATE", one)).collect();
    let authorities = bundle.authorities().iter().map(|one| pem("CERTIFICATE", one)).collect();
    let key = pem("PRIVATE KEY", svid.private_key().expose_secret());
    Files {
        certificate: file(directory, "etcd.pem", chain),
        key: file(directory, "etcd.key", key),
        authorities: file(directory, "authorities.pem", authorities),
    }
}

fn file(directory: &Path, name: &str, text: String) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}
