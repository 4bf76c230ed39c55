use std::time::UNIX_EPOCH;

use super::*;

fn call(keys: &mut Keys, path: &str, body: Value) -> Result<Value, Fault> {
    let Value::Object(body) = body else { unreachable!("bodies are objects") };
    match keys.answer(Verb::Write, path, &body, UNIX_EPOCH)? {
        Reply::Body(envelope) => Ok(envelope.data),
        _ => Ok(Value::Null),
    }
}

fn error(keys: &mut Keys, path: &str, body: Value) -> (u16, String) {
    let fault = call(keys, path, body).unwrap_err();
    (fault.status, fault.errors.concat())
}

fn key(kind: &str) -> Keys {
    let mut keys = Keys::default();
    call(&mut keys, "keys/k", json!({ "type": kind })).unwrap();
    keys
}

const HELLO: &str = "aGVsbG8=";

#[test]
fn what_was_encrypted_comes_back_whatever_the_cipher() {
    for kind in ["aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "rsa-2048"] {
        let mut keys = key(kind);
        let sealed = call(&mut keys, "encrypt/k", json!({ "plaintext": HELLO })).unwrap();
        assert!(sealed["ciphertext"].as_str().unwrap().starts_with("vault:v1:"), "{kind}");
        let opened =
            call(&mut keys, "decrypt/k", json!({ "ciphertext": sealed["ciphertext"] })).unwrap();
        assert_eq!(opened["plaintext"], HELLO, "{kind}");
    }
}

#[test]
fn associated_data_must_be_the_same() {
    let mut keys = key("aes256-gcm96");
    let body = json!({ "plaintext": HELLO, "associated_data": "YQ==" });
    let text = call(&mut keys, "encrypt/k", body).unwrap()["ciphertext"].clone();
    let (status, why) = error(&mut keys, "decrypt/k", json!({ "ciphertext": text }));
    assert_eq!((status, why.as_str()), (400, "cipher: message authentication failed"));
    let body = json!({ "ciphertext": text, "associated_data": "YQ==" });
    assert_eq!(call(&mut keys, "decrypt/k", body).unwrap()["plaintext"], HELLO);
}

#[test]
fn rewrapping_moves_to_the_latest_version_and_the_minimum_shuts_out_the_old() {
    let mut keys = key("aes256-gcm96");
    let old = call(&mut keys, "encrypt/k", json!({ "plaintext": HELLO })).unwrap();
    call(&mut keys, "keys/k/rotate", json!({})).unwrap();
    let old = json!({ "ciphertext": old["ciphertext"] });
    let new = call(&mut keys, "rewrap/k", old.clone()).unwrap();
    assert_eq!(new["key_version"], 2);
    let shown = call(&mut keys, "keys/k/config", json!({ "min_decryption_version": 2 })).unwrap();
    assert!(shown["keys"]["1"].is_null() && shown["keys"]["2"].is_number());
    let (status, why) = error(&mut keys, "decrypt/k", old);
    let too_old = "ciphertext or signature version is disallowed by policy (too old)";
    assert_eq!((status, why.as_str()), (400, too_old));
    let new = json!({ "ciphertext": new["ciphertext"] });
    assert_eq!(call(&mut keys, "decrypt/k", new).unwrap()["plaintext"], HELLO);
}

#[test]
fn what_is_no_ciphertext_is_refused_in_the_words_of_the_real_server() {
    let mut keys = key("aes256-gcm96");
    for (text, why) in [
        ("", "missing ciphertext to decrypt"),
        ("junk", "invalid ciphertext: no prefix"),
        ("vault:v1", "invalid ciphertext: wrong number of fields"),
        ("vault:vx:AAAA", "invalid ciphertext: version number could not be decoded"),
        ("vault:v9:AAAA", "invalid ciphertext: version is too new"),
        ("vault:v1:AAAA", "invalid ciphertext length"),
        ("vault:v1:AAA%", "invalid ciphertext: could not decode base64"),
    ] {
        let (status, said) = error(&mut keys, "decrypt/k", json!({ "ciphertext": text }));
        assert_eq!((status, said.as_str()), (400, why), "{text}");
    }
    let (_, said) = error(&mut keys, "encrypt/k", json!({ "plaintext": "%%%" }));
    assert_eq!(said, "illegal base64 data at input byte 0");
}

#[test]
fn a_batch_answers_item_by_item_and_fails_as_a_whole() {
    let mut keys = key("aes256-gcm96");
    let items = json!([{ "plaintext": HELLO, "reference": "r" }, { "plaintext": "%%" }]);
    let fault = call(&mut keys, "encrypt/k", json!({ "batch_input": items })).unwrap_err();
    let results = &fault.data.as_ref().unwrap()["batch_results"];
    assert_eq!((fault.status, &results[0]["reference"]), (400, &json!("r")));
    assert_eq!(results[1]["error"], "illegal base64 data at input byte 0");
    let body = json!({ "batch_input": [{ "ciphertext": results[0]["ciphertext"] }] });
    let opened = call(&mut keys, "decrypt/k", body).unwrap();
    assert_eq!(opened["batch_results"][0], json!({ "plaintext": HELLO, "reference": "" }));
}

#[test]
fn every_kind_of_key_signs_and_another_message_does_not_verify() {
    for kind in ["ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "ed25519", "rsa-2048"] {
        let mut keys = key(kind);
        for marshaling in ["asn1", "jws"] {
            for hash in ["sha2-256", "sha2-512"] {
                let path = |what: &str| format!("{what}/k/{hash}");
                let body =
                    |input: &str| json!({ "input": input, "marshaling_algorithm": marshaling });
                let signed = call(&mut keys, &path("sign"), body(HELLO)).unwrap();
                let check = |input: &str| {
                    let mut body = body(input);
                    body["signature"] = signed["signature"].clone();
                    body
                };
                let valid = call(&mut keys, &path("verify"), check(HELLO)).unwrap();
                assert_eq!(valid["valid"], true, "{kind} {marshaling} {hash}");
                let valid = call(&mut keys, &path("verify"), check("Ynll")).unwrap();
                assert_eq!(valid["valid"], false, "{kind} {marshaling} {hash}");
            }
        }
    }
}

#[test]
fn an_hmac_verifies_and_a_hash_is_the_known_one() {
    let mut keys = key("ecdsa-p256");
    let made = call(&mut keys, "hmac/k", json!({ "input": HELLO })).unwrap();
    let check = |input: &str| json!({ "input": input, "hmac": made["hmac"] });
    assert_eq!(call(&mut keys, "verify/k", check(HELLO)).unwrap()["valid"], true);
    assert_eq!(call(&mut keys, "verify/k", check("Ynll")).unwrap()["valid"], false);
    let sum = call(&mut keys, "hash", json!({ "input": HELLO })).unwrap();
    assert_eq!(sum["sum"], "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
}

#[test]
fn a_key_goes_only_when_that_was_allowed() {
    let mut keys = key("aes256-gcm96");
    let none = Map::new();
    let refused = keys.answer(Verb::Delete, "keys/k", &none, UNIX_EPOCH).err().unwrap();
    assert_eq!(refused.errors, ["error deleting policy k: deletion is not allowed for this key"]);
    call(&mut keys, "keys/k/config", json!({ "deletion_allowed": true })).unwrap();
    assert!(keys.answer(Verb::Delete, "keys/k", &none, UNIX_EPOCH).is_ok());
    assert_eq!(keys.answer(Verb::Read, "keys/k", &none, UNIX_EPOCH).err().unwrap().status, 404);
}

#[test]
fn only_an_exportable_key_leaves() {
    let mut keys = key("aes256-gcm96");
    let none = Map::new();
    let path = "export/encryption-key/k";
    let refused = keys.answer(Verb::Read, path, &none, UNIX_EPOCH).err().unwrap();
    assert_eq!(refused.errors, ["private key material is not exportable"]);
    call(&mut keys, "keys/k/config", json!({ "exportable": true })).unwrap();
    assert!(keys.answer(Verb::Read, path, &none, UNIX_EPOCH).is_ok());
}

#[test]
fn a_derived_key_wants_the_same_context_again() {
    let mut keys = Keys::default();
    call(&mut keys, "keys/k", json!({ "derived": true })).unwrap();
    let body = json!({ "plaintext": HELLO, "context": "YQ==" });
    let text = call(&mut keys, "encrypt/k", body).unwrap()["ciphertext"].clone();
    let with = |context: &str| json!({ "ciphertext": text, "context": context });
    assert_eq!(call(&mut keys, "decrypt/k", with("YQ==")).unwrap()["plaintext"], HELLO);
    let other = (400, "cipher: message authentication failed".to_owned());
    assert_eq!(error(&mut keys, "decrypt/k", with("Yg==")), other);
    let (_, said) = error(&mut keys, "decrypt/k", with(""));
    assert!(said.starts_with("missing 'context' for key derivation"), "{said}");
}

#[test]
fn a_key_for_hmacs_does_nothing_else() {
    let mut keys = Keys::default();
    let shown = call(&mut keys, "keys/k", json!({ "type": "hmac", "key_size": 32 })).unwrap();
    assert!(shown["keys"].is_null() && shown["key_size"] == 32);
    assert!(call(&mut keys, "hmac/k", json!({ "input": HELLO })).is_ok());
    let said = error(&mut keys, "encrypt/k", json!({ "plaintext": HELLO })).1;
    assert_eq!(said, "message encryption not supported for key type hmac");
    let said = error(&mut keys, "sign/k", json!({ "input": HELLO })).1;
    assert_eq!(said, "key type hmac does not support signing");
    assert_eq!(error(&mut keys, "keys/short", json!({ "type": "hmac" })).0, 500);
}
