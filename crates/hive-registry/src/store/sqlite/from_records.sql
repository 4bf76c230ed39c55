-- A file that kept its records beside the changes: those whose changes were forgotten become changes again.
BEGIN IMMEDIATE;
INSERT OR IGNORE INTO changes (revision, id, deleted, value) SELECT revision, id, 0, value FROM records;
INSERT OR REPLACE INTO beginning (one, revision) SELECT 1, latest FROM position;
DROP TABLE records;
DROP TABLE position;
COMMIT;
