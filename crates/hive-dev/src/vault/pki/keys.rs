//! The keys of a mount: of its authorities, and of those whose certificate is still to come.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::role::KeyKind;
use super::{Body, Fault, Outcome, told};
use crate::vault::fields;
use crate::vault::reply::random_uuid;

#[derive(Default)]
pub(super) struct Keys {
    all: Vec<Key>,
    /// The id of the one that is meant where none is named.
    default: Option<String>,
}

/// A key of an authority.
pub(super) struct Key {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) kind: KeyKind,
    pkcs8: Zeroizing<Vec<u8>>,
    /// As it stands in a certificate, without what kind it is.
    pub(super) public: Vec<u8>,
}

impl Key {
    /// A new one of the kind that is asked for.
    pub(super) fn generate(body: &Body) -> Result<Self, Fault> {
        let bits = fields::number(body, "key_bits")?.unwrap_or(0);
        let kind = KeyKind::parse(fields::text(body, "key_type").unwrap_or("rsa"), bits)?;
        let pair = kind.generate().map_err(|_| super::issue::failed())?;
        let name = fields::text(body, "key_name").unwrap_or_default().to_owned();
        let (pkcs8, public) = (Zeroizing::new(pair.serialize_der()), pair.der_bytes().to_vec());
        Ok(Self { id: random_uuid(), name, kind, pkcs8, public })
    }

    pub(super) fn pair(&self) -> Result<KeyPair, Fault> {
        let pkcs8 = PrivatePkcs8KeyDer::from(self.pkcs8.as_slice());
        KeyPair::try_from(&pkcs8).map_err(|_| super::issue::failed())
    }

    fn identifier(&self) -> String {
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.public);
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    }
}

impl Keys {
    /// Takes one in; the first becomes the default.
    pub(super) fn add(&mut self, key: Key) -> Result<&Key, Fault> {
        if !key.name.is_empty() && self.find(&key.name).is_some() {
            return Err(Fault::new(400, "key name already in use"));
        }
        self.default.get_or_insert_with(|| key.id.clone());
        self.all.push(key);
        self.all.last().ok_or_else(super::issue::failed)
    }

    /// By its id, its name, or as the default one.
    pub(super) fn find(&self, name: &str) -> Option<&Key> {
        match name {
            "default" => self.all.iter().find(|key| Some(&key.id) == self.default.as_ref()),
            _ => self.all.iter().find(|key| key.id == name || key.name == name),
        }
    }

    pub(super) fn of(&self, public: &[u8]) -> Option<&Key> {
        self.all.iter().find(|key| key.public == public)
    }

    /// Whether it was the default one.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        self.all.retain(|key| key.id != id);
        self.default.take_if(|default| default == id).is_some()
    }

    pub(super) fn list(&self) -> Result<Outcome, Fault> {
        if self.all.is_empty() {
            return Err(Fault::no_value());
        }
        let fact = |key: &Key| {
            let is_default = Some(&key.id) == self.default.as_ref();
            (key.id.clone(), json!({ "is_default": is_default, "key_name": key.name }))
        };
        let info: Map<_, _> = self.all.iter().map(fact).collect();
        Ok(told(json!({ "key_info": info, "keys": info.keys().collect::<Vec<_>>() })))
    }

    pub(super) fn read(&self, name: &str) -> Result<Outcome, Fault> {
        let missing = || match name {
            "default" => Fault::listed(500, "no default key currently configured"),
            _ => Fault::listed(500, &format!("unable to find PKI key for reference: {name}")),
        };
        let key = self.find(name).ok_or_else(missing)?;
        Ok(told(json!({
            "key_id": key.id,
            "key_name": key.name,
            "key_type": key.kind.name(),
            "subject_key_id": key.identifier(),
        })))
    }

    pub(super) fn shown_default(&self) -> Value {
        json!({ "default": self.default.as_deref().unwrap_or_default() })
    }
}
