//! Every way to log in.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use hive_dev::authority::{Authority, AuthorityConfig, Entry, EntryId, Terms};
use hive_dev::openbao::OpenBao;
use hive_dev::vault::{Setup, Tls, Vault};
use hive_dev::witness::Witness;
use hive_security::SecretJson;
use hive_security::vault::{
    LoginError, LoginFault, LoginMethod, SecretId, VaultClient, VaultConfig, VaultError,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{World, write};
use crate::kubernetes::{SERVICE_ACCOUNT, token_reviews};
use crate::member::Member;
use crate::spire::find;
use crate::vault::http_trusting;

const PATH: &str = "/ns/shop/sa/cart";
const ID: &str = "spiffe://hive.test/ns/shop/sa/cart";
const MINUTE: Duration = Duration::from_secs(60);

async fn authority(directory: &Path) -> (Authority, Member) {
    let mut config = AuthorityConfig::new(directory.join("api.sock"));
    config.trust_domain = Some("hive.test".to_owned());
    let authority = Authority::start(config).await.expect("it starts");
    authority.add_entry(Entry::of_process(PATH, std::process::id())).expect("an entry");
    let member = Member::attach(&authority.endpoint()).await;
    (authority, member)
}

async fn jwt_role(world: &World, name: &str, change: Value) {
    let mut role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault.hive.test"], "bound_subject": ID,
        "token_ttl": 60, "token_policies": ["default"],
    });
    for (member, value) in change.as_object().expect("an object") {
        role[member] = value.clone();
    }
    world.write(&format!("auth/jwt/role/{name}"), role).await;
}

#[tokio::test]
async fn a_jwt_svid_logs_in_and_each_reason_for_a_refusal_is_told_apart() {
    let world = World::start().await;
    let (authority, member) = authority(world.directory.path()).await;
    world.write("sys/auth/jwt", json!({ "type": "jwt" })).await;
    world.write("auth/jwt/config", json!({ "jwks_url": authority.keys_url() })).await;
    jwt_role(&world, "cart", json!({})).await;
    let method = |role: &str| LoginMethod::JwtSvid {
        workload: member.workload.clone(),
        role: role.to_owned(),
    };
    let login = method("cart").login(&world.vault).await.expect("it may");
    assert!(login.ttl == MINUTE && login.renewable);
    assert!(!format!("{login:?}").contains(login.token.expose_secret()));
    jwt_role(&world, "audience", json!({ "bound_audiences": ["another"] })).await;
    jwt_role(&world, "subject", json!({ "bound_subject": "spiffe://hive.test/other" })).await;
    jwt_role(&world, "claims", json!({ "bound_claims": { "sub": "x" }, "bound_subject": "" }))
        .await;
    let table = [
        ("audience", LoginFault::Audience),
        ("subject", LoginFault::Claims),
        ("claims", LoginFault::Claims),
        ("nobody", LoginFault::Role),
    ];
    for (role, expected) in table {
        let refused = method(role).login(&world.vault).await;
        let Err(LoginError::Vault(VaultError::Login { fault, .. })) = &refused else {
            panic!("{role}: {refused:?}")
        };
        assert_eq!(*fault, expected, "{role}");
    }
    world
        .write("auth/jwt/config", json!({ "jwks_url": authority.keys_url(), "bound_issuer": "x" }))
        .await;
    let refused = method("cart").login(&world.vault).await;
    assert!(
        matches!(
            refused,
            Err(LoginError::Vault(VaultError::Login { fault: LoginFault::Issuer, .. }))
        ),
        "{refused:?}"
    );
    let stranger = tempfile::tempdir().expect("a directory");
    let stranger = Authority::start(AuthorityConfig::new(stranger.path().join("api.sock")));
    let stranger = stranger.await.expect("it starts");
    world.write("auth/jwt/config", json!({ "jwks_url": stranger.keys_url() })).await;
    let refused = method("cart").login(&world.vault).await;
    assert!(
        matches!(refused, Err(LoginError::Vault(VaultError::Login { fault: LoginFault::Key, .. }))),
        "{refused:?}"
    );
    world.bao.stop().await;
}

async fn with_app_role(world: &World, uses: u32) -> String {
    world.write("sys/auth/approle", json!({ "type": "approle" })).await;
    let role = json!({ "token_ttl": 60, "secret_id_num_uses": uses, "secret_id_ttl": "10m" });
    world.write("auth/approle/role/job", role).await;
    let answer = world.vault.read(&world.root, "auth/approle/role/job/role-id").await;
    let role_id = answer.expect("it is there").data.text("role_id").expect("text");
    role_id.expose_secret().to_owned()
}

/// A wrapping token from whoever delivers secrets.
async fn delivered(world: &World) -> SecretString {
    let path = "auth/approle/role/job/secret-id";
    let nothing = SecretJson::new(json!({}));
    let wrapped = world.vault.write_wrapped(&world.root, path, &nothing, MINUTE).await;
    wrapped.expect("it is wrapped").token
}

fn app_role(role_id: &str, secret_id: SecretId) -> LoginMethod {
    LoginMethod::AppRole { mount: "approle".to_owned(), role_id: role_id.to_owned(), secret_id }
}

#[tokio::test]
async fn an_app_role_unwraps_its_secret_once_and_logs_in_again_with_it() {
    let world = World::start().await;
    let role_id = with_app_role(&world, 0).await;
    let wrapping = delivered(&world).await;
    let method = app_role(&role_id, SecretId::wrapped("job", wrapping.clone()));
    assert!(!format!("{method:?}").contains(wrapping.expose_secret()));
    for _ in 0..2 {
        let login = method.login(&world.vault).await.expect("it may");
        assert_eq!(login.ttl, MINUTE);
    }
    let thief = app_role(&role_id, SecretId::wrapped("job", wrapping));
    let alarm = thief.login(&world.vault).await;
    assert!(matches!(alarm, Err(LoginError::PossibleTheft { .. })), "{alarm:?}");
    let stranger = app_role("no-such-id", SecretId::wrapped("job", delivered(&world).await));
    let refused = stranger.login(&world.vault).await;
    assert!(
        matches!(
            refused,
            Err(LoginError::Vault(VaultError::Login { fault: LoginFault::SecretId, .. }))
        ),
        "{refused:?}"
    );
    world.bao.stop().await;
}

#[tokio::test]
async fn a_secret_of_another_path_is_not_unwrapped() {
    let world = World::start().await;
    let role_id = with_app_role(&world, 0).await;
    let planted = SecretJson::new(json!({ "secret_id": "of a thief" }));
    let planted = world.vault.wrap(&world.root, &planted, MINUTE).await.expect("wrapped").token;
    let method = app_role(&role_id, SecretId::wrapped("job", planted.clone()));
    let alarm = method.login(&world.vault).await.expect_err("it is not trusted");
    assert!(matches!(alarm, LoginError::PossibleTheft { .. }), "{alarm:?}");
    assert!(alarm.to_string().contains("another path"), "{alarm}");
    world.vault.unwrap(&planted).await.expect("nobody has unwrapped it");
    world.bao.stop().await;
}

#[tokio::test]
async fn a_used_up_secret_is_looked_for_in_its_file_again() {
    let world = World::start().await;
    let role_id = with_app_role(&world, 1).await;
    let path = world.directory.path().join("secret-id");
    let deliver = async || {
        let token = delivered(&world).await;
        std::fs::write(&path, format!("{}\n", token.expose_secret())).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
    };
    deliver().await;
    let method = app_role(&role_id, SecretId::wrapped_in("job", &path));
    method.login(&world.vault).await.expect("it may once");
    method.login(&world.vault).await.expect_err("it is used up");
    let alarm = method.login(&world.vault).await;
    assert!(matches!(alarm, Err(LoginError::PossibleTheft { .. })), "{alarm:?}");
    deliver().await;
    method.login(&world.vault).await.expect("a new one was delivered");
    world.bao.stop().await;
}

#[tokio::test]
async fn a_service_account_logs_in_with_the_token_that_is_in_its_file_now() {
    let world = World::start().await;
    let api = token_reviews(SERVICE_ACCOUNT).await;
    world.write("sys/auth/cluster-1", json!({ "type": "kubernetes" })).await;
    // It is asked for, although nothing here speaks TLS.
    let ca = rcgen::generate_simple_self_signed(vec!["cluster.test".to_owned()]).expect("a CA");
    let config = json!({
        "kubernetes_host": api, "disable_local_ca_jwt": true, "token_reviewer_jwt": SERVICE_ACCOUNT,
        "disable_iss_validation": true, "kubernetes_ca_cert": super::engines::pem("CERTIFICATE", ca.cert.der()),
    });
    world.write("auth/cluster-1/config", config).await;
    let role = json!({
        "bound_service_account_names": ["cart"], "bound_service_account_namespaces": ["shop"], "token_ttl": 60,
    });
    world.write("auth/cluster-1/role/cart", role).await;
    let token_path = world.directory.path().join("token");
    let put = |text: &str, mode| {
        std::fs::write(&token_path, text).expect("written");
        std::fs::set_permissions(&token_path, std::fs::Permissions::from_mode(mode)).expect("ours");
    };
    let method = LoginMethod::Kubernetes {
        mount: "cluster-1".to_owned(),
        role: "cart".to_owned(),
        token_path: token_path.clone(),
    };
    let missing = method.login(&world.vault).await.expect_err("there is no file");
    assert!(matches!(&missing, LoginError::TokenFile { .. }) && missing.is_transient());
    put("not a token", 0o644);
    assert!(matches!(method.login(&world.vault).await, Err(LoginError::Vault(_))));
    put(&format!("{SERVICE_ACCOUNT}\n"), 0o644);
    assert_eq!(method.login(&world.vault).await.expect("it may").ttl, MINUTE);
    for mode in [0o664, 0o646] {
        put(SERVICE_ACCOUNT, mode);
        let refused = method.login(&world.vault).await.expect_err("anyone may have written it");
        assert!(refused.to_string().contains("chmod go-w"), "{refused}");
    }
    put("", 0o600);
    assert!(method.login(&world.vault).await.expect_err("empty").to_string().contains("empty"));
    world.bao.stop().await;
}

/// A vault with TLS, a real one or ours.
enum Secure {
    Ours(Vault),
    Real(Box<OpenBao>),
}

impl Secure {
    async fn real(directory: &Path) -> Self {
        let bao = OpenBao::dev_over_tls(&find("bao"), &directory.join("bao")).await;
        Self::Real(Box::new(bao.expect("it starts")))
    }

    async fn ours(_: &Path) -> Self {
        let setup = Setup { tls: Some(Tls::default()), ..Setup::danger_root("root-of-a-test") };
        Self::Ours(Vault::start(setup, Witness::none()).await.expect("it starts"))
    }

    fn config(&self) -> VaultConfig {
        let (address, ca_pem) = match self {
            Self::Ours(vault) => {
                let tls = vault.tls.as_ref().expect("it was asked for");
                (&tls.address, &tls.ca_pem)
            }
            Self::Real(bao) => (&bao.address, &bao.ca_pem),
        };
        VaultConfig { ca_pem: ca_pem.clone(), ..VaultConfig::at(address) }
    }

    fn root(&self) -> SecretString {
        match self {
            Self::Ours(_) => SecretString::from("root-of-a-test"),
            Self::Real(bao) => bao.root_token.clone(),
        }
    }

    async fn stop(self) {
        match self {
            Self::Ours(vault) => vault.stop().await.expect("nothing is left"),
            Self::Real(bao) => bao.stop().await,
        }
    }
}

/// A vault with TLS, and a client of it that presents the X.509-SVID of this process.
struct Certain {
    authority: Authority,
    entry: EntryId,
    member: Member,
    vault: VaultClient,
    server: Secure,
    _directory: TempDir,
}

const CERT: &str = "auth/cert/certs/cart";

impl Certain {
    async fn start(entry: Entry, server: impl AsyncFnOnce(&Path) -> Secure) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = AuthorityConfig::new(directory.path().join("api.sock"));
        config.trust_domain = Some("hive.test".to_owned());
        let authority = Authority::start(config).await.expect("it starts");
        let entry = authority.add_entry(entry).expect("an entry");
        let member = Member::attach(&authority.endpoint()).await;
        let server = server(directory.path()).await;
        let config = VaultConfig { identity: Some(member.workload.clone()), ..server.config() };
        let vault = VaultClient::new(config).expect("good settings");
        let world = Self { authority, entry, member, vault, server, _directory: directory };
        world.write("sys/auth/cert", json!({ "type": "cert" })).await;
        world.trust().await;
        world
    }

    async fn write(&self, path: &str, data: Value) {
        write(&self.vault, &self.server.root(), path, data).await;
    }

    /// What our client never does.
    async fn delete(&self, path: &str) {
        let VaultConfig { ca_pem, address, .. } = self.server.config();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.expect("one").as_bytes()) {
            roots.add(certificate.expect("PEM")).expect("a certificate");
        }
        let url = format!("{address}/v1/{path}");
        let request = http_trusting(roots).delete(url);
        let request = request.header("x-vault-token", self.server.root().expose_secret());
        assert_eq!(request.send().await.expect("an answer").status(), 204);
    }

    /// The role is for our ID, and for certificates of the authorities that are in the bundle now.
    async fn trust(&self) {
        let bundle: Value = serde_json::from_str(&self.authority.bundle_document()).expect("JSON");
        let keys = bundle["keys"].as_array().expect("keys").iter();
        let pem = keys
            .filter_map(|key| key["x5c"][0].as_str())
            .map(|der| format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n"));
        let role = json!({
            "certificate": pem.collect::<String>(), "allowed_uri_sans": [ID], "token_ttl": 60,
            "token_policies": ["default"],
        });
        self.write(CERT, role).await;
    }

    /// Another X.509-SVID is in use.
    async fn replaced(&self, by: impl AsyncFnOnce()) {
        let current = || {
            let svid = self.member.workload.x509_svid().expect("one");
            svid.certificate_chain()[0].to_vec()
        };
        let before = current();
        by().await;
        let deadline = std::time::Instant::now() + MINUTE;
        while current() == before {
            assert!(std::time::Instant::now() < deadline, "there is no new X.509-SVID");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn by_certificate() -> LoginMethod {
    LoginMethod::X509Svid { mount: "cert".to_owned(), role: "cart".to_owned() }
}

#[tokio::test]
async fn an_x509_svid_with_a_dns_name_logs_in_and_the_one_of_the_moment_is_presented() {
    x509_svids_log_in(Secure::real).await;
}

#[tokio::test]
async fn an_x509_svid_logs_in_at_our_vault_as_it_does_at_openbao() {
    x509_svids_log_in(Secure::ours).await;
}

async fn x509_svids_log_in(server: impl AsyncFnOnce(&Path) -> Secure) {
    let entry = Entry::of_process(PATH, std::process::id()).named(["cart.shop"]);
    let world = Certain::start(entry, server).await;
    let method = by_certificate();
    let login = method.login(&world.vault).await.expect("it may");
    assert_eq!((login.ttl, login.renewable), (MINUTE, true));
    assert!(!format!("{login:?}").contains(login.token.expose_secret()));
    world.vault.renew_self(&login.token, MINUTE).await.expect("its X.509-SVID is current");

    // Without its role it lives on, and is not renewed, of which the server says nothing.
    world.delete(CERT).await;
    let kept = world.vault.renew_self(&login.token, MINUTE).await;
    assert!(matches!(kept, Err(VaultError::NotRenewed { .. })), "{kept:?}");
    world.vault.lookup_self(&login.token).await.expect("it lives on");
    world.trust().await;
    world.vault.renew_self(&login.token, MINUTE).await.expect("its role is there again");

    // The next handshake presents the next X.509-SVID, which the role does not believe before it is told to.
    world.replaced(async || world.authority.rotate_x509().await.expect("it rotates")).await;
    let refused = method.login(&world.vault).await;
    assert!(
        matches!(refused, Err(LoginError::Vault(VaultError::Rejected { status: 400, .. }))),
        "{refused:?}"
    );
    world.trust().await;
    method.login(&world.vault).await.expect("the new one is presented");

    // Not those of another ID.
    world.write(CERT, json!({ "allowed_uri_sans": ["spiffe://hive.test/other"] })).await;
    method.login(&world.vault).await.expect_err("it is for another");
    world.trust().await;
    // Nor those without a name, of which the server finds out last.
    world
        .replaced(async || {
            let known = world.authority.change_entry(world.entry, Terms::default());
            assert!(known.expect("good terms"));
        })
        .await;
    let nameless = method.login(&world.vault).await;
    let fault = LoginFault::Nameless;
    assert!(
        matches!(&nameless, Err(LoginError::Vault(VaultError::Login { fault: seen, .. })) if *seen == fault),
        "{nameless:?}"
    );

    let plain = VaultClient::new(world.server.config()).expect("good settings");
    let refused = method.login(&plain).await;
    assert!(matches!(refused, Err(LoginError::Vault(VaultError::Config { .. }))), "{refused:?}");
    world.server.stop().await;
}
