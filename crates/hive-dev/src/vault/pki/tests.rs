use std::time::UNIX_EPOCH;

use super::der::pem;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn frame() -> Frame {
    Frame { default_ttl: 768 * HOUR, max_ttl: 768 * HOUR, now: UNIX_EPOCH + 500_000 * HOUR }
}

fn call(pki: &mut Pki, verb: Verb, path: &str, body: Value) -> Result<Outcome, Fault> {
    let Value::Object(body) = body else { unreachable!("bodies are objects") };
    pki.answer(verb, path, &body, frame())
}

fn write(pki: &mut Pki, path: &str, body: Value) -> Value {
    match call(pki, Verb::Write, path, body).unwrap() {
        Outcome::Told { data, .. } | Outcome::Leased { data, .. } => data,
        _ => Value::Null,
    }
}

fn refused(pki: &mut Pki, path: &str, body: Value) -> String {
    let fault = call(pki, Verb::Write, path, body).err().unwrap();
    assert_eq!(fault.status, 400);
    fault.errors.concat()
}

fn ready(key: &str, role: Value) -> Pki {
    let mut pki = Pki::default();
    write(&mut pki, "root/generate/internal", json!({ "common_name": "Root", "key_type": key }));
    write(&mut pki, "roles/r", role);
    pki
}

fn role() -> Value {
    json!({
        "allowed_domains": "example.com", "allow_subdomains": true, "key_type": "ec",
        "max_ttl": "1h", "allowed_uri_sans": "spiffe://d/*",
    })
}

#[test]
fn a_role_says_which_names_are_signed() {
    let mut pki = ready("ec", role());
    let common_name = |name: &str| json!({ "common_name": name });
    for name in ["a.example.com", "*.example.com", "a.b.example.com", "localhost"] {
        assert!(call(&mut pki, Verb::Write, "issue/r", common_name(name)).is_ok(), "{name}");
    }
    for name in ["a.evil.com", "example.com", "badexample.com", "x y", "a.example.com.evil.com"] {
        let text = format!("common name {name} not allowed by this role");
        assert_eq!(refused(&mut pki, "issue/r", common_name(name)), text);
    }
    let body = json!({ "common_name": "a.example.com", "alt_names": "evil.com" });
    let text = "subject alternate name evil.com not allowed by this role";
    assert_eq!(refused(&mut pki, "issue/r", body), text);
    let body = json!({ "common_name": "a.example.com", "uri_sans": "spiffe://x/y" });
    let text =
        "URI Subject Alternative Names were provided via the API which are not valid for this role";
    assert_eq!(refused(&mut pki, "issue/r", body), text);
}

#[test]
fn a_certificate_never_outlives_its_role_or_its_authority() {
    let mut pki = ready("ec", role());
    let body = json!({ "common_name": "a.example.com", "ttl": "10h" });
    let Ok(Outcome::Told { data, warnings }) = call(&mut pki, Verb::Write, "issue/r", body) else {
        panic!("it is issued")
    };
    let lives = data["expiration"].as_u64().unwrap() - unix(frame().now);
    assert_eq!(lives, 3600);
    let text =
        "TTL \"10h0m0s\" is longer than permitted maxTTL \"1h0m0s\", so maxTTL is being used";
    assert_eq!(warnings, [text]);
    let mut short = Pki::default();
    write(&mut short, "root/generate/internal", json!({ "key_type": "ec", "ttl": "1h" }));
    write(&mut short, "roles/r", json!({ "allow_any_name": true, "key_type": "ec" }));
    let text = refused(&mut short, "issue/r", json!({ "common_name": "x", "ttl": "2h" }));
    assert!(text.contains("beyond the expiration of the CA certificate"), "{text}");
}

#[test]
fn what_is_taken_back_is_in_the_list_and_stays_there() {
    let mut pki = ready("ec", role());
    let issued = write(&mut pki, "issue/r", json!({ "common_name": "a.example.com" }));
    let serial = json!({ "serial_number": issued["serial_number"] });
    let first = write(&mut pki, "revoke", serial.clone());
    assert_eq!(write(&mut pki, "revoke", serial), first);
    assert_eq!(pki.revoked().len(), 1);
    let text = refused(&mut pki, "revoke", json!({ "serial_number": "00:11" }));
    assert_eq!(text, "certificate with serial 00:11 not found.");
    let own = pki.authorities[0].serial.clone();
    let text = refused(&mut pki, "revoke", json!({ "serial_number": own }));
    assert!(text.ends_with("to its own CRL is not allowed"), "{text}");
}

#[test]
fn a_request_is_signed_for_the_key_it_came_with_and_for_no_other_kind() {
    let mut pki = ready("ec", role());
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["b.example.com".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "a.example.com");
    let der = params.serialize_request(&key).unwrap().der().to_vec();
    let csr = json!({ "csr": pem("CERTIFICATE REQUEST", &der) });
    let signed = write(&mut pki, "sign/r", csr.clone());
    assert!(signed["private_key"].is_null());
    let der = der::from_pem(signed["certificate"].as_str().unwrap()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    use rcgen::PublicKeyData;
    assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.der_bytes());
    write(&mut pki, "roles/rsa", json!({ "allow_any_name": true }));
    assert_eq!(refused(&mut pki, "sign/rsa", csr), "role requires keys of type rsa");
    assert_eq!(refused(&mut pki, "sign/r", json!({ "csr": "junk" })), "csr contains no data");
    assert_eq!(refused(&mut pki, "sign/r", json!({})), "\"csr\" is empty");
}

#[test]
fn every_kind_of_key_can_be_an_authority_and_a_leaf() {
    for key in ["rsa", "ec", "ed25519"] {
        let mut pki = ready(key, json!({ "allow_any_name": true, "key_type": key }));
        let issued = write(&mut pki, "issue/r", json!({ "common_name": "x", "ttl": "1h" }));
        assert_eq!(issued["private_key_type"], key);
        let label = match key {
            "rsa" => "-----BEGIN RSA PRIVATE KEY-----",
            "ec" => "-----BEGIN EC PRIVATE KEY-----",
            _ => "-----BEGIN PRIVATE KEY-----",
        };
        assert!(issued["private_key"].as_str().unwrap().starts_with(label));
    }
}

#[test]
fn without_an_authority_there_is_nothing_and_nothing_is_signed() {
    let mut pki = Pki::default();
    let Ok(Outcome::Raw { body, .. }) = call(&mut pki, Verb::Read, "ca", json!({})) else {
        panic!("it is answered")
    };
    assert!(body.is_empty());
    write(&mut pki, "roles/r", json!({ "allow_any_name": true, "key_type": "ec" }));
    let fault =
        call(&mut pki, Verb::Write, "issue/r", json!({ "common_name": "x" })).err().unwrap();
    assert_eq!(fault.status, 500);
    assert!(fault.errors.concat().contains("no default issuer currently configured"));
}
