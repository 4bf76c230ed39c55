//! The PKI engine over the API, judged by OpenSSL.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::operator::Operator;

const NAME: &str = "spiffe://hive.test/ns/shop/sa/cart";

/// An operator with an authority, and a role for SPIFFE IDs.
async fn with_authority(key: &str) -> Operator {
    let operator = Operator::start().await;
    operator.write("sys/mounts/pki", json!({ "type": "pki" })).await;
    let urls = json!({
        "issuing_certificates": "http://pki.hive.test/ca",
        "crl_distribution_points": "http://pki.hive.test/crl",
    });
    operator.write("pki/config/urls", urls).await;
    let root = json!({ "common_name": "hive.test", "key_type": key });
    operator.write("pki/root/generate/internal", root).await;
    let role = json!({
        "allowed_domains": "hive.test", "allow_subdomains": true, "require_cn": false,
        "allowed_uri_sans": "spiffe://hive.test/*", "key_type": "ec", "max_ttl": "1h",
    });
    operator.write("pki/roles/cart", role).await;
    operator
}

async fn file(operator: &Operator, directory: &Path, path: &str, name: &str) -> String {
    let (status, bytes) = operator.raw("GET", path, &[], &Value::Null).await;
    assert_eq!(status, 200, "{path} is for everybody");
    let file = directory.join(name);
    std::fs::write(&file, bytes).expect("a file");
    file.to_str().expect("text").to_owned()
}

fn openssl(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).output().expect("OpenSSL is installed");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn openssl_verifies_what_was_issued_and_not_what_was_taken_back() {
    for key in ["ec", "rsa", "ed25519"] {
        let operator = with_authority(key).await;
        let directory = tempfile::tempdir().expect("a directory");
        let body = json!({ "common_name": "cart.hive.test", "uri_sans": NAME, "ttl": "10m" });
        let issued = operator.write("pki/issue/cart", body).await["data"].clone();
        let leaf = directory.path().join("leaf.pem");
        std::fs::write(&leaf, issued["certificate"].as_str().expect("PEM")).expect("a file");
        let leaf = leaf.to_str().expect("text");
        let ca = file(&operator, directory.path(), "pki/ca/pem", "ca.pem").await;
        let purposes = ["verify", "-x509_strict", "-CAfile", &ca, "-purpose"];
        for purpose in ["sslclient", "sslserver"] {
            let (good, said) = openssl(&[&purposes[..], &[purpose, leaf]].concat());
            assert!(good, "{key}, {purpose}: {said}");
        }
        let crl = file(&operator, directory.path(), "pki/crl/pem", "crl.pem").await;
        let checked = ["verify", "-crl_check", "-CAfile", &ca, "-CRLfile", &crl, leaf];
        let (good, said) = openssl(&checked);
        assert!(good, "{key}: {said}");
        let serial = json!({ "serial_number": issued["serial_number"] });
        operator.write("pki/revoke", serial).await;
        file(&operator, directory.path(), "pki/crl/pem", "crl.pem").await;
        let (good, said) = openssl(&checked);
        assert!(!good && said.contains("certificate revoked"), "{key}: {said}");
        operator.vault.stop().await.expect("nothing is left");
    }
}

#[tokio::test]
async fn a_certificate_names_a_spiffe_id_and_where_its_authority_is() {
    let operator = with_authority("ec").await;
    let directory = tempfile::tempdir().expect("a directory");
    let issued = operator.write("pki/issue/cart", json!({ "uri_sans": NAME })).await;
    let leaf = directory.path().join("leaf.pem");
    std::fs::write(&leaf, issued["data"]["certificate"].as_str().expect("PEM")).expect("a file");
    let (good, text) = openssl(&["x509", "-noout", "-text", "-in", leaf.to_str().expect("text")]);
    assert!(good, "{text}");
    for part in [
        &format!("URI:{NAME}"),
        "CA Issuers - URI:http://pki.hive.test/ca",
        "URI:http://pki.hive.test/crl",
        "Digital Signature, Key Encipherment, Key Agreement",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Subject Key Identifier",
        "X509v3 Authority Key Identifier",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    operator.vault.stop().await.expect("nothing is left");
}

#[tokio::test]
async fn a_request_that_openssl_made_is_signed_with_its_names() {
    let operator = with_authority("ec").await;
    let directory = tempfile::tempdir().expect("a directory");
    let key = directory.path().join("key.pem");
    let names = format!("subjectAltName=DNS:cart.hive.test,URI:{NAME}");
    let (good, csr) = openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        key.to_str().expect("text"),
        "-subj",
        "/CN=cart.hive.test",
        "-addext",
        &names,
    ]);
    assert!(good, "{csr}");
    let csr = &csr[csr.find("-----BEGIN CERT").expect("PEM")..];
    let signed = operator.write("pki/sign/cart", json!({ "csr": csr, "ttl": "10m" })).await;
    assert!(signed["data"]["private_key"].is_null());
    let leaf = directory.path().join("leaf.pem");
    std::fs::write(&leaf, signed["data"]["certificate"].as_str().expect("PEM")).expect("a file");
    let leaf = leaf.to_str().expect("text");
    let ca = file(&operator, directory.path(), "pki/ca/pem", "ca.pem").await;
    let (good, said) = openssl(&["verify", "-CAfile", &ca, leaf]);
    assert!(good, "{said}");
    let (_, text) = openssl(&["x509", "-noout", "-text", "-in", leaf]);
    assert!(text.contains(NAME) && text.contains("DNS:cart.hive.test"), "{text}");
    operator.vault.stop().await.expect("nothing is left");
}

#[tokio::test]
async fn a_certificate_under_a_lease_is_taken_back_with_it() {
    let operator = with_authority("ec").await;
    let role =
        json!({ "allow_any_name": true, "key_type": "ec", "generate_lease": true, "ttl": "1h" });
    operator.write("pki/roles/leased", role).await;
    let issued = operator.write("pki/issue/leased", json!({ "common_name": "x" })).await;
    let lease = issued["lease_id"].as_str().expect("a lease");
    assert!(lease.starts_with("pki/issue/leased/"), "{lease}");
    let body = json!({ "lease_id": lease, "sync": true });
    operator.write("sys/leases/revoke", body).await;
    let serial = issued["data"]["serial_number"].as_str().expect("a number");
    let shown = operator.read(&format!("pki/cert/{serial}")).await;
    assert!(shown["data"]["revocation_time"].as_u64() > Some(0), "{shown}");
    operator.vault.stop().await.expect("nothing is left");
}
