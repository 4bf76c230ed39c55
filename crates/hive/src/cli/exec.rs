//! `hive exec`: a program of somebody else's, with credentials that change under it.

mod program;

use super::lease::holdings::Notes;
use super::stack::{self, Failure};
use super::vault;
use clap::Args;
use hive_runtime::errors::chain;
use hive_runtime::telemetry;
use hive_security::adapters::files::{
    self, CredentialFiles, Layout, Notice, Signal, clear_abandoned, in_memory,
};
use hive_security::credentials::{Credentials, Request, Settings};
use program::{Program, Signals};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// What `on_change` runs may take as long.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);
/// Everything is given back within this time, or named.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);
const PREFIX: &str = "neural-hive-exec-";

#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    vault: vault::Borrower,
    /// A credential: the file NAME holds what is read at PATH, such as `db=database/creds/orders`, as one JSON object.
    /// Can be repeated.
    #[arg(long = "credential", value_name = "NAME=PATH", required = true, value_parser = pair)]
    credentials: Vec<(String, String)>,
    /// NAME is a directory instead, with one file per field, such as `db/password`.
    #[arg(long)]
    fields: bool,
    /// The file OUT is made from the file IN, in which `{{ db.password }}` stands for a field; `{{ db.password | json }}` makes it
    /// a string of JSON, and so do `url`, `shell`, `sql` and `base64`. Can be repeated.
    #[arg(long = "template", value_name = "IN:OUT", value_parser = template)]
    templates: Vec<(PathBuf, String)>,
    /// Where the files are; a directory in memory of its own if it is not given. It must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// After each change the program gets this signal.
    #[arg(long, value_name = "SIGNAL", conflicts_with = "on_change")]
    signal: Option<Signal>,
    /// After each change this command is run: words between spaces, without a shell. It has 30 seconds.
    #[arg(long, value_name = "CMD")]
    on_change: Option<String>,
    /// The program and its arguments. `$HIVE_CREDENTIALS` names the directory of the files.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

pub(super) fn run(options: &Options) -> ExitCode {
    let filter = stack::value("HIVE_LOG").unwrap_or_else(|| "warn".to_owned());
    stack::block_on(async {
        telemetry::init(&filter)
            .map_err(|error| Failure::bad_input(format!("HIVE_LOG is {filter:?}: {error}")))?;
        options.execute().await
    })
}

impl Options {
    async fn execute(&self) -> Result<ExitCode, Failure> {
        let layout = self.layout()?;
        let vault = vault::client()?;
        let mut signals = Signals::listen()?;
        let login = self.vault.method(stack::attach().await?)?;
        let wanted = |(name, path): &(String, String)| Request::read(name, path);
        let requests = self.credentials.iter().map(wanted).collect();
        let mut opening =
            std::pin::pin!(Credentials::open(vault, login, requests, Settings::default()));
        let credentials = tokio::select! {
            opened = &mut opening => opened.map_err(|error| not_opened(&error))?,
            number = signals.stop() => {
                // What was issued in the meantime is given back, if it comes soon.
                if let Ok(Ok(opened)) = timeout(CLOSE_DEADLINE, opening).await {
                    close(opened).await;
                }
                return Ok(ExitCode::from(number));
            }
        };
        let outcome = self.with(&credentials, layout, &mut signals).await;
        close(credentials).await;
        outcome
    }

    fn layout(&self) -> Result<Layout, Failure> {
        let wrong = |error: files::Error| Failure::bad_input(chain(&error));
        let mut layout = Layout::new();
        for (name, _) in &self.credentials {
            layout =
                if self.fields { layout.fields(name) } else { layout.json(name) }.map_err(wrong)?;
        }
        for (from, file) in &self.templates {
            let text = std::fs::read_to_string(from);
            let text = text.map_err(|error| {
                Failure::bad_input(format!("the template {}: {error}", from.display()))
            })?;
            layout = layout.template(file, &text).map_err(wrong)?;
        }
        let given = |name: &&str| !self.credentials.iter().any(|(given, _)| given == name);
        if let Some(missing) = layout.credentials().into_iter().find(given) {
            let message =
                format!("a template needs {missing}: name it with --credential {missing}=PATH");
            return Err(Failure::bad_input(message));
        }
        Ok(layout)
    }

    async fn with(
        &self,
        credentials: &Credentials,
        layout: Layout,
        signals: &mut Signals,
    ) -> Result<ExitCode, Failure> {
        let files = self.open(layout)?;
        let mut holds = Vec::new();
        for (name, _) in &self.credentials {
            let hold = credentials.hold(name, Arc::new(files.clone())).await;
            holds.push(hold.map_err(|error| Failure::error(chain(&error)))?);
        }
        let mut program = Program::start(&self.command, files.directory())?;
        // Nobody else runs between the start and this: a change before it would go unnoticed.
        if let Some(notice) = self.notice(program.pid())? {
            files.on_change(notice);
        }
        let mut notes = Notes::open().inspect_err(|error| {
            tracing::warn!(error = chain(error), "`hive lease list` will not show this process");
        });
        let shown = self.command[0].to_string_lossy().into_owned();
        let status = program.run(signals, || {
            if let Ok(notes) = &mut notes {
                notes.write(&shown, &credentials.status());
            }
        });
        status.await
    }

    fn open(&self, layout: Layout) -> Result<CredentialFiles, Failure> {
        let place = self.directory.clone().unwrap_or_else(|| {
            let runtime = stack::value("XDG_RUNTIME_DIR").map(PathBuf::from);
            let place = in_memory(runtime.as_deref(), &std::env::temp_dir());
            clear_abandoned(&place, PREFIX);
            place.join(format!("{PREFIX}{}-{:08x}", std::process::id(), rand::random::<u32>()))
        });
        CredentialFiles::open(&place, layout).map_err(|error| Failure::error(chain(&error)))
    }

    fn notice(&self, pid: u32) -> Result<Option<Notice>, Failure> {
        if let Some(signal) = self.signal {
            let notice = Notice::signal(pid, signal);
            let failed =
                |error| Failure::error(format!("the program cannot be signalled: {error}"));
            return notice.map(Some).map_err(failed);
        }
        let Some(command) = &self.on_change else { return Ok(None) };
        let mut words = command.split_ascii_whitespace();
        let program = words.next().ok_or_else(|| Failure::bad_input("--on-change is empty"))?;
        Ok(Some(Notice::command(program, words, COMMAND_DEADLINE)))
    }
}

async fn close(credentials: Credentials) {
    if let Err(error) = credentials.close(CLOSE_DEADLINE).await {
        eprintln!("hive: {}", chain(&error));
    }
}

fn not_opened(error: &hive_security::credentials::Error) -> Failure {
    let message = chain(error);
    if error.is_transient() { Failure::unavailable(message) } else { Failure::error(message) }
}

fn pair(value: &str) -> Result<(String, String), String> {
    match value.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), path.to_owned()))
        }
        _ => Err("expected NAME=PATH, such as db=database/creds/orders".to_owned()),
    }
}

fn template(value: &str) -> Result<(PathBuf, String), String> {
    match value.rsplit_once(':') {
        Some((from, file)) if !from.is_empty() && !file.is_empty() => {
            Ok((PathBuf::from(from), file.to_owned()))
        }
        _ => Err("expected IN:OUT, such as userlist.in:userlist.txt".to_owned()),
    }
}
