//! KV version 2: every write is a version, deleting hides one, and destroying is for ever.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::clock;
use super::kv_one::level;
use super::reply::Fault;

/// As many versions as the real server keeps by default.
const VERSIONS_MAX: u64 = 10;

/// One mount.
#[derive(Default)]
pub(super) struct Kv {
    secrets: BTreeMap<String, Secret>,
    pub(super) config: Limits,
}

/// What a mount sets, and a secret for itself.
#[derive(Clone, Default)]
pub(super) struct Limits {
    /// Zero: not set.
    pub(super) max_versions: u64,
    pub(super) cas_required: bool,
    /// Zero: never.
    pub(super) delete_after: Duration,
}

struct Secret {
    created: SystemTime,
    updated: SystemTime,
    current: u64,
    /// Zero until one has fallen off.
    oldest: u64,
    versions: BTreeMap<u64, Version>,
    limits: Limits,
    custom: BTreeMap<String, String>,
    /// How often its metadata was written.
    described: u64,
}

struct Version {
    created: SystemTime,
    /// Perhaps in the future.
    deleted: Option<SystemTime>,
    /// None: destroyed.
    fields: Option<Map<String, Value>>,
}

/// What is written about a secret; None leaves it as it is.
#[derive(Default)]
pub(super) struct Description {
    pub(super) max_versions: Option<u64>,
    pub(super) cas_required: Option<bool>,
    pub(super) delete_after: Option<Duration>,
    /// None beside a name takes it away.
    pub(super) custom: Option<BTreeMap<String, Option<String>>>,
}

impl Kv {
    /// The fields of a version, the current one for `None` and 0, with its metadata.
    pub(super) fn read(
        &self,
        path: &str,
        version: Option<u64>,
        now: SystemTime,
    ) -> Result<Value, Fault> {
        let secret = self.secrets.get(path).ok_or_else(Fault::no_value)?;
        let number = version.filter(|number| *number != 0).unwrap_or(secret.current);
        let version = secret.versions.get(&number).ok_or_else(Fault::no_value)?;
        let metadata = version.metadata(number, secret);
        match &version.fields {
            Some(fields) if !version.is_deleted(now) => {
                Ok(json!({ "data": fields, "metadata": metadata }))
            }
            _ => Err(Fault {
                data: Some(json!({ "data": null, "metadata": metadata })),
                ..Fault::no_value()
            }),
        }
    }

    /// Adds a version. `cas` demands that the current one has this number, 0 that there is none.
    pub(super) fn write(
        &mut self,
        path: &str,
        fields: Map<String, Value>,
        cas: Option<u64>,
        now: SystemTime,
    ) -> Result<Value, Fault> {
        self.check(path, cas)?;
        let config = self.config.clone();
        let secret = self.secrets.entry(path.to_owned()).or_insert_with(|| Secret::new(now));
        let delete_after = first_set(secret.limits.delete_after, config.delete_after);
        let deleted = (!delete_after.is_zero()).then(|| now + delete_after);
        secret.current += 1;
        secret.updated = now;
        let version = Version { created: now, deleted, fields: Some(fields) };
        secret.versions.insert(secret.current, version);
        secret.trim(&config);
        Ok(secret.versions[&secret.current].metadata(secret.current, secret))
    }

    /// Merges fields into the current version; null takes one away.
    pub(super) fn patch(
        &mut self,
        path: &str,
        change: &Map<String, Value>,
        cas: Option<u64>,
        now: SystemTime,
    ) -> Result<Value, Fault> {
        let none = || Fault { silent: true, ..Fault::no_value() };
        let current = self.read(path, None, now).map_err(|fault| match fault.data {
            Some(data) => Fault { data: Some(data["metadata"].clone()), ..Fault::no_value() },
            None => none(),
        })?;
        self.check(path, cas)?;
        let mut fields = current["data"].clone();
        merge(&mut fields, &Value::Object(change.clone()));
        self.write(path, super::tokens::object(fields), cas, now)
    }

    fn check(&self, path: &str, cas: Option<u64>) -> Result<(), Fault> {
        let secret = self.secrets.get(path);
        let required =
            self.config.cas_required || secret.is_some_and(|secret| secret.limits.cas_required);
        let current = secret.map_or(0, |secret| secret.current);
        match cas {
            None if required => {
                Err(Fault::new(400, "check-and-set parameter required for this call"))
            }
            Some(expected) if expected != current => {
                Err(Fault::new(400, "check-and-set parameter did not match the current version"))
            }
            _ => Ok(()),
        }
    }

    /// Hides versions; an empty list means the current one.
    pub(super) fn delete(&mut self, path: &str, versions: &[u64], now: SystemTime) {
        self.each(path, versions, |version| {
            if !version.is_deleted(now) && version.fields.is_some() {
                version.deleted = Some(now);
            }
        });
    }

    pub(super) fn undelete(&mut self, path: &str, versions: &[u64]) {
        self.each(path, versions, |version| {
            if version.fields.is_some() {
                version.deleted = None;
            }
        });
    }

    pub(super) fn destroy(&mut self, path: &str, versions: &[u64]) {
        self.each(path, versions, |version| version.fields = None);
    }

    /// Forgets the secret and all its versions.
    pub(super) fn forget(&mut self, path: &str) {
        self.secrets.remove(path);
    }

    /// Writes the metadata of a secret, which may have no version yet.
    pub(super) fn describe(&mut self, path: &str, given: Description, now: SystemTime) {
        let secret = self.secrets.entry(path.to_owned()).or_insert_with(|| Secret::new(now));
        let limits = &mut secret.limits;
        limits.max_versions = given.max_versions.unwrap_or(limits.max_versions);
        limits.cas_required = given.cas_required.unwrap_or(limits.cas_required);
        limits.delete_after = given.delete_after.unwrap_or(limits.delete_after);
        for (name, value) in given.custom.into_iter().flatten() {
            match value {
                Some(value) => drop(secret.custom.insert(name, value)),
                None => drop(secret.custom.remove(&name)),
            }
        }
        secret.described += 1;
        secret.updated = now;
    }

    /// Takes the custom metadata away, for a write replaces it.
    pub(super) fn forget_custom(&mut self, path: &str) {
        if let Some(secret) = self.secrets.get_mut(path) {
            secret.custom.clear();
        }
    }

    pub(super) fn metadata(&self, path: &str) -> Result<Value, Fault> {
        let secret = self.secrets.get(path).ok_or_else(Fault::no_value)?;
        let versions = secret
            .versions
            .iter()
            .map(|(number, version)| (number.to_string(), Value::Object(version.times())));
        let versions: Map<_, _> = versions.collect();
        Ok(json!({
            "cas_required": secret.limits.cas_required,
            "created_time": clock::rfc3339(secret.created),
            "current_metadata_version": secret.described,
            "current_version": secret.current,
            "custom_metadata": secret.shown_custom(),
            "delete_version_after": clock::go_duration(secret.limits.delete_after),
            "max_versions": secret.limits.max_versions,
            "metadata_cas_required": false,
            "oldest_version": secret.oldest,
            "updated_time": clock::rfc3339(secret.updated),
            "versions": versions,
        }))
    }

    /// The names of the fields, without what is in them.
    pub(super) fn subkeys(
        &self,
        path: &str,
        version: Option<u64>,
        now: SystemTime,
    ) -> Result<Value, Fault> {
        let read = self.read(path, version, now)?;
        Ok(json!({ "metadata": read["metadata"], "subkeys": hollow(&read["data"]) }))
    }

    /// The names directly below a folder; a folder's own name ends in `/`.
    pub(super) fn list(&self, folder: &str) -> Vec<String> {
        level(self.secrets.keys(), folder)
    }

    /// All names below a folder.
    pub(super) fn scan(&self, folder: &str) -> Vec<String> {
        let below = self.secrets.keys().filter_map(|path| path.strip_prefix(folder));
        below.map(str::to_owned).collect()
    }

    pub(super) fn holds(&self, path: &str) -> bool {
        self.secrets.contains_key(path)
    }

    fn each(&mut self, path: &str, versions: &[u64], mut change: impl FnMut(&mut Version)) {
        let Some(secret) = self.secrets.get_mut(path) else { return };
        let current = [secret.current];
        let versions = if versions.is_empty() { current.as_slice() } else { versions };
        for number in versions {
            if let Some(version) = secret.versions.get_mut(number) {
                change(version);
            }
        }
    }
}

fn first_set(own: Duration, other: Duration) -> Duration {
    if own.is_zero() { other } else { own }
}

/// A merge patch, RFC 7396.
fn merge(target: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        target.clone_from(change);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(members) = target else { return };
    for (name, value) in change {
        if value.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn hollow(value: &Value) -> Value {
    match value {
        Value::Object(members) if !members.is_empty() => {
            members.iter().map(|(name, value)| (name.clone(), hollow(value))).collect()
        }
        _ => Value::Null,
    }
}

impl Secret {
    fn new(now: SystemTime) -> Self {
        Self {
            created: now,
            updated: now,
            current: 0,
            oldest: 0,
            versions: BTreeMap::new(),
            limits: Limits::default(),
            custom: BTreeMap::new(),
            described: 0,
        }
    }

    /// Lets go of what is beyond the number of versions to keep.
    fn trim(&mut self, config: &Limits) {
        let kept = [self.limits.max_versions, config.max_versions, VERSIONS_MAX];
        let kept = kept.into_iter().find(|kept| *kept > 0).unwrap_or(VERSIONS_MAX);
        let current = self.current;
        if current > kept {
            self.versions.retain(|number, _| number + kept > current);
            self.oldest = current - kept + 1;
        }
    }

    fn shown_custom(&self) -> Value {
        if self.custom.is_empty() { Value::Null } else { json!(self.custom) }
    }
}

impl Version {
    fn is_deleted(&self, now: SystemTime) -> bool {
        self.deleted.is_some_and(|deleted| deleted <= now)
    }

    fn times(&self) -> Map<String, Value> {
        super::tokens::object(json!({
            "created_time": clock::rfc3339(self.created),
            "deletion_time": self.deleted.map(clock::rfc3339).unwrap_or_default(),
            "destroyed": self.fields.is_none(),
        }))
    }

    fn metadata(&self, number: u64, secret: &Secret) -> Value {
        let mut facts = self.times();
        facts.insert("custom_metadata".to_owned(), secret.shown_custom());
        facts.insert("version".to_owned(), json!(number));
        Value::Object(facts)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn fields(text: &str) -> Map<String, Value> {
        Map::from_iter([("key".to_owned(), json!(text))])
    }

    fn written(times: u64) -> Kv {
        let mut kv = Kv::default();
        for number in 1..=times {
            kv.write("app/one", fields(&number.to_string()), None, UNIX_EPOCH).unwrap();
        }
        kv
    }

    #[test]
    fn a_read_gives_the_current_version_or_the_one_asked_for() {
        let kv = written(3);
        let key = |version| kv.read("app/one", version, UNIX_EPOCH).unwrap()["data"]["key"].clone();
        assert_eq!([key(None), key(Some(0)), key(Some(2))], ["3", "3", "2"]);
        assert_eq!(kv.read("app/one", Some(9), UNIX_EPOCH).unwrap_err().status, 404);
        assert_eq!(kv.read("app", None, UNIX_EPOCH).unwrap_err().status, 404);
    }

    #[test]
    fn check_and_set_refuses_a_stale_writer() {
        let mut kv = written(2);
        assert_eq!(kv.write("app/one", fields("x"), Some(1), UNIX_EPOCH).unwrap_err().status, 400);
        assert_eq!(kv.write("app/one", fields("x"), Some(2), UNIX_EPOCH).unwrap()["version"], 3);
        assert!(kv.write("new", fields("x"), Some(0), UNIX_EPOCH).is_ok());
        assert!(kv.write("new", fields("x"), Some(0), UNIX_EPOCH).is_err());
    }

    #[test]
    fn a_deleted_version_answers_404_with_its_metadata_and_can_come_back() {
        let mut kv = written(1);
        kv.delete("app/one", &[], UNIX_EPOCH);
        let fault = kv.read("app/one", None, UNIX_EPOCH).unwrap_err();
        let data = fault.data.unwrap();
        assert_eq!(
            (fault.status, &data["data"], &data["metadata"]["version"]),
            (404, &Value::Null, &json!(1))
        );
        kv.undelete("app/one", &[1]);
        assert!(kv.read("app/one", None, UNIX_EPOCH).is_ok());
        kv.destroy("app/one", &[1]);
        kv.undelete("app/one", &[1]);
        assert_eq!(
            kv.read("app/one", None, UNIX_EPOCH).unwrap_err().data.unwrap()["metadata"]["destroyed"],
            true
        );
    }

    #[test]
    fn old_versions_fall_off() {
        let kv = written(12);
        assert!(
            kv.read("app/one", Some(2), UNIX_EPOCH).is_err()
                && kv.read("app/one", Some(3), UNIX_EPOCH).is_ok()
        );
        assert_eq!(kv.metadata("app/one").unwrap()["oldest_version"], 3);
    }

    #[test]
    fn a_list_shows_one_level() {
        let mut kv = written(1);
        for path in ["app/two/deep", "app/two/deeper", "other"] {
            kv.write(path, fields("x"), None, UNIX_EPOCH).unwrap();
        }
        assert_eq!(kv.list(""), ["app/", "other"]);
        assert_eq!(kv.list("app"), ["one", "two/"]);
        assert!(kv.list("nothing").is_empty());
        assert_eq!(kv.scan("app/"), ["one", "two/deep", "two/deeper"]);
    }

    #[test]
    fn a_patch_merges_and_null_takes_away() {
        let mut kv = written(1);
        let change = super::super::tokens::object(json!({ "key": null, "new": { "deep": 1 } }));
        kv.patch("app/one", &change, Some(1), UNIX_EPOCH).unwrap();
        let read = kv.read("app/one", None, UNIX_EPOCH).unwrap();
        assert_eq!(read["data"], json!({ "new": { "deep": 1 } }));
        assert!(kv.patch("nothing", &change, None, UNIX_EPOCH).unwrap_err().silent);
        let subkeys = kv.subkeys("app/one", None, UNIX_EPOCH).unwrap();
        assert_eq!(subkeys["subkeys"], json!({ "new": { "deep": null } }));
    }

    #[test]
    fn versions_delete_themselves_and_fewer_are_kept_where_that_is_set() {
        let mut kv = written(4);
        let given = Description {
            max_versions: Some(2),
            delete_after: Some(Duration::from_secs(60)),
            ..Description::default()
        };
        kv.describe("app/one", given, UNIX_EPOCH);
        kv.write("app/one", fields("x"), None, UNIX_EPOCH).unwrap();
        assert_eq!(kv.metadata("app/one").unwrap()["oldest_version"], 4);
        let read = |at| kv.read("app/one", None, UNIX_EPOCH + Duration::from_secs(at));
        assert!(read(59).is_ok() && read(60).is_err());
    }
}
