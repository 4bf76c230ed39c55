//! How a workload proves to Vault who it is.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::body::Body;
use super::client::VaultClient;
use super::counts::Operation;
use super::error::{LoginFault, VaultError};
use super::http::Call;
use super::route::Route;
use super::tls::config;
use super::token::Login;
use crate::{Audience, Cause, Error, JwtSvid, Workload};

/// The Workload API is a socket on this machine; an answer that takes longer does not come.
const SVID_DEADLINE: Duration = Duration::from_secs(5);
/// A service account's token has about 1 KiB.
const FILE_MAX_BYTES: u64 = 64 << 10;

/// A way to log in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LoginMethod {
    /// A `role_id`, which is no secret, and a `secret_id`, which is one.
    AppRole {
        /// Where it is mounted, usually `approle`.
        mount: String,
        /// Which role.
        role_id: String,
        /// Where its secret comes from.
        secret_id: SecretId,
    },
    /// A JWT-SVID of this workload, for the audience `vault.<trust domain>`.
    JwtSvid {
        /// Whose.
        workload: Workload,
        /// The Vault role.
        role: String,
    },
    /// The token of a Kubernetes service account, read anew for each login.
    Kubernetes {
        /// Where it is mounted, usually `kubernetes`.
        mount: String,
        /// The Vault role.
        role: String,
        /// Where Kubernetes puts the token. Nobody else may be able to write there.
        token_path: PathBuf,
    },
    /// The X.509-SVID of the client's [`identity`](super::VaultConfig::identity), over TLS. The token can be renewed
    /// only while the same X.509-SVID is current, unless the mount has `disable_binding`. Vault wants a common name in
    /// it, else [`LoginFault::Nameless`]: SPIRE gives one to entries with a DNS name, and so does the development
    /// authority.
    X509Svid {
        /// Where it is mounted, usually `cert`.
        mount: String,
        /// The Vault role.
        role: String,
    },
}

/// A `secret_id`, wrapped when it comes. It is unwrapped at the first login and kept in memory for the next ones.
#[derive(Clone, Debug)]
pub struct SecretId {
    role: String,
    source: Source,
    known: Arc<Mutex<Option<SecretString>>>,
}

#[derive(Clone, Debug)]
enum Source {
    File(PathBuf),
    Token(SecretString),
}

/// Why a login did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// There was no document to log in with.
    #[error("there is no identity to log in to Vault with")]
    Identity(#[source] Error),
    /// The Workload API did not answer.
    #[error("the Workload API gave no JWT-SVID within {} s", SVID_DEADLINE.as_secs())]
    IdentityTimeout,
    /// The wrapping token of the `secret_id` was used, has expired, or is not what it should be: somebody may have
    /// taken the `secret_id`. Nobody logs in with it here.
    #[error(
        "possible theft of the secret_id of {role}: {why}; destroy the role's secret_ids, see Vault's audit log for \
         sys/wrapping/unwrap, and deliver a new one"
    )]
    PossibleTheft {
        /// The AppRole's role.
        role: String,
        /// What was found.
        why: &'static str,
    },
    /// The file with the token cannot be used.
    #[error("the token in {} cannot be used: {why}", path.display())]
    TokenFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
        /// What the operating system said, if it was asked in vain.
        #[source]
        cause: Option<Cause>,
    },
    /// Vault did not accept it, or could not be asked.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl LoginError {
    /// Whether the same login may succeed a little later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Identity(error) => error.is_transient(),
            Self::IdentityTimeout => true,
            Self::PossibleTheft { .. } => false,
            Self::TokenFile { cause, .. } => cause.is_some(),
            Self::Vault(error) => error.is_transient(),
        }
    }
}

impl SecretId {
    /// The `secret_id` of this role, behind this wrapping token.
    pub fn wrapped(role: impl Into<String>, wrapping_token: SecretString) -> Self {
        Self::of(role.into(), Source::Token(wrapping_token))
    }

    /// The `secret_id` of this role, behind the wrapping token in this file. After the `secret_id` was refused or used
    /// up, the file is read again, for there may be a new one.
    pub fn wrapped_in(role: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self::of(role.into(), Source::File(path.into()))
    }

    fn of(role: String, source: Source) -> Self {
        Self { role, source, known: Arc::default() }
    }

    /// Unwrapped at most once, however many ask at once.
    async fn reveal(&self, vault: &VaultClient, mount: &str) -> Result<SecretString, LoginError> {
        let mut known = self.known.lock().await;
        if let Some(secret) = &*known {
            return Ok(secret.clone());
        }
        let wrapping = match &self.source {
            Source::File(path) => read_private(path).await?,
            Source::Token(token) => token.clone(),
        };
        let secret = self.unwrap(vault, mount, &wrapping).await?;
        *known = Some(secret.clone());
        Ok(secret)
    }

    async fn unwrap(
        &self,
        vault: &VaultClient,
        mount: &str,
        wrapping: &SecretString,
    ) -> Result<SecretString, LoginError> {
        let facts = vault.lookup_wrapped(wrapping).await.map_err(|error| self.alarm(error))?;
        if facts.creation_path != format!("auth/{mount}/role/{}/secret-id", self.role) {
            let why =
                "its wrapping token was made by another path, so what it holds is not trusted";
            return Err(self.theft(why));
        }
        let answer = vault.unwrap(wrapping).await.map_err(|error| self.alarm(error))?;
        let secret = answer.data.text("secret_id");
        secret.ok_or_else(|| self.theft("what was wrapped is no secret_id"))
    }

    fn alarm(&self, error: VaultError) -> LoginError {
        match error {
            VaultError::WrapGone { .. }
            | VaultError::Denied { .. }
            | VaultError::Rejected { .. } => {
                self.theft("its wrapping token has expired, or somebody else has unwrapped it")
            }
            error => error.into(),
        }
    }

    fn theft(&self, why: &'static str) -> LoginError {
        tracing::error!(role = %self.role, why, "possible theft of a secret_id");
        LoginError::PossibleTheft { role: self.role.clone(), why }
    }

    async fn forget(&self) {
        *self.known.lock().await = None;
    }
}

impl LoginMethod {
    /// The Vault role that is asked for.
    pub fn role(&self) -> &str {
        match self {
            Self::AppRole { secret_id, .. } => &secret_id.role,
            Self::JwtSvid { role, .. }
            | Self::Kubernetes { role, .. }
            | Self::X509Svid { role, .. } => role,
        }
    }

    /// Logs in once. A lost answer may have left a token behind, which then expires.
    pub async fn login(&self, vault: &VaultClient) -> Result<Login, LoginError> {
        match self {
            Self::AppRole { mount, role_id, secret_id } => {
                app_role(vault, mount, role_id, secret_id).await
            }
            Self::JwtSvid { workload, role } => {
                let audience = Audience::parse(&format!("vault.{}", workload.trust_domain()))
                    .map_err(LoginError::Identity)?;
                let svid = timeout(SVID_DEADLINE, workload.jwt_svid(&audience)).await;
                let svid = svid.map_err(|_| LoginError::IdentityTimeout)?;
                let svid = svid.map_err(LoginError::Identity)?;
                Ok(vault.login_jwt(role, &svid).await?)
            }
            Self::Kubernetes { mount, role, token_path } => {
                let token = read_private(token_path).await?;
                let body = Body::new().text("role", role).secret("jwt", &token);
                Ok(vault.login_at(mount, body).await?)
            }
            Self::X509Svid { mount, role } => {
                if !vault.http().has_identity() {
                    return Err(config("a login by X.509-SVID without an identity: set it").into());
                }
                Ok(vault.login_at(mount, Body::new().text("name", role)).await?)
            }
        }
    }
}

async fn app_role(
    vault: &VaultClient,
    mount: &str,
    role_id: &str,
    secret_id: &SecretId,
) -> Result<Login, LoginError> {
    let secret = secret_id.reveal(vault, mount).await?;
    let body = Body::new().text("role_id", role_id).secret("secret_id", &secret);
    let login = vault.login_at(mount, body).await;
    if let Err(VaultError::Login { fault: LoginFault::SecretId, .. }) = &login {
        secret_id.forget().await;
    }
    Ok(login?)
}

impl VaultClient {
    /// Logs in with a JWT-SVID whose audience is this Vault.
    pub async fn login_jwt(&self, role: &str, svid: &JwtSvid) -> Result<Login, VaultError> {
        self.login(role, svid.token()).await
    }

    /// Exchanges a JWT for a token. Not repeated: a lost answer may have left a token behind, which then expires.
    pub async fn login(&self, role: &str, jwt: &SecretString) -> Result<Login, VaultError> {
        let body = Body::new().text("role", role).secret("jwt", jwt);
        self.login_at(&self.jwt_mount, body).await
    }

    async fn login_at(&self, mount: &str, body: Body) -> Result<Login, VaultError> {
        let route = Route::fixed("auth").below(mount)?.then("login");
        let call = Call::new(Operation::Login, Method::POST, route).body(body.bytes());
        self.call(call).await?.login()
    }
}

/// Who can write the file can log in as somebody else, so it must not be just anyone.
async fn read_private(path: &Path) -> Result<SecretString, LoginError> {
    let wrong = |why, cause| LoginError::TokenFile { path: path.to_owned(), why, cause };
    let from = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let file = std::fs::File::open(from)?;
        let (facts, mut text) = (file.metadata()?, zeroize::Zeroizing::new(String::new()));
        if facts.is_file() {
            file.take(FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
        }
        Ok::<_, std::io::Error>((facts, SecretString::from(text.trim())))
    });
    let read = read.await.map_err(|_| wrong("it could not be read", None))?;
    let read = read.map_err(|error| wrong("it could not be read", Some(Arc::new(error))));
    let (facts, token) = read?;
    let length = secrecy::ExposeSecret::expose_secret(&token).len() as u64;
    match () {
        () if !facts.is_file() => Err(wrong("it is no file", None)),
        () if facts.permissions().mode() & 0o022 != 0 => {
            Err(wrong("its group or others may write it: chmod go-w", None))
        }
        () if length == 0 => Err(wrong("it is empty", None)),
        () if length > FILE_MAX_BYTES => Err(wrong("it is larger than 64 KiB", None)),
        () => Ok(token),
    }
}
