//! `hive agents`: list, watch, explain, notify.

mod table;

use super::render::{size, write_out};
use super::stack::{self, Agents, Failure};
use crate::exit;
use clap::{Args, Subcommand};
use hive_api::registry::{
    AgentChangeEvent, AgentFilter, AgentInfo, AgentType, DiscoverAgentsRequest, ListAgentsRequest,
    NotifyAgentRequest, WatchAgentsRequest,
};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use table::Fleet;
use tonic::{Code, Status};

/// Agents in one page: an answer stays far below what a client accepts.
const PAGE: i32 = 500;
/// How long a registry that restarts may take before a watch gives up on it.
const OUTAGE_MAX: Duration = Duration::from_secs(60);
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How often the times of a live table grow.
const TICK: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Lists the agents, with how they stand and when they were heard.
    List(Wanted),
    /// Shows the agents as they come, go and change, until Ctrl-C: a live table, or a line for each change when piped.
    Watch(Wanted),
    /// Says which agents would be offered for these capabilities, in which order, and why not the others.
    Explain(Explain),
    /// Tells an agent something, over the stream that it holds open; succeeds once the agent has taken it.
    Notify(Notify),
}

#[derive(Args)]
pub(super) struct Wanted {
    /// Only agents with this capability; can be repeated.
    #[arg(long, value_name = "NAME")]
    capability: Vec<String>,
    /// Only agents of this namespace.
    #[arg(long, value_name = "NAME", default_value = "")]
    namespace: String,
    /// Only agents of this type.
    #[arg(long = "type", value_name = "TYPE", value_parser = ["worker", "scout", "guard", "analyst"])]
    agent_type: Option<String>,
}

#[derive(Args)]
pub(super) struct Explain {
    /// What the agents must be able to do.
    capabilities: Vec<String>,
    /// How many are wanted.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(i32).range(1..=500))]
    results: i32,
}

#[derive(Args)]
pub(super) struct Notify {
    /// The agent's ID, as `hive agents list` shows it.
    agent_id: String,
    /// What kind of notification it is, such as `drain`.
    kind: String,
    /// What there is to say.
    #[arg(default_value = "")]
    message: String,
}

impl Wanted {
    fn filter(self) -> AgentFilter {
        let named = self.agent_type.and_then(|name| {
            // clap lets only these names through.
            AgentType::from_str_name(&name.to_ascii_uppercase())
        });
        AgentFilter {
            agent_type: named.unwrap_or_default().into(),
            namespace: self.namespace,
            capabilities: self.capability,
            ..AgentFilter::default()
        }
    }
}

pub(super) fn run(verb: Verb) -> ExitCode {
    stack::block_on(async {
        let agents = stack::agents(&stack::attach().await?)?;
        match verb {
            Verb::List(wanted) => list(agents, wanted.filter()).await,
            Verb::Watch(wanted) => watch(agents, wanted.filter()).await,
            Verb::Explain(wanted) => explain(agents, wanted).await,
            Verb::Notify(notice) => notify(agents, notice).await,
        }
    })
}

async fn list(mut agents: Agents, filter: AgentFilter) -> Result<ExitCode, Failure> {
    let mut listed: Vec<AgentInfo> = Vec::new();
    let mut page_token = String::new();
    loop {
        let filter = Some(filter.clone());
        let request =
            ListAgentsRequest { filter, page_size: PAGE, page_token, ..Default::default() };
        let page =
            agents.list_agents(request).await.map_err(|status| failure(&status))?.into_inner();
        listed.extend(page.agents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    write_out(&table::list(&listed, now_s()));
    Ok(exit::DONE)
}

async fn explain(mut agents: Agents, wanted: Explain) -> Result<ExitCode, Failure> {
    let request = DiscoverAgentsRequest {
        capabilities: wanted.capabilities,
        max_results: wanted.results,
        explain: true,
        ..Default::default()
    };
    let answer =
        agents.discover_agents(request).await.map_err(|status| failure(&status))?.into_inner();
    write_out(&table::explanations(&answer.explanations));
    Ok(exit::DONE)
}

async fn notify(mut agents: Agents, notice: Notify) -> Result<ExitCode, Failure> {
    let request = NotifyAgentRequest {
        agent_id: notice.agent_id,
        notification_type: notice.kind,
        message: notice.message,
        ..Default::default()
    };
    let answer = agents.notify_agent(request).await.map_err(|status| failure(&status))?;
    let answer = answer.into_inner();
    if !answer.success {
        return Err(Failure::error(format!("the agent was not reached: {}", answer.error)));
    }
    println!("the agent has taken it");
    Ok(exit::DONE)
}

/// Follows the fleet across restarts of the registry, until the process is ended.
async fn watch(agents: Agents, filter: AgentFilter) -> Result<ExitCode, Failure> {
    let mut screen = Screen::new();
    let mut away_since: Option<tokio::time::Instant> = None;
    loop {
        let before = screen.fleet.revision();
        let ended = follow(agents.clone(), filter.clone(), &mut screen).await;
        if screen.fleet.revision() != before {
            away_since = None;
        }
        match ended.code() {
            // What was missed is not known: the table is filled anew.
            Code::OutOfRange => screen.fleet.forget(),
            // The caller's documents ran out, or it was too slow: it goes on from where it was.
            Code::Ok | Code::ResourceExhausted | Code::Unauthenticated => {}
            Code::Cancelled | Code::Internal | Code::Unavailable | Code::Unknown => {
                let since = *away_since.get_or_insert_with(tokio::time::Instant::now);
                if since.elapsed() > OUTAGE_MAX {
                    return Err(failure(&ended));
                }
            }
            _ => return Err(failure(&ended)),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// Shows the events of one stream. How it ended; `Ok` if the registry just closed it.
async fn follow(mut agents: Agents, filter: AgentFilter, screen: &mut Screen) -> Status {
    let resume_revision = screen.fleet.revision();
    let request = WatchAgentsRequest { filter: Some(filter), resume_revision, agent_type: 0 };
    let mut events = match agents.watch_agents(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return status,
    };
    if resume_revision == 0 {
        screen.fleet.forget();
    }
    loop {
        tokio::select! {
            event = events.message() => match event {
                Ok(Some(event)) => screen.take(&event),
                Ok(None) => return Status::ok("the stream ended"),
                Err(status) => return status,
            },
            () = screen.tick() => screen.redraw(),
        }
    }
}

/// A live table on a terminal; lines elsewhere.
struct Screen {
    live: bool,
    fleet: Fleet,
    /// What stands on the terminal now.
    lines: usize,
}

impl Screen {
    fn new() -> Self {
        Self { live: std::io::stdout().is_terminal(), fleet: Fleet::default(), lines: 0 }
    }

    /// Waits for the next second; for ever where no table is drawn.
    async fn tick(&self) {
        if self.live {
            tokio::time::sleep(TICK).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    fn take(&mut self, event: &AgentChangeEvent) {
        let line = self.fleet.take(event);
        if !self.live {
            write_out(&line);
        } else if self.fleet.is_synced() {
            self.redraw();
        }
    }

    fn redraw(&mut self) {
        let lines = self.fleet.lines(now_s(), size());
        let up = if self.lines > 0 { format!("\x1b[{}A", self.lines) } else { String::new() };
        let drawn: String = lines.iter().map(|line| format!("\x1b[2K{line}\n")).collect();
        self.lines = lines.len();
        write_out(&format!("{up}{drawn}\x1b[J"));
    }
}

pub(super) fn failure(status: &Status) -> Failure {
    let message = format!("the registry answered {:?}: {}", status.code(), status.message());
    match status.code() {
        Code::InvalidArgument | Code::NotFound => Failure::bad_input(status.message()),
        Code::DeadlineExceeded | Code::Unavailable => Failure::unavailable(message),
        _ => Failure::error(message),
    }
}

fn now_s() -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}
