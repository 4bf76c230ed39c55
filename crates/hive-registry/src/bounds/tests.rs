//! Each field out of its bounds, and the name of the field in the refusal.

use super::*;

fn able(capabilities: &[&str]) -> RegisterRequest {
    RegisterRequest {
        agent_type: AgentType::Worker.into(),
        capabilities: capabilities.iter().map(ToString::to_string).collect(),
        ..RegisterRequest::default()
    }
}

fn told(success_rate: f64, counts: [i64; 4]) -> RegisterRequest {
    let [avg_duration_ms, total_executions, failed_executions, last_execution_at] = counts;
    let telemetry = AgentTelemetry {
        success_rate,
        avg_duration_ms,
        total_executions,
        failed_executions,
        last_execution_at,
    };
    RegisterRequest { telemetry: Some(telemetry), ..able(&["BUILD"]) }
}

fn labelled(name: &str, value: String) -> RegisterRequest {
    RegisterRequest { metadata: [(name.to_owned(), value)].into(), ..able(&["BUILD"]) }
}

/// Each request, and the field that its refusal names.
fn malformed() -> Vec<(RegisterRequest, &'static str)> {
    let many: Vec<String> = (0..65).map(|number| format!("c{number}")).collect();
    let pairs = (0..65).map(|number| (format!("k{number}"), String::new())).collect();
    let with = |change: fn(&mut RegisterRequest)| {
        let mut request = able(&["BUILD"]);
        change(&mut request);
        request
    };
    vec![
        (able(&[]), "capabilities"),
        (able(&[""]), "capabilities"),
        (able(&["a,b"]), "capabilities"),
        (able(&["a b"]), "capabilities"),
        (able(&["a/b"]), "capabilities"),
        (able(&["a\0"]), "capabilities"),
        (able(&["é"]), "capabilities"),
        (able(&[&"c".repeat(65)]), "capabilities"),
        (RegisterRequest { capabilities: many, ..able(&[]) }, "capabilities"),
        (with(|request| request.agent_type = 0), "agent_type"),
        (with(|request| request.agent_type = 5), "agent_type"),
        (with(|request| request.agent_type = -1), "agent_type"),
        (with(|request| request.namespace = "n".repeat(129)), "namespace"),
        (with(|request| request.cluster = "c".repeat(129)), "cluster"),
        (with(|request| request.version = "v".repeat(129)), "version"),
        (with(|request| request.instance_key = "i".repeat(129)), "instance_key"),
        (with(|request| request.namespace = "a\u{1b}[2J".to_owned()), "namespace"),
        (labelled("k", "v".repeat(2_048)), "metadata"),
        (labelled("", String::new()), "metadata"),
        (labelled(&"k".repeat(65), String::new()), "metadata"),
        (labelled("k", "\u{7}".to_owned()), "metadata"),
        (RegisterRequest { metadata: pairs, ..able(&["BUILD"]) }, "metadata"),
        (told(f64::NAN, [0; 4]), "telemetry.success_rate"),
        (told(1.1, [0; 4]), "telemetry.success_rate"),
        (told(-0.1, [0; 4]), "telemetry.success_rate"),
        (told(f64::INFINITY, [0; 4]), "telemetry.success_rate"),
        (told(1.0, [-1, 0, 0, 0]), "telemetry.avg_duration_ms"),
        (told(1.0, [0, -1, 0, 0]), "telemetry.total_executions"),
        (told(1.0, [0, 0, -1, 0]), "telemetry.failed_executions"),
        (told(1.0, [0, 0, 0, i64::MIN]), "telemetry.last_execution_at"),
        (told(1.0, [0, 1, 2, 0]), "telemetry.failed_executions"),
    ]
}

#[test]
fn a_registration_out_of_bounds_is_refused_with_the_name_of_the_field() {
    for (request, field) in malformed() {
        let shown = format!("{request:?}");
        let refused = registration(request).expect_err(&shown);
        assert!(refused.to_string().starts_with(&format!("{field}: ")), "{refused} for {shown}");
    }
}

#[test]
fn a_registration_at_its_bounds_is_taken() {
    let names: Vec<String> = (0..64).map(|n| format!("{n:02}{}", "c".repeat(62))).collect();
    let request = RegisterRequest {
        capabilities: names,
        metadata: [("k".repeat(64), "v".repeat(2_048 - 64))].into(),
        instance_key: "i".repeat(128),
        ..told(1.0, [i64::MAX, 2, 2, 0])
    };
    assert!(registration(request).is_ok());
}

#[test]
fn what_is_not_said_has_the_predecessors_defaults() {
    let read = registration(able(&["TEST", "BUILD", "TEST"])).expect("it is within bounds");
    assert_eq!((&*read.namespace, &*read.cluster, &*read.version), ("default", "local", "1.0.0"));
    let names: Vec<&str> = read.capabilities.iter().map(|name| &**name).collect();
    assert_eq!(names, ["BUILD", "TEST"]);
}

#[test]
fn what_a_refusal_quotes_is_short_and_cannot_drive_a_terminal() {
    let refused = registration(able(&[&"\u{1b}x".repeat(10_000)])).expect_err("too long");
    assert!(refused.to_string().len() < 1_000);
    assert!(!refused.to_string().contains('\u{1b}'));
}

#[test]
fn a_notification_is_bounded() {
    assert_eq!(notification("drain", "soon"), Ok(()));
    let table = [
        (String::new(), String::new(), "notification_type"),
        ("t".repeat(65), String::new(), "notification_type"),
        ("a\nb".to_owned(), String::new(), "notification_type"),
        ("drain".to_owned(), "m".repeat(16 * 1024 + 1), "message"),
    ];
    for (kind, message, field) in table {
        let refused = notification(&kind, &message).expect_err(field);
        assert!(refused.to_string().starts_with(&format!("{field}: ")), "{refused}");
    }
}
