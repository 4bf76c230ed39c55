//! Which files there are, and what is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::Error;
use super::place::{is_file_name, make_private, write_private};
use super::template::{Template, Unfilled};
use crate::credentials::Credential;

/// Which files a program gets, and in which form.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    files: BTreeMap<String, Form>,
    pub(super) settle: Option<Duration>,
}

#[derive(Clone, Debug)]
enum Form {
    Fields,
    Json,
    Template(Template),
}

/// Paths below the directory, and what is written there.
#[derive(Default)]
pub(super) struct Rendered(Vec<(String, Zeroizing<String>)>);

impl Layout {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// The file `credential`: one JSON object with all of its fields, as a ticket of a worker gets it.
    pub fn json(self, credential: &str) -> Result<Self, Error> {
        self.with(credential, Form::Json)
    }

    /// The directory `credential` with one file per field, such as `credential/password`, without a line break at the end.
    /// What is no text is written as JSON.
    pub fn fields(self, credential: &str) -> Result<Self, Error> {
        self.with(credential, Form::Fields)
    }

    /// The file `file`, made from a template. It is there once all credentials that it names are.
    pub fn template(self, file: &str, text: &str) -> Result<Self, Error> {
        let template = Template::parse(text)
            .map_err(|mistakes| Error::Template { file: file.to_owned(), mistakes })?;
        self.with(file, Form::Template(template))
    }

    /// How long after it was told the program still uses the generation before: 5 seconds if nothing is said.
    #[must_use]
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settle = Some(settle);
        self
    }

    /// The names of the credentials that are needed for all of it.
    pub fn credentials(&self) -> BTreeSet<&str> {
        let needed = self.files.iter().flat_map(|(name, form)| match form {
            Form::Fields | Form::Json => BTreeSet::from([name.as_str()]),
            Form::Template(template) => template.credentials(),
        });
        needed.collect()
    }

    fn with(mut self, name: &str, form: Form) -> Result<Self, Error> {
        if !is_file_name(name) || self.files.contains_key(name) {
            return Err(Error::Name(name.to_owned()));
        }
        self.files.insert(name.to_owned(), form);
        Ok(self)
    }

    /// What the directory shows.
    pub(super) fn entries(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// All that can be written with what is held; the error says what is wrong with a credential.
    pub(super) fn render(
        &self,
        held: &BTreeMap<String, Credential>,
    ) -> Result<Rendered, &'static str> {
        let mut rendered = Rendered::default();
        for (name, form) in &self.files {
            match form {
                Form::Template(template) => rendered.template(name, template, held)?,
                Form::Json => {
                    if let Some(credential) = held.get(name) {
                        rendered.put(name, credential.data().expose_text());
                    }
                }
                Form::Fields => {
                    if let Some(credential) = held.get(name) {
                        rendered.fields(name, credential)?;
                    }
                }
            }
        }
        Ok(rendered)
    }
}

impl Rendered {
    fn put(&mut self, path: &str, text: &str) {
        self.0.push((path.to_owned(), Zeroizing::new(text.to_owned())));
    }

    fn fields(&mut self, name: &str, credential: &Credential) -> Result<(), &'static str> {
        let data = credential.data();
        for field in data.field_names() {
            if !is_file_name(&field) {
                return Err("the name of one of its fields cannot be that of a file");
            }
            if let Some(value) = data.text_or_json(&field) {
                self.put(&format!("{name}/{field}"), value.expose_secret());
            }
        }
        Ok(())
    }

    fn template(
        &mut self,
        name: &str,
        template: &Template,
        held: &BTreeMap<String, Credential>,
    ) -> Result<(), &'static str> {
        if !template.credentials().iter().all(|needed| held.contains_key(*needed)) {
            return Ok(());
        }
        match template.fill(|credential| held.get(credential)) {
            Ok(text) => self.0.push((name.to_owned(), text)),
            Err(Unfilled::Missing) => return Err("a template needs a field that it does not have"),
            Err(Unfilled::Control) => {
                return Err("a field that a template puts in as it is has a control character");
            }
        }
        Ok(())
    }

    /// Writes all of it into `directory`, which must not exist.
    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        make_private(directory)?;
        for (path, text) in &self.0 {
            let path = directory.join(path);
            match path.parent() {
                Some(parent) if parent != directory && !parent.exists() => make_private(parent)?,
                _ => {}
            }
            write_private(&path, text)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(path, _)| path)).finish()
    }
}
