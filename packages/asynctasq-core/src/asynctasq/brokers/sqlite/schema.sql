-- The queue file, version 2; run on a new file, and on one of an earlier version.
--
-- message.state and message.at together say where a message is:
--   0 leased     until at; past that, or released (at = 0), it may be taken by anyone
--   1 delayed    until at; past that it may be taken
--   2 waiting    at = 0
--   3 dead       since at
-- so that time alone moves no row: whoever takes finds what is ready by (queue, state, at).
--
-- Ends of leases, of signs of life and of leads are told by the machine's monotonic clock, which
-- starts anew with the machine; boot names the start that they belong to. All else is Unix time.

CREATE TABLE IF NOT EXISTS queue (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- place is the order of arrival, with the queue's number in front (place >> 40): what is taken and
-- settled together stands together, however many queues are filled in turn.
CREATE TABLE IF NOT EXISTS message (
    place INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    id TEXT NOT NULL,
    state INTEGER NOT NULL,
    at REAL NOT NULL,
    deliveries INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    lease INTEGER,
    body BLOB NOT NULL,
    info BLOB
);

CREATE UNIQUE INDEX IF NOT EXISTS message_by_id ON message (queue, id);

CREATE INDEX IF NOT EXISTS message_by_state ON message (queue, state, at);

-- serial never repeats, so that whoever waits for results reads only those after the last it saw.
CREATE TABLE IF NOT EXISTS result (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    expires REAL NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS result_by_id ON result (queue, id);

CREATE INDEX IF NOT EXISTS result_by_expiry ON result (expires);

CREATE TABLE IF NOT EXISTS worker (
    id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    queues TEXT NOT NULL,
    concurrency INTEGER NOT NULL,
    started_at REAL NOT NULL,
    is_blocked INTEGER NOT NULL,
    alive_until REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS lead (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS boot (
    id TEXT NOT NULL
);
