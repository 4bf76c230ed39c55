//! What each kind of ticket takes under `with`, and what it puts out.

use crate::ticket::TicketKind;

/// A key under `with`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    pub(crate) shape: Shape,
}

/// What the value of a key must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A program and its arguments; no shell reads it.
    Command,
    /// The name of one of the ticket's own credentials.
    Credential,
    /// One component of a path.
    FileName,
    /// Any map.
    Map,
    /// A path that cannot leave the directory that it is relative to.
    PathBelow,
    /// Any text but none at all.
    Text,
}

/// What a kind of ticket is like.
#[derive(Debug)]
pub(crate) struct Kind {
    /// The keys under `with`; `None` if they are the executor's own business.
    pub(crate) keys: Option<&'static [Key]>,
    /// What it puts out when it is done.
    pub(crate) outputs: &'static [&'static str],
}

/// Everything that this crate knows of a kind.
pub(crate) fn of(kind: TicketKind) -> &'static Kind {
    match kind {
        TicketKind::Build => &BUILD,
        TicketKind::Deploy => &DEPLOY,
        TicketKind::Execute => &EXECUTE,
        TicketKind::Test => &TEST,
        TicketKind::Validate => &VALIDATE,
        TicketKind::Compensate | TicketKind::Query | TicketKind::Transform => &OPEN,
    }
}

static BUILD: Kind = Kind {
    keys: Some(&[
        required("source", Shape::Text),
        required("command", Shape::Command),
        required("artifact", Shape::PathBelow),
    ]),
    outputs: &["artifact", "file", "size_bytes"],
};

static DEPLOY: Kind = Kind {
    keys: Some(&[
        required("artifact", Shape::Text),
        required("file", Shape::FileName),
        required("into", Shape::Text),
        required("release", Shape::FileName),
        optional("seal", Shape::Credential),
        optional("ledger", Shape::Credential),
    ]),
    outputs: &["release", "program", "previous"],
};

static EXECUTE: Kind = Kind {
    keys: Some(&[
        required("command", Shape::Command),
        optional("expect", Shape::Text),
        optional("undo", Shape::Command),
    ]),
    outputs: &[],
};

static TEST: Kind = Kind {
    keys: Some(&[required("source", Shape::Text), required("command", Shape::Command)]),
    outputs: &["summary"],
};

static VALIDATE: Kind = Kind {
    keys: Some(&[
        required("policy", Shape::Text),
        optional("artifact", Shape::Text),
        optional("input", Shape::Map),
    ]),
    outputs: &[],
};

/// Kinds whose parameters only their executor can judge.
static OPEN: Kind = Kind { keys: None, outputs: &[] };

const fn required(name: &'static str, shape: Shape) -> Key {
    Key { name, required: true, shape }
}

const fn optional(name: &'static str, shape: Shape) -> Key {
    Key { name, required: false, shape }
}
