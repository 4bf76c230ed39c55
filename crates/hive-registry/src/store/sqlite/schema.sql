-- The registry's membership, as the changes that made it. Revisions are the store's own: each accepted change has the
-- next one.

-- The newest change of an agent, unless it is a deletion, is that agent's record. Of the others the latest are kept,
-- without gaps, for those who come back. `value` of a deletion is what the record was.
CREATE TABLE IF NOT EXISTS changes (
    revision INTEGER PRIMARY KEY NOT NULL,
    id       BLOB    NOT NULL,
    deleted  INTEGER NOT NULL,
    value    BLOB    NOT NULL
) STRICT;

-- One row: the revision before the first change of this file.
CREATE TABLE IF NOT EXISTS beginning (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL
) STRICT;
