use crate::world::{PATIENCE, World, eventually, printed, sandbox};
use hive_worker::sandbox::{Confinement, End, Job, Launcher, Sandbox, Toolchain};
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A process is known by an argument that nobody else has.
fn is_running(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok()).any(|line| {
        // The argument itself, not a script that mentions it.
        line.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes())
    })
}

fn marker(seconds: u32) -> String {
    format!("{seconds}.{}", std::process::id())
}

#[tokio::test]
async fn a_command_starts_with_a_clean_environment() {
    let (code, stdout, _) = printed(World::new().script("env | sed 's/=.*//' | sort").await);
    let names: Vec<_> =
        stdout.lines().filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name)).collect();
    let known = ["CARGO_HOME", "HOME", "LANG", "PATH", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "TMPDIR"];
    assert_eq!(code, Some(0));
    assert!(names.iter().all(|name| known.contains(name)) && names.contains(&"HOME"), "{names:?}");
}

#[tokio::test]
async fn a_command_writes_in_its_ticket_and_nowhere_else() {
    let world = World::new();
    let outside = world.directory.path().join("outside");
    let script = format!(
        "echo in > file && cat file; echo x > {0} || echo no; echo x > {0}.2 || echo no",
        outside.display()
    );
    let (code, stdout, stderr) = printed(world.script(&script).await);
    assert_eq!((code, stdout.as_str()), (Some(0), "in\nno\nno\n"), "{stderr}");
    assert!(!outside.exists());
}

#[tokio::test]
async fn a_command_reads_neither_homes_nor_secrets_nor_other_processes() {
    let world = World::new();
    let secret = world.directory.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let parent = format!("/proc/{}", std::process::id());
    let safe = world.safe.directory().display().to_string();
    let files = [
        secret.to_str().unwrap(),
        "/etc/shadow",
        &format!("{parent}/cmdline"),
        &format!("{parent}/environ"),
    ];
    let directories = ["/dev/shm", "/root", "/tmp", "/proc", &safe];
    let cat = files.map(|path| format!("cat {path}"));
    let ls = directories.map(|path| format!("ls {path}"));
    for script in cat.iter().chain(&ls) {
        let (code, stdout, _) = printed(world.script(script).await);
        assert!(code != Some(0) && stdout.is_empty(), "{script} succeeded: {stdout}");
    }
}

#[tokio::test]
async fn without_landlock_by_explicit_choice_files_are_not_confined() {
    // The counterpart of the test above: it is Landlock that denies, not an accident of this machine.
    let world = World::new();
    let secret = world.directory.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let command = ["cat".to_owned(), secret.to_str().unwrap().to_owned()];
    let work = world.work("p1", json!({}));
    let stop = CancellationToken::new();
    let job = Job {
        command: &command,
        directory: &work.home,
        home: &work.home,
        readable: &[],
        credentials: None,
        deadline: Instant::now() + PATIENCE,
        stop: &stop,
    };
    let (_, stdout, _) = printed(sandbox(Confinement::RlimitsOnly).run(job).await.unwrap());
    assert_eq!(stdout, "secret");
}

#[tokio::test]
async fn a_command_dumps_no_core_and_gains_no_privileges() {
    let script = "ulimit -n; for file in limits status; do cat /proc/self/$file || cat /proc/$$/$file; done \
        | grep -e 'core file' -e NoNewPrivs";
    let (_, stdout, stderr) = printed(World::new().script(script).await);
    let lines: Vec<_> = stdout.split_whitespace().collect();
    let core = ["4096", "Max", "core", "file", "size", "1", "1", "bytes", "NoNewPrivs:", "1"];
    assert_eq!(lines, core, "{stderr}");
}

#[tokio::test]
async fn at_the_deadline_everything_is_killed_daemons_included() {
    let (child, daemon) = (marker(1001), marker(1002));
    let script = format!("sleep {child} & setsid sleep {daemon} & echo started; wait");
    let started = Instant::now();
    let end = World::new()
        .script_until(&script, Duration::from_millis(700), &CancellationToken::new())
        .await;
    assert!(matches!(&end, End::DeadlinePassed(output) if output.stdout == "started\n"), "{end:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(!is_running(&child) && !is_running(&daemon));
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_with_it() {
    let (child, daemon) = (marker(1003), marker(1004));
    let script = format!("sleep {child} & (setsid sleep {daemon} &) ; exit 3");
    let (code, _, _) = printed(World::new().script(&script).await);
    assert_eq!(code, Some(3));
    assert!(!is_running(&child) && !is_running(&daemon));
}

#[tokio::test]
async fn a_stopped_command_is_killed() {
    let (world, stop, child) = (World::new(), CancellationToken::new(), marker(1005));
    let script = format!("sleep {child}");
    let stopping = async {
        eventually("it runs", || is_running(&child)).await;
        stop.cancel();
    };
    let (end, ()) = tokio::join!(world.script_until(&script, PATIENCE, &stop), stopping);
    assert!(matches!(end, End::Stopped), "{end:?}");
    assert!(!is_running(&child));
}

#[tokio::test]
async fn a_dropped_command_is_killed() {
    let (world, child) = (World::new(), marker(1006));
    let script = format!("setsid sleep {child} & wait");
    tokio::select! {
        end = world.script(&script) => panic!("it ended: {end:?}"),
        () = eventually("it runs", || is_running(&child)) => {}
    }
    eventually("it is gone", || !is_running(&child)).await;
}

#[tokio::test]
async fn a_command_cannot_kill_its_warden() {
    let (code, stdout, _) = printed(World::new().script("kill -9 $PPID; echo alive").await);
    assert_eq!((code, stdout.as_str()), (Some(0), "alive\n"));
}

#[tokio::test]
async fn a_command_that_floods_its_output_neither_stalls_nor_fills_memory() {
    let (code, stdout, _) = printed(
        World::new().script("head -c 5000000 /dev/zero | tr '\\0' x; echo; echo end").await,
    );
    assert_eq!((code, stdout.len()), (Some(0), 64 * 1024));
    assert!(stdout.ends_with("\nend\n"));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let world = World::new();
    let reason = crate::world::reason(
        world
            .execute(hive_plan::TicketKind::Execute, json!({ "command": ["no-such-program"] }))
            .await,
    );
    assert!(reason.contains("no-such-program could not be started: No such file"), "{reason}");
}

#[tokio::test]
async fn a_launcher_that_is_not_there_is_named() {
    let sandbox = Sandbox::new(
        Launcher::new("/does/not/exist", []),
        Confinement::Landlock,
        Toolchain::default(),
    );
    let stop = CancellationToken::new();
    let job = Job {
        command: &["true".to_owned()],
        directory: Path::new("/"),
        home: Path::new("/"),
        readable: &[],
        credentials: None,
        deadline: Instant::now() + PATIENCE,
        stop: &stop,
    };
    let error = sandbox.run(job).await.expect_err("it cannot start");
    assert!(error.to_string().contains("/does/not/exist"), "{error}");
}
