//! Roles: what may be asked for, and what is made of it.

use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaSigningAlgorithm,
};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, RsaKeySize};
use serde_json::{Map, Value, json};

use super::{Body, Fault};
use crate::vault::fields;
use crate::vault::jwt_claims::glob;

/// Of no role that can be written.
const VERBATIM: &str = "sign-verbatim";

/// A role: the fields of the API, all of them, whether or not they mean anything here.
#[derive(Clone)]
pub(super) struct Role(Map<String, Value>);

/// What kind of key, and how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum KeyKind {
    Ec(u16),
    Ed25519,
    Rsa(u16),
}

impl KeyKind {
    /// By the names of the API; no bits, or none at all, is the usual length.
    pub(super) fn parse(name: &str, bits: i64) -> Result<Self, Fault> {
        let refused = |text: String| Err(Fault::new(400, text));
        match (name, bits) {
            ("rsa", 0) => Ok(Self::Rsa(2048)),
            ("rsa", 2048 | 3072 | 4096) => Ok(Self::Rsa(bits as u16)),
            ("rsa", ..2048) => {
                refused(format!("RSA keys < 2048 bits are unsafe and not supported: got {bits}"))
            }
            ("rsa", _) => refused(format!("unsupported bit length for RSA key: {bits}")),
            ("ec", 0) => Ok(Self::Ec(256)),
            ("ec", 256 | 384 | 521) => Ok(Self::Ec(bits as u16)),
            ("ec", _) => refused(format!("unsupported bit length for EC key: {bits}")),
            ("ed25519", _) => Ok(Self::Ed25519),
            _ => refused(format!("unknown key type {name}")),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ec(_) => "ec",
            Self::Ed25519 => "ed25519",
            Self::Rsa(_) => "rsa",
        }
    }

    /// As Go calls it.
    pub(super) fn signature(self) -> &'static str {
        match self {
            Self::Ec(256) => "ECDSAWithSHA256",
            Self::Ec(384) => "ECDSAWithSHA384",
            Self::Ec(_) => "ECDSAWithSHA512",
            Self::Ed25519 => "Ed25519",
            Self::Rsa(_) => "SHA256WithRSA",
        }
    }

    fn bits(self) -> u16 {
        match self {
            Self::Ec(bits) | Self::Rsa(bits) => bits,
            Self::Ed25519 => 0,
        }
    }

    pub(super) fn signing(self) -> Option<&'static EcdsaSigningAlgorithm> {
        match self {
            Self::Ec(256) => Some(&ECDSA_P256_SHA256_ASN1_SIGNING),
            Self::Ec(384) => Some(&ECDSA_P384_SHA384_ASN1_SIGNING),
            Self::Ec(_) => Some(&ECDSA_P521_SHA512_ASN1_SIGNING),
            _ => None,
        }
    }

    pub(super) fn generate(self) -> Result<KeyPair, rcgen::Error> {
        match self {
            Self::Ec(256) => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::Ec(384) => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::Ec(_) => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            Self::Rsa(bits) => {
                let size = match bits {
                    3072 => RsaKeySize::_3072,
                    4096 => RsaKeySize::_4096,
                    _ => RsaKeySize::_2048,
                };
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size)
            }
        }
    }
}

impl Role {
    /// A role as the body describes it. What it does not name is as usual: a write replaces the whole role.
    pub(super) fn read(body: &Body) -> Result<Self, Fault> {
        let mut role = usual();
        for (name, value) in &mut role {
            if !body.contains_key(name) {
                continue;
            }
            let given = match value {
                Value::Bool(_) => fields::flag(body, name).map(Value::Bool),
                Value::Array(_) => fields::strings(body, name).map(|list| json!(list)),
                Value::Number(_) if name.ends_with("_bits") => {
                    fields::number(body, name)?.map(|number| json!(number))
                }
                Value::Number(_) => fields::duration(body, name)?.map(|ttl| json!(ttl.as_secs())),
                _ => fields::text(body, name).map(|text| json!(text)),
            };
            if let Some(given) = given {
                *value = given;
            }
        }
        let mut role = Self(role);
        let (ttl, max_ttl) = (role.duration("ttl"), role.duration("max_ttl"));
        if !max_ttl.is_zero() && ttl > max_ttl {
            return Err(Fault::new(400, "\"ttl\" value must be less than \"max_ttl\" value"));
        }
        if role.text("key_type") != "any" {
            let bits = role.key()?.bits();
            role.0.insert("key_bits".to_owned(), json!(bits));
        }
        Ok(role)
    }

    /// What `sign-verbatim` goes by: everything is signed as it was asked for.
    pub(super) fn verbatim() -> Self {
        let mut role = usual();
        for name in ["client_flag", "enforce_hostnames", "require_cn", "server_flag"] {
            role.insert(name.to_owned(), json!(false));
        }
        role.insert("allow_any_name".to_owned(), json!(true));
        role.insert("allowed_uri_sans".to_owned(), json!(["*"]));
        role.insert("key_type".to_owned(), json!("any"));
        role.insert(VERBATIM.to_owned(), json!(true));
        Self(role)
    }

    pub(super) fn is_verbatim(&self) -> bool {
        self.is(VERBATIM)
    }

    pub(super) fn shown(&self) -> Value {
        Value::Object(self.0.clone())
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        let list = self.0.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Zero: not said.
    pub(super) fn duration(&self, name: &str) -> Duration {
        Duration::from_secs(self.0.get(name).and_then(Value::as_u64).unwrap_or_default())
    }

    pub(super) fn key(&self) -> Result<KeyKind, Fault> {
        let bits = self.0.get("key_bits").and_then(Value::as_i64).unwrap_or_default();
        KeyKind::parse(self.text("key_type"), bits)
    }

    pub(super) fn usages(&self) -> Vec<KeyUsagePurpose> {
        use KeyUsagePurpose as Usage;
        let named = self.list("key_usage").into_iter().filter_map(|name| {
            Some(match name.to_lowercase().trim_start_matches("keyusage") {
                "contentcommitment" => Usage::ContentCommitment,
                "crlsign" => Usage::CrlSign,
                "dataencipherment" => Usage::DataEncipherment,
                "decipheronly" => Usage::DecipherOnly,
                "digitalsignature" => Usage::DigitalSignature,
                "encipheronly" => Usage::EncipherOnly,
                "keyagreement" => Usage::KeyAgreement,
                "keyencipherment" => Usage::KeyEncipherment,
                "certsign" => Usage::KeyCertSign,
                _ => return None,
            })
        });
        named.collect()
    }

    pub(super) fn extended_usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        use ExtendedKeyUsagePurpose as Usage;
        let flags = [
            ("server_flag", Usage::ServerAuth),
            ("client_flag", Usage::ClientAuth),
            ("code_signing_flag", Usage::CodeSigning),
            ("email_protection_flag", Usage::EmailProtection),
        ];
        let flags = flags.into_iter().filter(|(name, _)| self.is(name)).map(|(_, usage)| usage);
        let named = self.list("ext_key_usage").into_iter().filter_map(|name| {
            Some(match name.to_lowercase().trim_start_matches("extkeyusage") {
                "any" => Usage::Any,
                "clientauth" => Usage::ClientAuth,
                "codesigning" => Usage::CodeSigning,
                "emailprotection" => Usage::EmailProtection,
                "ocspsigning" => Usage::OcspSigning,
                "serverauth" => Usage::ServerAuth,
                "timestamping" => Usage::TimeStamping,
                _ => return None,
            })
        });
        let mut usages: Vec<_> = flags.collect();
        for usage in named {
            if !usages.contains(&usage) {
                usages.push(usage);
            }
        }
        usages
    }

    /// Whether a certificate may have this name.
    pub(super) fn allows_name(&self, name: &str) -> bool {
        let (mailbox, host) = match name.split_once('@') {
            Some((_, host)) if host.contains('@') => return false,
            Some((_, host)) => (true, host),
            None => (false, name),
        };
        let (is_wildcard, reduced) = match host.strip_prefix("*.") {
            Some(reduced) => (true, reduced),
            None => (false, host),
        };
        if is_wildcard && (mailbox || !self.is("allow_wildcard_certificates")) {
            return false;
        }
        if self.is("enforce_hostnames") && !reduced.is_empty() && !is_hostname(reduced) {
            return false;
        }
        self.is("allow_any_name")
            || self.allows_localhost(reduced, is_wildcard)
            || self.list("allowed_domains").into_iter().any(|domain| {
                self.allows_domain(domain, name, if mailbox { host } else { name }, reduced)
            })
    }

    fn allows_localhost(&self, reduced: &str, is_wildcard: bool) -> bool {
        self.is("allow_localhost")
            && ["localhost", "localdomain"].into_iter().any(|local| {
                (reduced == local && (!is_wildcard || self.is("allow_subdomains")))
                    || (self.is("allow_subdomains") && is_below(reduced, local))
            })
    }

    fn allows_domain(&self, domain: &str, name: &str, bare: &str, reduced: &str) -> bool {
        if domain.is_empty() {
            return false;
        }
        let is_wildcard = name.starts_with("*.");
        (self.is("allow_bare_domains") && bare.eq_ignore_ascii_case(domain))
            || (self.is("allow_subdomains")
                && (is_below(reduced, domain)
                    || (is_wildcard && reduced.eq_ignore_ascii_case(domain))))
            || (self.is("allow_glob_domains") && domain.contains('*') && glob(domain, name))
    }

    /// Whether a certificate may have this URI, and why not.
    pub(super) fn check_uri(&self, uri: &str, source: &str) -> Result<(), Fault> {
        let allowed = self.list("allowed_uri_sans");
        let refused =
            |what: &str| Err(Fault::new(400, format!("URI Subject Alternative Names {what}")));
        if allowed.is_empty() {
            return refused(&format!(
                "are not allowed in this role, but were provided via {source}"
            ));
        }
        if !allowed.into_iter().any(|pattern| glob(pattern, uri)) {
            return refused(&format!(
                "were provided via {source} which are not valid for this role"
            ));
        }
        Ok(())
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// Labels of letters, digits, hyphens and underscores; a hyphen is at neither end.
pub(super) fn is_hostname(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253
        && name.split('.').all(|label| {
            let is_own = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            (1..=63).contains(&label.len())
                && label.chars().all(is_own)
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// What a role is that says nothing, as the real server shows it.
fn usual() -> Map<String, Value> {
    serde_json::from_str(include_str!("role.json")).expect("the file is a JSON object")
}
