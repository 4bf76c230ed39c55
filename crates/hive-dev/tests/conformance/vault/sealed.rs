//! What transit seals on either server opens with the exported key, and in one way: a ciphertext is no secret of the
//! server that made it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::prelude::{BASE64_STANDARD, Engine as _};

use crate::vault::script;
use crate::vault::stage::Stage;

const CALLS: &str = r#"
PUT sys/mounts/transit {"type":"transit"}
PUT transit/keys/plain {"exportable":true}
PUT transit/keys/derived {"exportable":true,"derived":true}
PUT transit/encrypt/plain {"plaintext":"aGVsbG8=","associated_data":"YWQ="}
PUT transit/encrypt/derived {"plaintext":"aGVsbG8=","context":"Y29udGV4dA=="}
GET transit/export/encryption-key/plain
GET transit/export/encryption-key/derived
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_ciphertext_of_either_opens_with_its_exported_key() {
    let stage = Stage::set("").await;
    let (mut openbao, mut ours) = stage.recorders();
    let steps = script::read("sealed", CALLS);
    for server in [&mut openbao, &mut ours] {
        let answers = server.run(&steps).await;
        let text = |at: usize, pointer: &str| {
            let value = answers[at].body.pointer(pointer).and_then(|value| value.as_str());
            value.unwrap_or_else(|| panic!("{}: {}", steps[at].place, answers[at].body)).to_owned()
        };
        let key = |at| BASE64_STANDARD.decode(text(at, "/data/keys/1")).expect("a key");
        let plain = open(&key(5), &text(3, "/data/ciphertext"), b"ad");
        assert_eq!(plain, b"hello", "at {}", server.address);
        let derived = derive(&key(6), b"context");
        assert_eq!(open(&derived, &text(4, "/data/ciphertext"), b""), b"hello");
    }
    stage.strike().await;
}

fn derive(key: &[u8], context: &[u8]) -> Vec<u8> {
    let mut derived = vec![0; 32];
    let extracted = Salt::new(HKDF_SHA256, &[]).extract(key);
    let info = [context];
    let expanded = extracted.expand(&info, HKDF_SHA256).expect("a length");
    expanded.fill(&mut derived).expect("it fits");
    derived
}

fn open(key: &[u8], ciphertext: &str, aad: &[u8]) -> Vec<u8> {
    let sealed = ciphertext.strip_prefix("vault:v1:").expect("the first version");
    let sealed = BASE64_STANDARD.decode(sealed).expect("base64");
    let (nonce, text) = sealed.split_at(12);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key"));
    let nonce = Nonce::try_assume_unique_for_key(nonce).expect("twelve bytes");
    let mut text = text.to_vec();
    let opened = key.open_in_place(nonce, Aad::from(aad), &mut text).expect("it opens");
    opened.to_vec()
}
