-- The tables. The name between two @ stands for the quoted name of the schema.
--
-- A message is one wide row, which stays where it is, and one narrow row, which moves with the
-- message's state between `pending` (waiting or delayed), `running` and `dead`. So no claim rewrites a
-- body or changes an indexed column. There are no foreign keys: the functions keep the rows consistent.

CREATE TABLE @schema@.version (
    number integer NOT NULL,
    -- The lowest version of asynctasq-postgres's own SQL that can work with these tables.
    understood_from integer NOT NULL
);

-- Every queue that was ever named.
CREATE TABLE @schema@.queue (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    -- Whether a message with a policy was ever put into it.
    policed boolean NOT NULL DEFAULT false
);

-- The priorities in use in a queue. `pending.lane` is eight times the number, plus
--   0 for messages given back:    place is the message's number
--   1 for those with a due time:  place is that time, in microseconds since 1970
--   2 for all others:             place is the message's number
-- so that each is one range of the index, in the order in which it is taken. Messages with a limit or a
-- rate use 3, 5 and 4 instead, from where they are sorted into lines (`policies.sql`).
CREATE TABLE @schema@.lane (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue integer NOT NULL,
    priority smallint NOT NULL,
    UNIQUE (queue, priority)
);

CREATE SEQUENCE @schema@.message_number;
CREATE SEQUENCE @schema@.lease_number;
CREATE SEQUENCE @schema@.worker_number AS integer CYCLE;

CREATE TABLE @schema@.message (
    number bigint PRIMARY KEY,
    queue integer NOT NULL,
    id text NOT NULL,
    body bytea NOT NULL,
    line integer,
    unique_key text,
    until_started boolean,
    UNIQUE (queue, id)
);
CREATE INDEX message_line ON @schema@.message (line) WHERE line IS NOT NULL;

CREATE TABLE @schema@.pending (
    lane integer NOT NULL,
    place bigint NOT NULL,
    message bigint NOT NULL,
    deliveries integer NOT NULL,
    line integer,
    -- Whether its rate has counted it already.
    counted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (lane, place, message)
);
CREATE UNIQUE INDEX pending_message ON @schema@.pending (message);

-- Leased messages. The lease itself is the worker's row; `lease` tells a message's deliveries apart.
CREATE TABLE @schema@.running (
    worker integer NOT NULL,
    message bigint NOT NULL,
    lease bigint NOT NULL,
    lane integer NOT NULL,
    deliveries integer NOT NULL,
    taken_at timestamptz NOT NULL,
    line integer,
    PRIMARY KEY (worker, message)
);
CREATE INDEX running_line ON @schema@.running (line) WHERE line IS NOT NULL;

-- A queue's messages with the same limit and rate stand in one line. Without a limit or a rate, its
-- columns are empty or 0.
CREATE TABLE @schema@.line (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue integer NOT NULL,
    limit_key text NOT NULL,
    most integer NOT NULL,
    rate_key text NOT NULL,
    interval_us double precision NOT NULL,
    burst integer NOT NULL,
    -- 0: empty; 1: its first message has a ticket; 2: waits for its limit; 3: waits for its rate.
    state smallint NOT NULL,
    UNIQUE (queue, limit_key, most, rate_key, interval_us, burst)
);
CREATE INDEX line_tickets ON @schema@.line (queue) WHERE state = 1;
CREATE INDEX line_rate ON @schema@.line (queue, rate_key, state) WHERE burst > 0;

-- The messages in lines, in order; rank is -2 * priority, plus 1 unless the message was given back.
CREATE TABLE @schema@.standing (
    line integer NOT NULL,
    rank smallint NOT NULL,
    place bigint NOT NULL,
    message bigint NOT NULL UNIQUE,
    deliveries integer NOT NULL,
    -- The lane's number.
    lane integer NOT NULL,
    counted boolean NOT NULL,
    PRIMARY KEY (line, rank, place, message)
);

-- Lines of which a message has ended or was removed.
CREATE TABLE @schema@.signal (
    queue integer NOT NULL,
    line integer NOT NULL
);
CREATE INDEX signal_queue ON @schema@.signal (queue);

-- The state that a rate's last delivery left; without a row, a whole burst may pass. Times are in
-- microseconds since 1970; `opens` is when the first waiting line may go on.
CREATE TABLE @schema@.rate (
    queue integer NOT NULL,
    key text NOT NULL,
    tat double precision NOT NULL,
    opens bigint,
    PRIMARY KEY (queue, key)
);
CREATE INDEX rate_opens ON @schema@.rate (queue, opens) WHERE opens IS NOT NULL;
CREATE INDEX rate_tat ON @schema@.rate (tat) WHERE opens IS NULL;

-- Unique keys in use; `expires` is null if the message itself frees the key.
CREATE TABLE @schema@.taken (
    queue integer NOT NULL,
    key text NOT NULL,
    holder text NOT NULL,
    until_started boolean NOT NULL,
    expires timestamptz,
    PRIMARY KEY (queue, key)
);
CREATE INDEX taken_expires ON @schema@.taken (expires) WHERE expires IS NOT NULL;

CREATE TABLE @schema@.dead (
    message bigint PRIMARY KEY,
    queue integer NOT NULL,
    lane integer NOT NULL,
    died_at timestamptz NOT NULL,
    info bytea NOT NULL
);
CREATE INDEX dead_queue ON @schema@.dead (queue, died_at, message);

CREATE TABLE @schema@.result (
    queue integer NOT NULL,
    id text NOT NULL,
    body bytea NOT NULL,
    expires timestamptz NOT NULL,
    PRIMARY KEY (queue, id)
);
CREATE INDEX result_expires ON @schema@.result (expires);

-- `lapsed` says that what was leased to the worker has been given back.
CREATE TABLE @schema@.worker (
    number integer PRIMARY KEY,
    id text NOT NULL UNIQUE,
    host text NOT NULL,
    pid bigint NOT NULL,
    queues text[] NOT NULL,
    concurrency bigint NOT NULL,
    started_at double precision NOT NULL,
    is_blocked boolean NOT NULL,
    alive_until timestamptz NOT NULL,
    lapsed boolean NOT NULL
) WITH (fillfactor = 50);

-- Who waits for which topics, and until when to notify them.
CREATE TABLE @schema@.listener (
    id text PRIMARY KEY,
    topics text[] NOT NULL,
    until timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Small named values.
CREATE TABLE @schema@.value (
    queue text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    value bytea NOT NULL,
    expires timestamptz,
    PRIMARY KEY (queue, kind, name)
);
CREATE INDEX value_expires ON @schema@.value (expires) WHERE expires IS NOT NULL;

-- Leases by name.
CREATE TABLE @schema@.lead (
    name text PRIMARY KEY,
    holder text NOT NULL,
    until timestamptz NOT NULL
) WITH (fillfactor = 50);

-- These tables grow and shrink all the time. Vacuum dead rows early, but do not shrink the files, which
-- would briefly lock everybody out.
ALTER TABLE @schema@.pending SET (autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 1, vacuum_truncate = false);
ALTER TABLE @schema@.running SET (autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 1, vacuum_truncate = false);
ALTER TABLE @schema@.standing SET (autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 1, vacuum_truncate = false);
ALTER TABLE @schema@.signal SET (autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 1, vacuum_truncate = false);
ALTER TABLE @schema@.message SET (autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 1, vacuum_truncate = false,
    toast.autovacuum_vacuum_scale_factor = 0.05, toast.vacuum_truncate = false);
ALTER TABLE @schema@.result SET (autovacuum_vacuum_scale_factor = 0.05, vacuum_truncate = false);
ALTER TABLE @schema@.worker SET (autovacuum_vacuum_threshold = 50, vacuum_truncate = false);
ALTER TABLE @schema@.listener SET (autovacuum_vacuum_threshold = 50, vacuum_truncate = false);
