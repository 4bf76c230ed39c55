//! The path of a call. Names are data: none of them can lead anywhere else.

use reqwest::Url;

use super::error::VaultError;

/// Far more than any name in Vault; a server's own limit for the whole line is 1 MiB at most.
const SEGMENT_MAX_BYTES: usize = 512;
const SEGMENTS_MAX: usize = 64;

/// A path below `/v1/`, segment by segment, not encoded.
#[derive(Clone)]
pub(super) struct Route {
    segments: Vec<String>,
    query: Option<String>,
}

impl Route {
    /// A path that this crate wrote.
    pub(super) fn fixed(path: &'static str) -> Self {
        Self { segments: path.split('/').map(str::to_owned).collect(), query: None }
    }

    /// A path that somebody wrote down as such. What would have to be encoded is refused, for it is a mistake.
    pub(super) fn plain(path: &str) -> Result<Self, VaultError> {
        if path.contains(['?', '#', '%']) {
            return Err(refused("a path with a query, a fragment or encoded characters"));
        }
        Self { segments: Vec::new(), query: None }.below(path)
    }

    /// Where something is mounted; mounts may be nested.
    pub(super) fn mount(mount: &str) -> Result<Self, VaultError> {
        Self { segments: Vec::new(), query: None }.below(mount)
    }

    /// Further segments that this crate wrote.
    pub(super) fn then(mut self, path: &'static str) -> Self {
        self.segments.extend(path.split('/').map(str::to_owned));
        self
    }

    /// One name, such as a role's: a slash in it is refused, for a server takes even an encoded one for a separator.
    pub(super) fn name(mut self, name: &str) -> Result<Self, VaultError> {
        if name.contains('/') {
            return Err(refused("a name with a slash"));
        }
        self.push(name)?;
        Ok(self)
    }

    /// A path of several names.
    pub(super) fn below(mut self, path: &str) -> Result<Self, VaultError> {
        for name in path.split('/') {
            self.push(name)?;
        }
        Ok(self)
    }

    pub(super) fn query(mut self, query: impl Into<String>) -> Self {
        self.query = Some(query.into());
        self
    }

    fn push(&mut self, segment: &str) -> Result<(), VaultError> {
        if segment.is_empty() || segment == "." || segment == ".." {
            return Err(refused("an empty or relative name"));
        }
        // A URL's parser drops tabs and line breaks, and a backslash is a slash to it.
        if segment.contains(|c: char| c.is_control() || c == '\\') {
            return Err(refused("a name with a backslash or a control character"));
        }
        if segment.len() > SEGMENT_MAX_BYTES || self.segments.len() == SEGMENTS_MAX {
            return Err(refused("a name that is too long"));
        }
        self.segments.push(segment.to_owned());
        Ok(())
    }

    pub(super) fn url(&self, base: &Url) -> Result<Url, VaultError> {
        let mut url = base.clone();
        {
            let mut path =
                url.path_segments_mut().map_err(|()| refused("an address of no server"))?;
            path.clear().push("v1").extend(&self.segments);
        }
        url.set_query(self.query.as_deref());
        Ok(url)
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        self.segments.join("/")
    }
}

fn refused(what: &'static str) -> VaultError {
    VaultError::Name { what }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn base() -> Url {
        Url::parse("http://127.0.0.1:8200").unwrap()
    }

    #[test]
    fn a_path_cannot_leave_the_api() {
        let bad = [
            "../sys",
            "secret//x",
            "secret/./x",
            "a/%2e%2e/b",
            "a#b",
            "a?b",
            "",
            "/sys",
            "a/.\t./b",
            "a/..\\..\\sys",
            "a\nb",
            "a/..",
        ];
        for bad in bad {
            assert!(matches!(Route::plain(bad), Err(VaultError::Name { .. })), "{bad}");
        }
        let url = Route::plain("secret/data/release").unwrap().url(&base()).unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1:8200/v1/secret/data/release");
    }

    #[test]
    fn a_name_is_refused_or_encoded_and_never_another_path() {
        let role = |name: &str| Route::mount("database").unwrap().then("creds").name(name);
        for bad in ["", ".", "..", "a/b", "../sys/seal", "a\0", "a\r\nb", "a\\b", &"a".repeat(513)]
        {
            assert!(matches!(role(bad), Err(VaultError::Name { .. })), "{bad:?}");
        }
        let table = [
            ("a b", "a%20b"),
            ("a?list=true", "a%3Flist=true"),
            ("a#b", "a%23b"),
            ("%2e%2e", "%252e%252e"),
            ("%2fsys", "%252fsys"),
            ("';drop role x;--", "';drop%20role%20x;--"),
            ("$(id)`id`", "$(id)%60id%60"),
            ("ü", "%C3%BC"),
        ];
        for (name, encoded) in table {
            let url = role(name).unwrap().url(&base()).unwrap();
            assert_eq!(url.path(), format!("/v1/database/creds/{encoded}"));
            assert_eq!((url.query(), url.fragment()), (None, None));
        }
    }
}
