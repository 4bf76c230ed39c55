//! Logins with what was delivered: a wrapped `secret_id`, a token in a file.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use secrecy::SecretString;

use super::script::{SECRET, Script, json_answer};
use crate::vault::{LoginError, LoginMethod, SecretId};

const LOGGED_IN: &str = r#"{"auth":{"client_token":"s.x","lease_duration":60}}"#;
const WRAP_GONE: &str = r#"{"errors":["wrapping token is not valid or does not exist"]}"#;

fn facts(path: &str) -> String {
    format!(r#"{{"data":{{"creation_path":"{path}","creation_ttl":60}}}}"#)
}

/// A Vault that keeps a wrapped `secret_id` of this path, and answers these to what comes then.
async fn vault(path: &str, unwrapped: (u16, String), login: (u16, &'static str)) -> Script {
    let facts = facts(path);
    Script::serve(move |asked: &str| match () {
        () if asked.contains("wrapping/lookup") => json_answer(200, &facts),
        () if asked.contains("wrapping/unwrap") => json_answer(unwrapped.0, &unwrapped.1),
        () => json_answer(login.0, login.1),
    })
    .await
}

fn secret_id() -> (u16, String) {
    (200, format!(r#"{{"data":{{"secret_id":"{SECRET}"}}}}"#))
}

fn app_role(secret_id: SecretId) -> LoginMethod {
    LoginMethod::AppRole { mount: "approle".to_owned(), role_id: "id".to_owned(), secret_id }
}

fn wrapped() -> LoginMethod {
    app_role(SecretId::wrapped("job", SecretString::from("s.wrapping")))
}

const PATH: &str = "auth/approle/role/job/secret-id";

#[tokio::test]
async fn a_wrapped_secret_of_another_path_is_left_where_it_is_and_raises_an_alarm() {
    for path in ["auth/approle/role/other/secret-id", "sys/wrapping/wrap", ""] {
        let script = vault(path, secret_id(), (200, LOGGED_IN)).await;
        let error = wrapped().login(&script.client()).await.unwrap_err();
        assert!(matches!(error, LoginError::PossibleTheft { .. }), "{path}: {error:?}");
        assert_eq!((script.count("unwrap"), script.count("login")), (0, 0), "{path}");
    }
}

#[tokio::test]
async fn a_wrapping_token_that_somebody_else_has_used_raises_an_alarm_and_a_seal_does_not() {
    let denied = r#"{"errors":["permission denied"]}"#;
    for refused in [(400, WRAP_GONE), (403, denied), (200, r#"{"data":{"other":"x"}}"#)] {
        let script = vault(PATH, (refused.0, refused.1.to_owned()), (200, LOGGED_IN)).await;
        let error = wrapped().login(&script.client()).await.unwrap_err();
        assert!(matches!(error, LoginError::PossibleTheft { .. }), "{refused:?}: {error:?}");
        assert!(!error.is_transient() && script.count("login") == 0);
    }
    let sealed = r#"{"errors":["Vault is sealed"]}"#.to_owned();
    let script = vault(PATH, (503, sealed), (200, LOGGED_IN)).await;
    let error = wrapped().login(&script.client()).await.unwrap_err();
    assert!(matches!(error, LoginError::Vault(_)) && error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn a_secret_is_unwrapped_once_for_all_logins_until_it_is_refused() {
    let script = vault(PATH, secret_id(), (200, LOGGED_IN)).await;
    let (client, method) = (script.client(), wrapped());
    let (one, two) = tokio::join!(method.login(&client), method.login(&client));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!((script.count("unwrap"), script.count("login")), (1, 2));

    let used_up = r#"{"errors":["invalid role or secret ID"]}"#;
    let script = vault(PATH, secret_id(), (400, used_up)).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wrapping");
    let method = app_role(SecretId::wrapped_in("job", &path));
    for delivered in ["s.one", "s.two"] {
        std::fs::write(&path, delivered).unwrap();
        method.login(&script.client()).await.unwrap_err();
        let asked = script.bodies("wrapping/lookup");
        assert!(asked.last().unwrap().contains(delivered), "{asked:?}");
    }
}

fn kubernetes(token_path: &Path) -> LoginMethod {
    let (mount, role) = ("kubernetes".to_owned(), "job".to_owned());
    LoginMethod::Kubernetes { mount, role, token_path: token_path.to_owned() }
}

#[tokio::test]
async fn a_token_that_others_could_have_written_is_not_shown_to_vault() {
    let script = vault(PATH, secret_id(), (200, LOGGED_IN)).await;
    let (client, directory) = (script.client(), tempfile::tempdir().unwrap());
    let path = directory.path().join("token");
    std::fs::write(&path, SECRET).unwrap();
    for mode in [0o620, 0o602] {
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = kubernetes(&path).login(&client).await.unwrap_err();
        assert!(matches!(error, LoginError::TokenFile { cause: None, .. }), "{mode:o}: {error:?}");
    }
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    kubernetes(&path).login(&client).await.unwrap();
    for (what, text) in [("empty", String::new()), ("too large", "x".repeat((64 << 10) + 1))] {
        std::fs::write(&path, text).unwrap();
        let error = kubernetes(&path).login(&client).await.unwrap_err();
        assert!(matches!(error, LoginError::TokenFile { cause: None, .. }), "{what}: {error:?}");
    }
    let error = kubernetes(directory.path()).login(&client).await.unwrap_err();
    assert!(matches!(error, LoginError::TokenFile { cause: None, .. }), "a directory: {error:?}");
    let missing = kubernetes(&directory.path().join("none")).login(&client).await.unwrap_err();
    assert!(missing.is_transient(), "it may still come: {missing:?}");
    assert_eq!(script.count("login"), 1);
}
