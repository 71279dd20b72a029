-- The queue file, version 3. Runs on a new file, and on one from an earlier version after
-- `schema.py` has added the columns that its tables lacked.
--
-- message.state and message.at together say where a message is:
--   0 leased     until at; after that, or once released (at = 0), anyone may take it
--   1 delayed    until at; after that it may be taken
--   2 waiting    at = -priority; takes see it
--   3 dead       since at
--   4 behind     at = -priority; waits for another message in its line
--   5 limited    at = -priority; waits for a message of its limit to end
--   6 rated      at = -priority; waits for its rate to open
-- So time alone moves no row: a take finds what is ready by (queue, state, at). Only if the first
-- bit of queue.special is set, because a message had a priority or a policy, are due and returned
-- messages moved to state 2 first. The second bit is set while there are pauses (`pauses.py`).
--
-- Messages with a limit or a rate have a line. Each line has a message in state 2, 5 or 6, which is
-- judged when a take reaches it. The triggers in `policies.sql` keep it so, whatever moves a
-- message.
--
-- Ends of leases, signs of life and leads follow the machine's monotonic clock, which restarts when
-- the machine boots; boot names the boot that they belong to. All other times are Unix times. All
-- are in seconds.

CREATE TABLE IF NOT EXISTS queue (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    special INTEGER NOT NULL DEFAULT 0
);

-- place is the order of arrival, prefixed with the queue's number (place >> 40), so that rows taken
-- and settled together lie together, however many queues are filled in turn.
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
    info BLOB,
    priority INTEGER NOT NULL DEFAULT 0,
    line INTEGER,
    limited TEXT,
    rated TEXT,
    uniq TEXT,
    counted INTEGER NOT NULL DEFAULT 0
);

CREATE UNIQUE INDEX IF NOT EXISTS message_by_id ON message (queue, id);

CREATE INDEX IF NOT EXISTS message_by_state ON message (queue, state, at);

CREATE INDEX IF NOT EXISTS message_by_line ON message (line, state, at) WHERE line IS NOT NULL;

CREATE INDEX IF NOT EXISTS message_by_limit ON message (queue, limited, state, at)
    WHERE limited IS NOT NULL;

CREATE INDEX IF NOT EXISTS message_by_rate ON message (queue, rated, state, at)
    WHERE rated IS NOT NULL;

-- What messages with the same keys and numbers ask for; empty and 0 where they have no such key.
CREATE TABLE IF NOT EXISTS line (
    number INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    limited TEXT NOT NULL,
    most INTEGER NOT NULL,
    rated TEXT NOT NULL,
    interval REAL NOT NULL,
    burst INTEGER NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS line_by_keys
    ON line (queue, limited, rated, most, interval, burst);

-- Without a row, a whole burst may pass. opens is when the first parked message is opened; NULL if
-- none is parked.
CREATE TABLE IF NOT EXISTS rate (
    queue INTEGER NOT NULL,
    name TEXT NOT NULL,
    tat REAL NOT NULL,
    opens REAL,
    PRIMARY KEY (queue, name)
);

CREATE INDEX IF NOT EXISTS rate_by_opening ON rate (queue, opens) WHERE opens IS NOT NULL;

CREATE INDEX IF NOT EXISTS rate_by_tat ON rate (tat) WHERE opens IS NULL;

-- expires is NULL if the message itself frees the key, by its end or its first delivery.
CREATE TABLE IF NOT EXISTS taken (
    queue INTEGER NOT NULL,
    name TEXT NOT NULL,
    holder TEXT NOT NULL,
    until_started INTEGER NOT NULL,
    expires REAL,
    PRIMARY KEY (queue, name)
);

CREATE INDEX IF NOT EXISTS taken_by_expiry ON taken (expires) WHERE expires IS NOT NULL;

CREATE TABLE IF NOT EXISTS value (
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    expires REAL,
    PRIMARY KEY (queue, kind, name)
);

CREATE INDEX IF NOT EXISTS value_by_expiry ON value (expires) WHERE expires IS NOT NULL;

-- serial never repeats, so that a reader waiting for results reads only those it has not seen.
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
