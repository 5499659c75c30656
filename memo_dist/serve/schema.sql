-- The pending buffer of one run. Texts stand in `documents` and `search` only, and are overwritten
-- (secure_delete) when they leave.
CREATE TABLE IF NOT EXISTS documents (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    scope TEXT NOT NULL,
    state TEXT NOT NULL,
    submitted INTEGER NOT NULL DEFAULT 0,
    superseded TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL,
    updated REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS documents_state ON documents (state);
CREATE TABLE IF NOT EXISTS scopes (
    document TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (document, kind)
);
CREATE INDEX IF NOT EXISTS scopes_name ON scopes (kind, name);
CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    document TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL,
    message TEXT NOT NULL DEFAULT '',
    caller TEXT NOT NULL,
    scope TEXT NOT NULL,
    created REAL NOT NULL,
    updated REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS events_document ON events (document, version);
CREATE INDEX IF NOT EXISTS events_created ON events (created);
CREATE TABLE IF NOT EXISTS history (
    number INTEGER PRIMARY KEY,
    document TEXT NOT NULL,
    version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    hash TEXT NOT NULL,
    time REAL NOT NULL,
    caller TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS history_document ON history (document);
CREATE VIRTUAL TABLE IF NOT EXISTS search USING fts5(
    id UNINDEXED, title, text, tokenize = "porter unicode61 remove_diacritics 2"
);
