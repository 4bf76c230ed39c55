-- The registry's membership. Revisions are the store's own: each accepted change has the next one.

CREATE TABLE IF NOT EXISTS records (
    id       BLOB    PRIMARY KEY NOT NULL,
    value    BLOB    NOT NULL,
    revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The latest changes, without gaps, for those who come back. `value` of a deletion is what the record was.
CREATE TABLE IF NOT EXISTS changes (
    revision INTEGER PRIMARY KEY NOT NULL,
    id       BLOB    NOT NULL,
    deleted  INTEGER NOT NULL,
    value    BLOB    NOT NULL
) STRICT;

-- One row: the revision of the last change, or where this file began.
CREATE TABLE IF NOT EXISTS position (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    latest INTEGER NOT NULL
) STRICT;
