//! `hive plan`: submit, watch, list, show, cancel.

use super::render::{self, Screen};
use super::stack::{self, Failure, Plans};
use crate::exit;
use clap::{Args, Subcommand};
use hive_api::orchestrator::{
    CancelRequest, GetPlanRequest, ListPlansRequest, PlanStatus, PlanView, SubmitRequest,
};
use hive_plan::Plan;
use rand::Rng;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

/// How long an orchestrator that restarts may take before a command gives up on it.
const OUTAGE_MAX: Duration = Duration::from_secs(60);
const RETRY_AFTER: Duration = Duration::from_millis(250);

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Checks a plan file and submits it; it runs from then on.
    Submit(Submit),
    /// Shows a plan as it becomes, until it is over; exits with 0 (done), 2 (undone) or 3 (stuck).
    Watch(Which),
    /// Lists the latest plans.
    List,
    /// Shows a plan as it is now.
    Show(Which),
    /// Asks a running plan to stop: what was done is undone.
    Cancel(Cancel),
}

#[derive(Args)]
pub(super) struct Submit {
    /// The plan, a YAML file.
    file: PathBuf,
    /// Shows the plan as it becomes, and exits with 0 (done), 2 (undone) or 3 (stuck).
    #[arg(long)]
    watch: bool,
    /// The directory that relative paths in the plan refer to [default: where the file is].
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Which {
    /// A plan's ID, or the beginning of it.
    id: String,
}

#[derive(Args)]
pub(super) struct Cancel {
    /// A plan's ID, or the beginning of it.
    id: String,
    /// Why, for the plan's story.
    #[arg(long, default_value = "cancelled at the command line")]
    reason: String,
}

pub(super) fn run(verb: Verb) -> ExitCode {
    stack::block_on(async {
        match verb {
            Verb::Submit(options) => submit(options).await,
            Verb::Watch(which) => watch(connect().await?, which.id).await,
            Verb::List => list(connect().await?).await,
            Verb::Show(which) => show(connect().await?, which.id).await,
            Verb::Cancel(options) => cancel(connect().await?, options).await,
        }
    })
}

async fn connect() -> Result<Plans, Failure> {
    stack::plans(&stack::attach().await?)
}

/// The file is checked before anything is connected: a plan with mistakes never leaves this process.
async fn submit(options: Submit) -> Result<ExitCode, Failure> {
    let request = read(&options.file, options.workspace.as_deref())?;
    let mut plans = connect().await?;
    let answer = with_patience(async || plans.clone().submit(request.clone()).await).await?;
    let answer = answer.into_inner();
    for warning in &answer.warnings {
        eprintln!("warning: {warning}");
    }
    if options.watch {
        return watch(plans, answer.plan_id).await;
    }
    let view = plans.get(GetPlanRequest { plan_id: answer.plan_id }).await?.into_inner();
    println!("plan {} submitted as {}", view.name, view.plan_id);
    println!("watch it with: hive plan watch {}", view.plan_id);
    Ok(exit::DONE)
}

fn read(file: &Path, workspace: Option<&Path>) -> Result<SubmitRequest, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::bad_input(format!("cannot read {}: {error}", file.display()))
    };
    let bytes = std::fs::read(file).map_err(unreadable)?;
    if let Err(mistakes) = Plan::parse_bytes(&bytes) {
        let name = file.display().to_string();
        let mistakes = mistakes.with_file(&name);
        return Err(Failure::bad_input(format!("nothing was submitted\n{mistakes}")));
    }
    let beside = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let workspace = workspace.or(beside).unwrap_or_else(|| Path::new("."));
    let workspace = workspace.canonicalize().map_err(|error| {
        Failure::bad_input(format!("cannot use {} as workspace: {error}", workspace.display()))
    })?;
    let Some(workspace) = workspace.to_str() else {
        return Err(Failure::bad_input("the workspace's path must be UTF-8"));
    };
    Ok(SubmitRequest {
        plan_yaml: String::from_utf8_lossy(&bytes).into_owned(), // checked above: it is UTF-8
        workspace: workspace.to_owned(),
        submission_id: format!("{:032x}", rand::rng().random::<u128>()),
    })
}

/// Follows a plan to its end, across restarts of the orchestrator.
async fn watch(plans: Plans, plan_id: String) -> Result<ExitCode, Failure> {
    let mut screen = Screen::new();
    let mut patience = Patience::new();
    loop {
        match follow(plans.clone(), &plan_id, &mut screen, &mut patience).await {
            Ok(Some(view)) => return Ok(verdict(&view)),
            Ok(None) => tokio::time::sleep(RETRY_AFTER).await,
            Err(status) => patience.bear(status).await?,
        }
    }
}

/// Shows every view of one stream. `None`: the stream ended before the plan did.
async fn follow(
    mut plans: Plans,
    plan_id: &str,
    screen: &mut Screen,
    patience: &mut Patience,
) -> Result<Option<PlanView>, tonic::Status> {
    let request = GetPlanRequest { plan_id: plan_id.to_owned() };
    let mut views = plans.watch(request).await?.into_inner();
    loop {
        let next = tokio::select! {
            next = views.message() => match next {
                // A stream ends with the documents of its caller; the next is opened with fresh ones.
                Err(status) if status.code() == Code::Unauthenticated => return Ok(None),
                next => next?,
            },
            () = screen.tick() => { screen.redraw(); continue; }
        };
        let Some(view) = next else { return Ok(None) };
        *patience = Patience::new();
        screen.show(&view);
        if view.over {
            screen.finish(&view);
            return Ok(Some(view));
        }
    }
}

fn verdict(view: &PlanView) -> ExitCode {
    match view.status() {
        PlanStatus::PlanDone => exit::DONE,
        PlanStatus::PlanStuck => ExitCode::from(exit::STUCK),
        PlanStatus::PlanCancelled | PlanStatus::PlanFailed => ExitCode::from(exit::UNDONE),
        PlanStatus::PlanRunning | PlanStatus::PlanUnwinding | PlanStatus::Unspecified => {
            exit::ERROR
        }
    }
}

async fn list(mut plans: Plans) -> Result<ExitCode, Failure> {
    let answer = plans.list(ListPlansRequest { limit: 0 }).await?.into_inner();
    print!("{}", render::table(&answer.plans));
    Ok(exit::DONE)
}

async fn show(mut plans: Plans, plan_id: String) -> Result<ExitCode, Failure> {
    let view = plans.get(GetPlanRequest { plan_id }).await?.into_inner();
    print!("{}", render::details(&view));
    Ok(exit::DONE)
}

async fn cancel(mut plans: Plans, options: Cancel) -> Result<ExitCode, Failure> {
    let request = CancelRequest { plan_id: options.id, reason: options.reason };
    let view = plans.cancel(request).await?.into_inner();
    print!("{}", render::details(&view));
    Ok(exit::DONE)
}

/// Repeats a call that may be repeated, while nobody answers, for a bounded time.
async fn with_patience<T>(
    mut call: impl AsyncFnMut() -> Result<T, tonic::Status>,
) -> Result<T, Failure> {
    let mut patience = Patience::new();
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) => patience.bear(status).await?,
        }
    }
}

/// Waits out an orchestrator that may simply be restarting.
struct Patience {
    until: Instant,
    said: bool,
}

impl Patience {
    fn new() -> Self {
        Self { until: Instant::now() + OUTAGE_MAX, said: false }
    }

    /// Waits a moment, unless this is no outage or has lasted too long.
    async fn bear(&mut self, status: tonic::Status) -> Result<(), Failure> {
        if !is_outage(&status) || Instant::now() >= self.until {
            return Err(status.into());
        }
        if !self.said {
            let seconds = OUTAGE_MAX.as_secs();
            eprintln!("the orchestrator does not answer; trying again for up to {seconds} s");
            self.said = true;
        }
        tokio::time::sleep(RETRY_AFTER).await;
        Ok(())
    }
}

/// What a restart looks like from outside. A stream that breaks says `Unknown` or `Internal`.
fn is_outage(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::Cancelled | Code::Internal | Code::Unavailable | Code::Unknown)
}
