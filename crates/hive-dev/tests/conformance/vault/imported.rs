//! Keys that come from elsewhere, and backups that go from one server to the other.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair,
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use x509_parser::pem::Pem;

use crate::vault::recorder::Recorder;
use crate::vault::stage::Stage;
use crate::vault::{compare, script};

const BEGIN: &str = "PUT sys/mounts/transit {\"type\":\"transit\"}\nGET transit/wrapping_key";

#[tokio::test(flavor = "multi_thread")]
async fn keys_from_elsewhere_are_taken_alike() {
    let text = include_str!("calls/import.calls");
    let stage = Stage::set(text).await;
    let (mut openbao, mut ours) = stage.recorders();
    let keys = keys();
    for server in [&mut openbao, &mut ours] {
        let answers = server.run(&script::read("begin", BEGIN)).await;
        let public = answers[1].body["data"]["public_key"].as_str().expect("a key").to_owned();
        for (name, key) in &keys {
            server.know(name, &wrapped(&public, key));
        }
        server.know("garbage", &BASE64_STANDARD.encode([7; 600]));
    }
    compare("import", text, stage, openbao, ours).await;
}

fn keys() -> Vec<(&'static str, Vec<u8>)> {
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let ed = Ed25519KeyPair::generate().expect("a key");
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let rsa: aws_lc_rs::encoding::Pkcs8V1Der<'_> = rsa.as_der().expect("a document");
    vec![
        ("wrapped_aes", vec![3; 32]),
        ("wrapped_short", vec![3; 24]),
        ("wrapped_ec", ec.to_pkcs8v1().expect("a document").as_ref().to_vec()),
        ("wrapped_ed", ed.to_pkcs8v1().expect("a document").as_ref().to_vec()),
        ("wrapped_rsa", rsa.as_ref().to_vec()),
    ]
}

/// A key for AES under RSA-OAEP, and behind it the key itself under AES.
fn wrapped(public: &str, key: &[u8]) -> String {
    let ephemeral = [9; 32];
    let (public, _) = Pem::read(std::io::Cursor::new(public)).expect("PEM");
    let public = PublicEncryptingKey::from_der(&public.contents).expect("a key");
    let public = OaepPublicEncryptingKey::new(public).expect("a key");
    let mut first = vec![0; public.ciphertext_size()];
    let sealed = public.encrypt(&OAEP_SHA256_MGF1SHA256, &ephemeral, &mut first, None);
    let length = sealed.expect("it fits").len();
    first.truncate(length);
    let mut second = vec![0; key.len() + 16];
    let kek = AesKek::new(&AES_256, &ephemeral).expect("32 bytes");
    let length = kek.wrap_with_padding(key, &mut second).expect("it fits").len();
    second.truncate(length);
    BASE64_STANDARD.encode([first, second].concat())
}

const MADE: &str = r#"
PUT transit/keys/aes {"exportable":true,"allow_plaintext_backup":true}
PUT transit/keys/aes/rotate {}
PUT transit/encrypt/aes {"plaintext":"aGVsbG8="}
   keep sealed /data/ciphertext
PUT transit/keys/derived {"exportable":true,"allow_plaintext_backup":true,"derived":true,"type":"ed25519"}
PUT transit/sign/derived {"input":"aGVsbG8=","context":"Y29udGV4dA=="}
   keep signature /data/signature
PUT transit/keys/mac {"exportable":true,"allow_plaintext_backup":true,"type":"hmac","key_size":48}
PUT transit/hmac/mac {"input":"aGVsbG8="}
   keep hmac /data/hmac
GET transit/backup/aes
   keep backup_aes /data/backup
GET transit/backup/derived
   keep backup_derived /data/backup
GET transit/backup/mac
   keep backup_mac /data/backup
"#;
const RESTORED: &str = r#"
PUT transit/restore/their_aes {"backup":"$backup_aes"}
PUT transit/restore/their_derived {"backup":"$backup_derived"}
PUT transit/restore/their_mac {"backup":"$backup_mac"}
PUT transit/decrypt/their_aes {"ciphertext":"$sealed"}
PUT transit/verify/their_derived {"input":"aGVsbG8=","signature":"$signature","context":"Y29udGV4dA=="}
PUT transit/verify/their_mac {"input":"aGVsbG8=","hmac":"$hmac"}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_either_is_restored_by_the_other() {
    let stage = Stage::set("").await;
    let (mut openbao, mut ours) = stage.recorders();
    for server in [&mut openbao, &mut ours] {
        server.run(&script::read("begin", BEGIN)).await;
        server.run(&script::read("made", MADE)).await;
    }
    let [of_openbao, of_ours] = [&openbao, &ours].map(made);
    restores(&mut openbao, &of_ours).await;
    restores(&mut ours, &of_openbao).await;
    stage.strike().await;
}

fn made(server: &Recorder) -> Vec<(&'static str, String)> {
    let names = ["sealed", "signature", "hmac", "backup_aes", "backup_derived", "backup_mac"];
    names.map(|name| (name, server.value("made", name).to_owned())).to_vec()
}

async fn restores(server: &mut Recorder, what: &[(&'static str, String)]) {
    for (name, value) in what {
        server.know(name, value);
    }
    let answers = server.run(&script::read("restored", RESTORED)).await;
    let data = |at: usize, name: &str| answers[at].body["data"][name].clone();
    assert_eq!(data(3, "plaintext"), "aGVsbG8=", "at {}", server.address);
    assert_eq!(data(4, "valid"), true, "at {}", server.address);
    assert_eq!(data(5, "valid"), true, "at {}", server.address);
}
