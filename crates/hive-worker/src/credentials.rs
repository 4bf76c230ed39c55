//! A ticket's credentials, as files: `$HIVE_CREDENTIALS/<name>`, one JSON object each.
//!
//! They live in memory (a tmpfs) where there is one, belong to the worker's user alone, and are removed when the
//! ticket ends, whatever happened. A worker that was killed cleans up behind itself when it starts again.

use aws_lc_rs::digest::{SHA256, digest};
use hive_security::SecretJson;
pub use hive_security::adapters::files::Error;
use hive_security::adapters::files::{in_memory, is_file_name, make_private, write_private};
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Where this worker keeps the credentials of its tickets.
#[derive(Clone, Debug)]
pub struct Safe {
    directory: PathBuf,
}

impl Safe {
    /// Opens the safe of the worker whose data are in `data_dir`, and empties it.
    ///
    /// It is in `/dev/shm`, else in `runtime_dir`, else below `data_dir`: the first that can be written.
    pub fn open(data_dir: &Path, runtime_dir: Option<&Path>) -> Result<Self, Error> {
        let owner = digest(&SHA256, data_dir.as_os_str().as_encoded_bytes());
        let name = format!("neural-hive-{}", &crate::hex::encode(owner.as_ref())[..16]);
        let directory = in_memory(runtime_dir, data_dir).join(name);
        clear(&directory)?;
        make_private(&directory)?;
        Ok(Self { directory })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes the credentials of one ticket.
    pub fn put<'a>(
        &self,
        ticket: &str,
        issued: impl IntoIterator<Item = (&'a str, &'a SecretJson)>,
        skipped: BTreeMap<String, String>,
    ) -> Result<Credentials, Error> {
        let directory = self.directory.join(ticket);
        make_private(&directory)?;
        // From here on, dropping removes what was written, also when the next file fails.
        let credentials = Credentials { directory: Some(directory.clone()), skipped };
        for (name, data) in issued {
            write(&directory, name, data)?;
        }
        Ok(credentials)
    }

    /// Removes the safe itself, when the worker ends.
    pub fn remove(self) {
        if let Err(error) = clear(&self.directory) {
            tracing::error!(%error, "the directory of credentials is left behind");
        }
    }
}

/// The credentials of one ticket. Dropping them removes the files.
#[derive(Debug, Default)]
pub struct Credentials {
    directory: Option<PathBuf>,
    skipped: BTreeMap<String, String>,
}

impl Credentials {
    /// For tickets that ask for none.
    pub fn none() -> Self {
        Self::default()
    }

    /// The value of `$HIVE_CREDENTIALS`.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Why an optional credential is not there, if that is so.
    pub fn skipped(&self, name: &str) -> Option<&str> {
        self.skipped.get(name).map(String::as_str)
    }

    /// One text field of one credential.
    pub fn field(&self, name: &str, field: &str) -> Option<SecretString> {
        if !is_file_name(name) {
            return None;
        }
        let file = std::fs::File::open(self.directory.as_ref()?.join(name)).ok()?;
        let data: SecretJson = serde_json::from_reader(file).ok()?;
        data.text(field)
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        let Some(directory) = self.directory.take() else { return };
        if let Err(error) = clear(&directory) {
            tracing::error!(%error, "credential files are left behind");
        }
    }
}

fn clear(directory: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(directory)(error)),
        _ => Ok(()),
    }
}

fn write(directory: &Path, name: &str, data: &SecretJson) -> Result<(), Error> {
    if !is_file_name(name) {
        return Err(Error::Name(name.to_owned()));
    }
    write_private(&directory.join(name), data.expose_text())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn credentials_are_files_for_their_owner_alone_and_go_when_dropped() {
        let data_dir = tempfile::tempdir().expect("a temporary directory");
        let safe = Safe::open(data_dir.path(), None).expect("opened");
        let key = SecretJson::new(json!({ "key": "a secret" }));
        let credentials =
            safe.put("t1", [("signing-key", &key)], BTreeMap::new()).expect("written");
        let directory = credentials.directory().expect("it has one").to_owned();
        assert_eq!((mode(safe.directory()), mode(&directory)), (0o700, 0o700));
        assert_eq!(mode(&directory.join("signing-key")), 0o600);
        let field = credentials.field("signing-key", "key").expect("it has the field");
        assert_eq!(field.expose_secret(), "a secret");
        assert!(credentials.field("signing-key", "other").is_none());
        drop(credentials);
        assert!(!directory.exists());
        let place = safe.directory().to_owned();
        safe.remove();
        assert!(!place.exists());
    }

    #[test]
    fn what_a_killed_worker_left_is_gone_when_it_starts_again() {
        let data_dir = tempfile::tempdir().expect("a temporary directory");
        let safe = Safe::open(data_dir.path(), None).expect("opened");
        let credentials = safe.put("t1", [], BTreeMap::new()).expect("written");
        let directory = credentials.directory().expect("it has one").to_owned();
        std::mem::forget(credentials);
        let safe = Safe::open(data_dir.path(), None).expect("opened again");
        assert!(!directory.exists());
        safe.remove();
    }

    #[test]
    fn two_workers_never_share_a_safe() {
        let (one, two) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
        let one = Safe::open(one.path(), None).expect("opened");
        let two = Safe::open(two.path(), None).expect("opened");
        assert_ne!(one.directory(), two.directory());
        one.remove();
        two.remove();
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_directory() {
        let data_dir = tempfile::tempdir().expect("a temporary directory");
        let safe = Safe::open(data_dir.path(), None).expect("opened");
        let key = SecretJson::new(json!({}));
        for name in ["", "..", "../x", "/etc/x", "a/b", ".hidden"] {
            let refused = safe.put("t2", [(name, &key)], BTreeMap::new());
            assert!(matches!(refused, Err(Error::Name(_))), "{name:?}");
        }
        safe.remove();
    }
}
