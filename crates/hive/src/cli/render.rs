//! A plan on the screen: a live tree on a terminal, plain lines when piped.

use hive_api::orchestrator::{PlanStatus, PlanView, TicketView};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often running tickets get a new time on a terminal.
const TICK: Duration = Duration::from_millis(100);
const SPINNER: [char; 4] = ['◐', '◓', '◑', '◒'];

/// Shows the views of one plan as they come.
pub(super) struct Screen {
    live: bool,
    /// What stands on the terminal now.
    lines: usize,
    frame: usize,
    view: Option<PlanView>,
    /// The last state printed of each ticket, when piped.
    printed: BTreeMap<String, String>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let live = std::io::stdout().is_terminal();
        Self { live, lines: 0, frame: 0, view: None, printed: BTreeMap::new() }
    }

    /// Waits for the next frame; for ever when nothing moves by itself.
    pub(super) async fn tick(&self) {
        if self.live {
            tokio::time::sleep(TICK).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn show(&mut self, view: &PlanView) {
        self.view = Some(view.clone());
        if self.live { self.redraw() } else { self.print_changes(view) }
    }

    /// Draws the current view over the last one.
    pub(super) fn redraw(&mut self) {
        let Some(view) = &self.view else { return };
        self.frame += 1;
        let lines = fit(view, SPINNER[self.frame % SPINNER.len()], size());
        let up = if self.lines > 0 { format!("\x1b[{}A", self.lines) } else { String::new() };
        let cleared: String = lines.iter().map(|line| format!("\x1b[2K{line}\n")).collect();
        self.lines = lines.len();
        write_out(&format!("{up}{cleared}\x1b[J"));
    }

    /// The story is the last word.
    pub(super) fn finish(&mut self, view: &PlanView) {
        let gap = if self.live { "\n" } else { "" };
        write_out(&format!("{gap}{}\n", view.story.trim_end()));
    }

    fn print_changes(&mut self, view: &PlanView) {
        let mut text = String::new();
        if self.printed.is_empty() {
            let _ = writeln!(text, "plan {} {}", view.name, view.plan_id);
        }
        for ticket in &view.tickets {
            let line = state_line(ticket);
            if self.printed.get(&ticket.name) != Some(&line) {
                let _ = writeln!(text, "{line}");
                self.printed.insert(ticket.name.clone(), line);
            }
        }
        write_out(&text);
    }
}

/// Rows and columns of the terminal; the classic ones when it does not say.
pub(super) fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => (24, 80),
    }
}

/// The tree in as many lines as the terminal has: drawing over it works only while none is wrapped or scrolled
/// away. When not all tickets fit, those that move or failed are shown.
fn fit(view: &PlanView, spinner: char, (rows, columns): (usize, usize)) -> Vec<String> {
    let room = rows.saturating_sub(3).max(1);
    let mut shown = view.clone();
    let hidden = view.tickets.len().saturating_sub(room);
    if hidden > 0 {
        shown.tickets.retain(|ticket| is_running(ticket) || ticket.state.contains("failed"));
        shown.tickets.truncate(room);
    }
    let mut lines: Vec<String> = std::iter::once(head(view))
        .chain(branches(&shown.tickets, spinner))
        .map(|line| line.chars().take(columns.saturating_sub(1)).collect())
        .collect();
    if hidden > 0 {
        lines.push(format!("   {} more tickets", view.tickets.len() - shown.tickets.len()));
    }
    lines
}

/// A closed pipe or terminal must not change how a plan ends.
pub(super) fn write_out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn state_line(ticket: &TicketView) -> String {
    let mut line = format!("{}: {}", ticket.name, ticket.state);
    if ticket.attempt > 1 {
        let _ = write!(line, " (attempt {})", ticket.attempt);
    }
    if !ticket.detail.is_empty() {
        let _ = write!(line, ": {}", ticket.detail);
    }
    line
}

/// What the plan is, how far it is, and for how long.
fn head(view: &PlanView) -> String {
    format!(
        "plan {} {}  {}  {}/{} done  {}",
        view.name,
        view.plan_id,
        status_word(view.status()),
        done(view),
        view.tickets.len(),
        seconds(view.submitted_at_ms, view.ended_at_ms),
    )
}

fn done(view: &PlanView) -> usize {
    view.tickets.iter().filter(|ticket| ticket.state.starts_with("done")).count()
}

/// The tickets as a tree, with the time that each has taken.
fn branches(tickets: &[TicketView], spinner: char) -> impl Iterator<Item = String> {
    let width = tickets.iter().map(|ticket| ticket.name.chars().count()).max().unwrap_or(0);
    tickets.iter().enumerate().map(move |(index, ticket)| {
        let branch = if index + 1 == tickets.len() { "└─" } else { "├─" };
        format!("{branch} {} {}", mark(ticket, spinner), ticket_line(ticket, width))
    })
}

fn ticket_line(ticket: &TicketView, width: usize) -> String {
    let mut line = format!("{:width$}  {}", ticket.name, ticket.state);
    if ticket.started_at_ms > 0 {
        let _ = write!(line, "  {}", seconds(ticket.started_at_ms, ticket.ended_at_ms));
    }
    if !ticket.detail.is_empty() {
        let _ = write!(line, "  {}", first_line(&ticket.detail));
    }
    line
}

fn mark(ticket: &TicketView, spinner: char) -> char {
    match ticket.state.as_str() {
        _ if is_running(ticket) => spinner,
        "done" => '✔',
        "undone" | "done → undone" => '↩',
        "failed" | "undo failed" | "lost" => '✘',
        _ => '·',
    }
}

fn is_running(ticket: &TicketView) -> bool {
    matches!(ticket.state.as_str(), "running" | "undoing")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn seconds(from_ms: i64, to_ms: i64) -> String {
    let to_ms = if to_ms > 0 { to_ms } else { now_ms() };
    let tenths = (to_ms - from_ms).max(0) / 100;
    format!("{}.{}s", tenths / 10, tenths % 10)
}

fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

fn status_word(status: PlanStatus) -> &'static str {
    match status {
        PlanStatus::PlanCancelled => "cancelled",
        PlanStatus::PlanDone => "done",
        PlanStatus::PlanFailed => "failed",
        PlanStatus::PlanRunning => "running",
        PlanStatus::PlanStuck => "stuck",
        PlanStatus::PlanUnwinding => "unwinding",
        PlanStatus::Unspecified => "unknown",
    }
}

/// Plans as aligned columns, newest first.
pub(super) fn table(plans: &[PlanView]) -> String {
    if plans.is_empty() {
        return "no plans yet; submit one with: hive plan submit FILE\n".to_owned();
    }
    let names = plans.iter().map(|view| view.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for view in plans {
        let _ = writeln!(
            text,
            "{}  {:names$}  {:9}  {}/{} done  {}",
            view.plan_id,
            view.name,
            status_word(view.status()),
            done(view),
            view.tickets.len(),
            seconds(view.submitted_at_ms, view.ended_at_ms),
        );
    }
    text
}

/// One plan, told as a story, with who submitted it.
pub(super) fn details(view: &PlanView) -> String {
    format!(
        "{}\n\nid            {}\nsubmitted by  {}\ntook          {}\n",
        view.story.trim_end(),
        view.plan_id,
        view.submitted_by,
        seconds(view.submitted_at_ms, view.ended_at_ms),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(name: &str, state: &str) -> TicketView {
        TicketView { name: name.to_owned(), state: state.to_owned(), ..Default::default() }
    }

    fn view() -> PlanView {
        let mut build = ticket("build", "done");
        (build.started_at_ms, build.ended_at_ms) = (1_000, 2_500);
        let mut deploy = ticket("deploy", "running");
        deploy.detail = "on worker-1".to_owned();
        PlanView {
            name: "release".to_owned(),
            plan_id: "7f3a".to_owned(),
            status: PlanStatus::PlanRunning.into(),
            tickets: vec![build, deploy],
            submitted_at_ms: 1_000,
            ended_at_ms: 4_000,
            ..Default::default()
        }
    }

    #[test]
    fn the_tree_is_aligned_and_counts_what_is_done() {
        let expected = [
            "plan release 7f3a  running  1/2 done  3.0s",
            "├─ ✔ build   done  1.5s",
            "└─ ◐ deploy  running  on worker-1",
        ];
        assert_eq!(fit(&view(), '◐', (24, 80)), expected);
    }

    #[test]
    fn a_plan_larger_than_the_terminal_shows_what_moves_and_wraps_nothing() {
        let mut large = view();
        large.tickets.extend((0..100).map(|index| ticket(&format!("t{index}"), "waiting")));
        let expected =
            ["plan release 7f3a  runn", "└─ ◐ deploy  running  o", "   101 more tickets"];
        assert_eq!(fit(&large, '◐', (10, 24)), expected);
    }

    #[test]
    fn a_piped_line_says_what_changed_and_why() {
        let mut failed = ticket("verify", "failed");
        (failed.attempt, failed.detail) = (2, "exited with status 1".to_owned());
        assert_eq!(state_line(&failed), "verify: failed (attempt 2): exited with status 1");
    }

    #[test]
    fn an_empty_list_says_what_to_do() {
        assert!(table(&[]).contains("hive plan submit"));
    }
}
