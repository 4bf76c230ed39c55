//! KV version 2: every write is a version, deleting hides one, and destroying is for ever.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::clock;
use super::reply::Fault;

/// As many versions as Vault keeps by default.
const VERSIONS_MAX: u64 = 10;

/// One mount.
#[derive(Default)]
pub(super) struct Kv(BTreeMap<String, Secret>);

struct Secret {
    created: SystemTime,
    current: u64,
    versions: BTreeMap<u64, Version>,
}

struct Version {
    created: SystemTime,
    deleted: Option<SystemTime>,
    /// None: destroyed.
    fields: Option<Map<String, Value>>,
}

impl Kv {
    /// The fields of a version, the current one for `None` and 0, with its metadata.
    pub(super) fn read(&self, path: &str, version: Option<u64>) -> Result<Value, Fault> {
        let secret = self.0.get(path).ok_or_else(Fault::no_value)?;
        let number = version.filter(|number| *number != 0).unwrap_or(secret.current);
        let version = secret.versions.get(&number).ok_or_else(Fault::no_value)?;
        let metadata = version.metadata(number);
        match &version.fields {
            Some(fields) if version.deleted.is_none() => {
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
        let current = self.0.get(path).map_or(0, |secret| secret.current);
        if cas.is_some_and(|expected| expected != current) {
            return Err(Fault::new(
                400,
                "check-and-set parameter did not match the current version",
            ));
        }
        let secret = self.0.entry(path.to_owned()).or_insert_with(|| Secret::new(now));
        let version = Version { created: now, deleted: None, fields: Some(fields) };
        let metadata = version.metadata(current + 1);
        secret.current = current + 1;
        secret.versions.insert(secret.current, version);
        secret.versions.retain(|number, _| number + VERSIONS_MAX > current + 1);
        Ok(metadata)
    }

    /// Hides versions; an empty list means the current one.
    pub(super) fn delete(&mut self, path: &str, versions: &[u64], now: SystemTime) {
        self.each(path, versions, |version| version.deleted = version.deleted.or(Some(now)));
    }

    pub(super) fn undelete(&mut self, path: &str, versions: &[u64]) {
        self.each(path, versions, |version| version.deleted = None);
    }

    pub(super) fn destroy(&mut self, path: &str, versions: &[u64]) {
        self.each(path, versions, |version| version.fields = None);
    }

    /// Forgets the secret and all its versions.
    pub(super) fn forget(&mut self, path: &str) {
        self.0.remove(path);
    }

    pub(super) fn metadata(&self, path: &str) -> Result<Value, Fault> {
        let secret = self.0.get(path).ok_or_else(Fault::no_value)?;
        let version = |(number, version): (&u64, &Version)| {
            let Value::Object(mut all) = version.metadata(*number) else {
                return (number.to_string(), Value::Null);
            };
            all.retain(|key, _| {
                ["created_time", "deletion_time", "destroyed"].contains(&key.as_str())
            });
            (number.to_string(), Value::Object(all))
        };
        let versions: Map<_, _> = secret.versions.iter().map(version).collect();
        let updated =
            secret.versions.values().last().map_or(secret.created, |version| version.created);
        Ok(json!({
            "cas_required": false,
            "created_time": clock::rfc3339(secret.created),
            "current_version": secret.current,
            "custom_metadata": null,
            "delete_version_after": "0s",
            "max_versions": 0,
            "oldest_version": secret.versions.keys().next().copied().unwrap_or_default(),
            "updated_time": clock::rfc3339(updated),
            "versions": versions,
        }))
    }

    /// The names directly below a folder; a folder's own name ends in `/`.
    pub(super) fn list(&self, folder: &str) -> Result<Value, Fault> {
        let folder = if folder.is_empty() || folder.ends_with('/') {
            folder.to_owned()
        } else {
            format!("{folder}/")
        };
        let below = self.0.keys().filter_map(|path| path.strip_prefix(&folder));
        let mut keys: Vec<_> =
            below.map(|rest| rest.split_inclusive('/').next().unwrap_or(rest)).collect();
        keys.dedup();
        if keys.is_empty() { Err(Fault::no_value()) } else { Ok(json!({ "keys": keys })) }
    }

    pub(super) fn holds(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    fn each(&mut self, path: &str, versions: &[u64], mut change: impl FnMut(&mut Version)) {
        let Some(secret) = self.0.get_mut(path) else { return };
        let current = [secret.current];
        let versions = if versions.is_empty() { current.as_slice() } else { versions };
        for number in versions {
            if let Some(version) = secret.versions.get_mut(number) {
                change(version);
            }
        }
    }
}

impl Secret {
    fn new(now: SystemTime) -> Self {
        Self { created: now, current: 0, versions: BTreeMap::new() }
    }
}

impl Version {
    fn metadata(&self, number: u64) -> Value {
        json!({
            "created_time": clock::rfc3339(self.created),
            "custom_metadata": null,
            "deletion_time": self.deleted.map(clock::rfc3339).unwrap_or_default(),
            "destroyed": self.fields.is_none(),
            "version": number,
        })
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
        let key = |version| kv.read("app/one", version).unwrap()["data"]["key"].clone();
        assert_eq!([key(None), key(Some(0)), key(Some(2))], ["3", "3", "2"]);
        assert_eq!(kv.read("app/one", Some(9)).unwrap_err().status, 404);
        assert_eq!(kv.read("app", None).unwrap_err().status, 404);
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
        let fault = kv.read("app/one", None).unwrap_err();
        let data = fault.data.unwrap();
        assert_eq!(
            (fault.status, &data["data"], &data["metadata"]["version"]),
            (404, &Value::Null, &json!(1))
        );
        kv.undelete("app/one", &[1]);
        assert!(kv.read("app/one", None).is_ok());
        kv.destroy("app/one", &[1]);
        kv.undelete("app/one", &[1]);
        assert_eq!(
            kv.read("app/one", None).unwrap_err().data.unwrap()["metadata"]["destroyed"],
            true
        );
    }

    #[test]
    fn old_versions_fall_off() {
        let kv = written(12);
        assert!(kv.read("app/one", Some(2)).is_err() && kv.read("app/one", Some(3)).is_ok());
        assert_eq!(kv.metadata("app/one").unwrap()["oldest_version"], 3);
    }

    #[test]
    fn a_list_shows_one_level() {
        let mut kv = written(1);
        for path in ["app/two/deep", "app/two/deeper", "other"] {
            kv.write(path, fields("x"), None, UNIX_EPOCH).unwrap();
        }
        assert_eq!(kv.list("").unwrap()["keys"], json!(["app/", "other"]));
        assert_eq!(kv.list("app").unwrap()["keys"], json!(["one", "two/"]));
        assert_eq!(kv.list("nothing").unwrap_err().status, 404);
    }
}
