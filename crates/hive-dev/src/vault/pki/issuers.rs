//! Which authorities a mount has, which of them is the default, and who stands above whom.

use serde_json::{Map, Value, json};

use super::authority::Authority;
use super::{Body, Fault, Outcome, Pki, told};
use crate::vault::fields;

const NO_DEFAULT: &str = "no default issuer currently configured";

impl Pki {
    pub(super) fn list_authorities(&self) -> Result<Outcome, Fault> {
        if self.authorities.is_empty() {
            return Err(Fault::no_value());
        }
        let mut own: Vec<_> = self.authorities.iter().collect();
        own.sort_by_key(|authority| authority.id.as_str());
        let is_default = |own: &Authority| self.default.as_ref() == Some(&own.id);
        let info = own.iter().map(|own| (own.id.clone(), own.summary(is_default(own))));
        let info: Map<_, _> = info.collect();
        Ok(told(json!({ "key_info": info, "keys": info.keys().collect::<Vec<_>>() })))
    }

    pub(super) fn default_or_none(&self) -> Option<&Authority> {
        let default = self.default.as_ref()?;
        self.authorities.iter().find(|own| own.id == *default)
    }

    pub(super) fn default_authority(&self) -> Result<&Authority, Fault> {
        self.default_or_none().ok_or_else(|| Fault::new(400, NO_DEFAULT))
    }

    /// By its id, its name, or as the default one. Where there is none, why, in the real server's words.
    fn authority(&self, name: &str) -> Result<&Authority, String> {
        if name == "default" {
            return self.default_or_none().ok_or_else(|| NO_DEFAULT.to_owned());
        }
        let found = self.authorities.iter().find(|own| own.id == name || own.name == name);
        found.ok_or_else(|| format!("unable to find PKI issuer for reference: {name}"))
    }

    /// As it is looked up by its own path.
    pub(super) fn known_authority(&self, name: &str) -> Result<&Authority, Fault> {
        self.authority(name).map_err(|why| Fault::listed(500, &why))
    }

    /// One that can sign, for its key is here.
    pub(super) fn signer(&self, name: &str) -> Result<&Authority, Fault> {
        let with_key = |own: &Authority| match own.signs() {
            true => Ok(()),
            false => Err(format!(
                "unable to fetch corresponding key for issuer {}; unable to use this issuer for signing",
                own.id
            )),
        };
        let found = self.authority(name).and_then(|own| with_key(own).map(|()| own));
        found.map_err(|why| {
            let text = format!("could not fetch the CA certificate (was one set?): {why}");
            Fault::listed(500, &text)
        })
    }

    /// Itself, who has signed it, who has signed that one, as far as they are known here.
    pub(super) fn chain<'a>(&'a self, authority: &'a Authority) -> Vec<&'a Authority> {
        let mut chain = vec![authority];
        while let Some(last) = chain.last().filter(|last| !last.is_root()) {
            let above = self.authorities.iter().find(|own| last.is_signed_by(own));
            match above.filter(|above| chain.iter().all(|own| own.id != above.id)) {
                Some(above) => chain.push(above),
                None => break,
            }
        }
        chain
    }

    /// Takes one in. The first whose key is here becomes the default.
    pub(super) fn add_authority(&mut self, authority: Authority) {
        let has_default = self.default_or_none().is_some();
        if authority.signs() && !has_default {
            self.default = Some(authority.id.clone());
        }
        self.authorities.push(authority);
    }

    /// One that is not there is no mistake.
    pub(super) fn delete_authority(&mut self, name: &str) -> Outcome {
        let Ok(authority) = self.authority(name) else {
            return told(Value::Null);
        };
        let (id, own_name) = (authority.id.clone(), authority.name.clone());
        let was_default = self.default.as_ref() == Some(&id);
        let mut warnings = Vec::new();
        if was_default {
            self.default = None;
            warnings.push(format!(
                "Deleted issuer {id} (via issuer_ref {name}); this was configured as the default issuer. Operations without an explicit issuer will not work until a new default is configured."
            ));
        }
        let default = if was_default { "default" } else { "" };
        for reference in [id.as_str(), &own_name, default] {
            let of_it = self.roles.values().filter(|role| role.text("issuer_ref") == reference);
            let count = of_it.count();
            if count > 0 && !reference.is_empty() {
                warnings.push(format!("{count} roles reference {reference}"));
            }
        }
        self.authorities.retain(|own| own.id != id);
        Outcome::Told { data: Value::Null, warnings }
    }

    pub(super) fn shown_default(&self) -> Value {
        let default = self.default.as_deref().unwrap_or_default();
        json!({ "default": default, "default_follows_latest_issuer": false })
    }

    pub(super) fn set_default_authority(&mut self, body: &Body) -> Result<Outcome, Fault> {
        let name = fields::text(body, "default").unwrap_or_default();
        if ["", "default"].contains(&name) {
            let text = "Invalid issuer specification; must be non-empty and can't be 'default'.";
            return Err(Fault::new(400, text));
        }
        let found = self.authority(name).map(|own| own.id.clone());
        let unresolved = |why| Fault::new(400, format!("Error resolving issuer reference: {why}"));
        self.default = Some(found.map_err(unresolved)?);
        Ok(told(self.shown_default()))
    }

    pub(super) fn delete_key(&mut self, name: &str) -> Result<Outcome, Fault> {
        let Some(key) = self.keys.find(name) else {
            return Ok(Outcome::Reply(super::Reply::Empty));
        };
        if let Some(user) = self.authorities.iter().find(|own| own.key_id == key.id) {
            let text = format!("Failed to Delete Key.  Key in Use by Issuer: {}", user.id);
            return Err(Fault::new(400, text));
        }
        let id = key.id.clone();
        let warnings = self.keys.remove(&id).then(|| {
            format!(
                "Deleted key {id} (via key_ref {name}); this was configured as the default key. Operations without an explicit key will not work until a new default is configured."
            )
        });
        Ok(Outcome::Told { data: Value::Null, warnings: warnings.into_iter().collect() })
    }
}
