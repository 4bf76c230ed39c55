-- The orchestrator's log and what is read beside it. Times are milliseconds since the Unix epoch.

-- The read model: what a plan was made of and how it stands. `view` (a PlanView) is written once, when it is over:
-- until then the conductor holds the plan in memory, and the log is what it was made from.
CREATE TABLE IF NOT EXISTS plans (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    plan_id         TEXT    NOT NULL UNIQUE,
    submission_id   TEXT    NOT NULL UNIQUE,
    source          TEXT    NOT NULL,
    workspace       TEXT    NOT NULL,
    submitted_by    TEXT    NOT NULL,
    submitted_at_ms INTEGER NOT NULL,
    name            TEXT    NOT NULL,
    status          TEXT    NOT NULL,
    revision        INTEGER NOT NULL,
    ended_at_ms     INTEGER,
    view            BLOB
) STRICT;

CREATE INDEX IF NOT EXISTS plans_running ON plans (number) WHERE ended_at_ms IS NULL;

-- The log: folding the events of a plan in their order gives its state, always.
CREATE TABLE IF NOT EXISTS events (
    plan_id TEXT    NOT NULL REFERENCES plans (plan_id),
    seq     INTEGER NOT NULL,
    at_ms   INTEGER NOT NULL,
    event   TEXT    NOT NULL,
    PRIMARY KEY (plan_id, seq)
) STRICT, WITHOUT ROWID;

-- The outbox: what the fold asked for and is not over yet. Without a claim it is queued.
CREATE TABLE IF NOT EXISTS work (
    plan_id       TEXT    NOT NULL REFERENCES plans (plan_id),
    ticket        TEXT    NOT NULL,
    direction     TEXT    NOT NULL CHECK (direction IN ('forward', 'undo')),
    kind          TEXT    NOT NULL,
    attempt       INTEGER NOT NULL,
    not_before_ms INTEGER NOT NULL,
    claim         INTEGER UNIQUE,
    claimed_by    TEXT,
    deadline_ms   INTEGER,
    stop_reason   TEXT,
    PRIMARY KEY (plan_id, ticket, direction),
    CHECK ((claim IS NULL) = (claimed_by IS NULL) AND (claim IS NULL) = (deadline_ms IS NULL))
) STRICT;

-- The signed outcomes as they were received: evidence, and how a repeated report is recognised.
CREATE TABLE IF NOT EXISTS outcomes (
    claim          INTEGER PRIMARY KEY,
    ticket_id      TEXT    NOT NULL,
    worker         TEXT    NOT NULL,
    outcome        TEXT    NOT NULL,
    envelope       BLOB    NOT NULL,
    received_at_ms INTEGER NOT NULL
) STRICT;

-- The fencing token: one row, which only grows.
CREATE TABLE IF NOT EXISTS fencing (
    only_row   INTEGER PRIMARY KEY CHECK (only_row = 1),
    last_claim INTEGER NOT NULL
) STRICT;

INSERT INTO fencing (only_row, last_claim) VALUES (1, 0) ON CONFLICT DO NOTHING;
