-- What is several steps and one round trip. The names between two @ stand for the quoted name of the
-- schema, and for its name without quotes.
--
-- Plans are cached, and made when tables may be empty: where they are to hold for a million rows too,
-- the choices that go wrong then are switched off; which makes costs look high, and is no reason to
-- compile anything. `force_generic_plan` keeps them cached: a plan for the very arrays of a call looks
-- cheaper, and takes longer to make than to run. Times are the server's.

CREATE OR REPLACE FUNCTION @schema@.microseconds(at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT (extract(epoch FROM at) * 1000000)::bigint $$;

-- Make queues and their lanes known; those already known cost no write.
CREATE OR REPLACE FUNCTION @schema@.declare(names text[], priorities smallint[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO @schema@.queue (name)
        SELECT DISTINCT given.name FROM unnest(names) AS given (name)
        WHERE NOT EXISTS (SELECT FROM @schema@.queue known WHERE known.name = given.name)
        ORDER BY given.name
        ON CONFLICT DO NOTHING;
    INSERT INTO @schema@.lane (queue, priority)
        SELECT DISTINCT q.number, given.priority
        FROM unnest(names, priorities) AS given (name, priority)
        JOIN @schema@.queue q ON q.name = given.name
        WHERE NOT EXISTS (SELECT FROM @schema@.lane known
            WHERE known.queue = q.number AND known.priority = given.priority)
        ORDER BY 1, 2
        ON CONFLICT DO NOTHING;
END $$;

-- Add messages, in order, except those whose id their queue already holds. `dues` are Unix times in
-- seconds, null for immediately. The last three arguments are for `put_policed`.
CREATE OR REPLACE FUNCTION @schema@.put(
    queues text[], ids text[], bodies bytea[], dues double precision[], priorities smallint[],
    lines integer[] DEFAULT NULL, unique_keys text[] DEFAULT NULL,
    untils_started boolean[] DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    lanes integer[];
    numbers bigint[];
    now_us bigint := @schema@.microseconds(clock_timestamp());
BEGIN
    -- The lane of each message; null for one that must be made known first.
    FOR attempt IN 1..3 LOOP
        SELECT array_agg(l.number ORDER BY given.turn) INTO lanes
        FROM unnest(queues, priorities) WITH ORDINALITY AS given (name, priority, turn)
        LEFT JOIN @schema@.queue q ON q.name = given.name
        LEFT JOIN @schema@.lane l ON l.queue = q.number AND l.priority = given.priority;
        EXIT WHEN array_position(lanes, NULL) IS NULL;
        PERFORM @schema@.declare(queues, priorities);
    END LOOP;
    IF array_position(lanes, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'queues are not known' USING ERRCODE = 'serialization_failure';
    END IF;
    SELECT array_agg(nextval('@schema@.message_number')) INTO numbers
        FROM generate_series(1, cardinality(ids));
    WITH added AS (
        INSERT INTO @schema@.message (number, queue, id, body, line, unique_key, until_started)
        SELECT given.number, l.queue, given.id, given.body, given.line, given.key, given.until
        FROM unnest(numbers, lanes, ids, bodies, lines, unique_keys, untils_started)
            AS given (number, lane, id, body, line, key, until)
        JOIN @schema@.lane l ON l.number = given.lane
        ON CONFLICT (queue, id) DO NOTHING
        RETURNING number
    )
    INSERT INTO @schema@.pending (lane, place, message, deliveries, line)
    SELECT given.lane * 8
            + CASE WHEN is_later THEN 1 ELSE 2 END
            + CASE WHEN given.line IS NULL THEN 0 WHEN is_later THEN 4 ELSE 2 END,
        CASE WHEN is_later THEN due ELSE given.number END,
        given.number, 0, given.line
    FROM added
    JOIN unnest(numbers, lanes, dues, lines) AS given (number, lane, due_at, line)
        ON given.number = added.number,
    LATERAL (SELECT CASE WHEN given.due_at IS NOT NULL
        THEN least(given.due_at * 1000000, 9e18)::bigint END AS due) AS d,
    LATERAL (SELECT coalesce(due > now_us, false) AS is_later) AS l;
END $$;

CREATE OR REPLACE FUNCTION @schema@.texts(list json) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN list IS NOT NULL THEN ARRAY(
        SELECT value FROM json_array_elements_text(list) WITH ORDINALITY AS e (value, turn)
        ORDER BY turn) END
$$;

-- Add messages in a transaction of the application; returns what `put_policed` does. `given` is an
-- object with the arguments of `put`, or of `put_policed`, as arrays; bodies are in base64.
CREATE OR REPLACE FUNCTION @schema@.put_in_transaction(given text)
RETURNS TABLE (id text, holder text)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    g json := given;
    bodies bytea[] := ARRAY(
        SELECT decode(value, 'base64')
        FROM json_array_elements_text(g->'bodies') WITH ORDINALITY AS e (value, turn)
        ORDER BY turn);
BEGIN
    IF g->'unique_keys' IS NULL THEN
        PERFORM @schema@.put(@schema@.texts(g->'queues'), @schema@.texts(g->'ids'), bodies,
            @schema@.texts(g->'dues')::double precision[],
            @schema@.texts(g->'priorities')::smallint[]);
        RETURN;
    END IF;
    RETURN QUERY SELECT * FROM @schema@.put_policed(
        @schema@.texts(g->'queues'), @schema@.texts(g->'ids'), bodies,
        @schema@.texts(g->'dues')::double precision[], @schema@.texts(g->'priorities')::smallint[],
        @schema@.texts(g->'unique_keys'), @schema@.texts(g->'untils_started')::boolean[],
        @schema@.texts(g->'lasts_seconds')::double precision[],
        @schema@.texts(g->'replacing')::boolean[], @schema@.texts(g->'limit_keys'),
        @schema@.texts(g->'mosts')::integer[], @schema@.texts(g->'rate_keys'),
        @schema@.texts(g->'intervals')::double precision[],
        @schema@.texts(g->'bursts')::integer[]);
END $$;

-- Lease up to `most` messages to a worker, and renew its lease if there are any. Their order is that
-- of `turn` and `place`.
--
-- `since_lanes` and `since_places` say where to begin in lanes whose earlier entries the caller knows
-- to be gone. While an open transaction elsewhere keeps those, a scan would pass them one by one.
--
-- If there are no messages, returns one row without a message, whose `place` is the number of
-- microseconds until it is worth asking again, or null. First comes a row for each pause of the queues:
-- `queue`, its name as `id`, its value as `body`.
--
-- A taker that `confirms` will call `confirm` for redelivered messages that have reached it. Until then
-- such a delivery does not count, since the taker may die before this answer arrives.
CREATE OR REPLACE FUNCTION @schema@.take(
    taker integer, queues text[], most integer, lease_seconds double precision,
    since_lanes integer[], since_places bigint[], confirms boolean DEFAULT false
) RETURNS TABLE (
    queue text, id text, body bytea, deliveries integer, message bigint, lease bigint,
    lane integer, turn bigint, place bigint, line integer
)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    lease_ bigint;
    policed_ integer[];
    has_tickets boolean;
    is_any boolean := false;
    one record;
    claimed bigint;
    -- Of the tickets.
    lines integer[] := '{}';
    lanes integer[] := '{}';
    turns bigint[] := '{}';
    places bigint[] := '{}';
BEGIN
    PERFORM @schema@.give_back_lapsed();
    PERFORM @schema@.share_pauses();
    IF EXISTS (SELECT FROM @schema@.value v WHERE v.queue = ANY (queues) AND v.kind = 'pauses') THEN
        FOR queue, id, body IN
            SELECT v.queue, v.name, v.value FROM @schema@.value v
            WHERE v.queue = ANY (queues) AND v.kind = 'pauses'
        LOOP
            RETURN NEXT;
            IF id = '' THEN
                queues := array_remove(queues, queue);
            END IF;
        END LOOP;
    END IF;
    lease_ := nextval('@schema@.lease_number');
    SELECT array_agg(q.number) INTO policed_
        FROM @schema@.queue q WHERE q.name = ANY (queues) AND q.policed;
    IF policed_ IS NULL THEN
        RETURN QUERY
            SELECT c.queue, c.id, c.body, c.deliveries, c.message, c.lease, c.lane, c.turn, c.place,
                c.line
            FROM @schema@.claim(
                taker, lease_, queues, most, since_lanes, since_places, false, confirms) c;
        is_any := FOUND;
    ELSE
        has_tickets := @schema@.admit(policed_, most);
        FOR one IN SELECT * FROM @schema@.claim(
            taker, lease_, queues, most, since_lanes, since_places, has_tickets, confirms) AS c
        LOOP
            claimed := one.claimed;
            IF one.line IS NOT NULL THEN
                lines := lines || one.line;
                lanes := lanes || one.lane;
                turns := turns || one.turn;
                places := places || one.place;
                CONTINUE;
            END IF;
            queue := one.queue;
            id := one.id;
            body := one.body;
            deliveries := one.deliveries;
            message := one.message;
            lease := lease_;
            lane := one.lane;
            turn := one.turn;
            place := one.place;
            is_any := true;
            RETURN NEXT;
        END LOOP;
        IF lines <> '{}' THEN
            RETURN QUERY SELECT * FROM @schema@.run_lines(
                lines, lanes, turns, places, most - claimed, taker, lease_, confirms);
            is_any := is_any OR FOUND;
        END IF;
        DELETE FROM @schema@.taken t
            USING @schema@.running r JOIN @schema@.message m ON m.number = r.message
            WHERE r.worker = taker AND r.lease = lease_ AND m.until_started
                AND t.queue = m.queue AND t.key = m.unique_key AND t.holder = m.id
                AND t.expires IS NULL;
    END IF;
    IF is_any THEN
        PERFORM @schema@.give_sign_of_life(taker, lease_seconds, lease_seconds * 0.1);
    ELSE
        queue := NULL;
        id := NULL;
        message := NULL;
        line := NULL;
        place := @schema@.ready_in(queues, since_lanes, since_places);
        RETURN NEXT;
    END IF;
END $$;

-- Move messages from `pending` to `running`. A line's ticket is only removed, and only by the holder of
-- the lines' lock, since another holder may be about to issue the same ticket. `claimed` is the total.
CREATE OR REPLACE FUNCTION @schema@.claim(
    taker integer, lease_ bigint, queues text[], most integer,
    since_lanes integer[], since_places bigint[], with_tickets boolean,
    confirms boolean DEFAULT false
) RETURNS TABLE (
    queue text, id text, body bytea, deliveries integer, message bigint, lease bigint,
    lane integer, turn bigint, place bigint, line integer, claimed bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now_ timestamptz := clock_timestamp();
    now_us bigint := @schema@.microseconds(now_);
BEGIN
    RETURN QUERY
    WITH lanes AS MATERIALIZED (
        SELECT given.name, l.number * 8 + kind AS lane,
            row_number() OVER (ORDER BY given.turn, l.priority DESC, kind) AS turn,
            coalesce(since.place, -9223372036854775808) AS since,
            CASE WHEN kind = 1 THEN now_us ELSE 9223372036854775807 END AS until
        FROM unnest(queues) WITH ORDINALITY AS given (name, turn)
        JOIN @schema@.queue q ON q.name = given.name
        JOIN @schema@.lane l ON l.queue = q.number
        CROSS JOIN generate_series(0, 2) AS kind
        LEFT JOIN unnest(since_lanes, since_places) AS since (lane, place)
            ON since.lane = l.number * 8 + kind
        ORDER BY given.turn, l.priority DESC, kind
    ), chosen AS MATERIALIZED (
        SELECT lanes.name, lanes.turn, p.*
        FROM lanes CROSS JOIN LATERAL (
            SELECT pending.ctid AS at, pending.lane, pending.place, pending.message,
                pending.deliveries + 1 AS deliveries, pending.line
            FROM @schema@.pending
            WHERE pending.lane = lanes.lane
                AND pending.place >= lanes.since AND pending.place <= lanes.until
                AND (with_tickets OR pending.line IS NULL)
            ORDER BY pending.lane, pending.place, pending.message
            LIMIT most
            FOR UPDATE SKIP LOCKED
        ) AS p
        LIMIT most
    ), gone AS (
        DELETE FROM @schema@.pending WHERE ctid = ANY (ARRAY(SELECT chosen.at FROM chosen))
    ), begun AS (
        INSERT INTO @schema@.running (worker, message, lease, lane, deliveries, taken_at)
        SELECT taker, chosen.message, lease_, chosen.lane,
            CASE WHEN confirms THEN greatest(1, chosen.deliveries - 1) ELSE chosen.deliveries END,
            now_
        FROM chosen WHERE chosen.line IS NULL
    )
    SELECT chosen.name, m.id, m.body, chosen.deliveries, chosen.message, lease_,
        chosen.lane, chosen.turn, chosen.place, chosen.line, count(*) OVER ()
    FROM chosen LEFT JOIN @schema@.message m
        ON m.number = chosen.message AND chosen.line IS NULL;
END $$;

-- Count deliveries that have arrived, of redelivered messages.
CREATE OR REPLACE FUNCTION @schema@.confirm(who integer, messages bigint[], leases bigint[])
RETURNS void
LANGUAGE sql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
    UPDATE @schema@.running SET deliveries = deliveries + 1 WHERE ctid = ANY (ARRAY(
        SELECT r.at FROM unnest(messages, leases) AS given (message, lease)
        CROSS JOIN LATERAL (
            SELECT ctid AS at FROM @schema@.running
            WHERE worker = who AND message = given.message AND lease = given.lease
            LIMIT 1
        ) AS r))
$$;

-- Microseconds until something is due, a rate opens or a lease may run out; null for never.
CREATE OR REPLACE FUNCTION @schema@.ready_in(
    queues text[], since_lanes integer[], since_places bigint[]
) RETURNS bigint
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
    now_us bigint := @schema@.microseconds(clock_timestamp());
    at bigint;
BEGIN
    SELECT least(
        (SELECT min(first.place)
            FROM @schema@.queue q
            JOIN @schema@.lane l ON l.queue = q.number
            CROSS JOIN unnest('{1,5}'::integer[]) AS kind
            LEFT JOIN unnest(since_lanes, since_places) AS since (lane, place)
                ON since.lane = l.number * 8 + kind,
            LATERAL (SELECT p.place FROM @schema@.pending p
                WHERE p.lane = l.number * 8 + kind
                    AND p.place >= coalesce(since.place, -9223372036854775808)
                ORDER BY p.lane, p.place LIMIT 1) AS first
            WHERE q.name = ANY (queues)),
        -- Locked rows of an expired worker could not be given back yet: look again soon.
        (SELECT greatest(@schema@.microseconds(min(w.alive_until)), CASE
                WHEN min(w.alive_until) <= clock_timestamp() THEN now_us + 200000 END)
            FROM @schema@.worker w WHERE NOT w.lapsed)) INTO at;
    IF EXISTS (SELECT FROM @schema@.queue q WHERE q.name = ANY (queues) AND q.policed) THEN
        SELECT least(at, min(r.opens)) INTO at
            FROM @schema@.queue q JOIN @schema@.rate r ON r.queue = q.number
            WHERE q.name = ANY (queues) AND r.opens IS NOT NULL;
        IF @schema@.has_mail(ARRAY(
            SELECT q.number FROM @schema@.queue q WHERE q.name = ANY (queues) AND q.policed))
        THEN
            at := now_us;
        END IF;
    END IF;
    RETURN greatest(0, at - now_us);
END $$;

-- Renew a worker's lease. A lease that was renewed less than `unless_younger_seconds` ago is left as it
-- is, but kept from lapsing until this transaction ends.
CREATE OR REPLACE FUNCTION @schema@.give_sign_of_life(
    who integer, lease_seconds double precision, unless_younger_seconds double precision
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    until_ timestamptz;
BEGIN
    LOOP
        until_ := clock_timestamp() + make_interval(secs => lease_seconds);
        UPDATE @schema@.worker SET alive_until = until_, lapsed = false
            WHERE number = who
            AND (lapsed OR alive_until <= until_ - make_interval(secs => unless_younger_seconds));
        EXIT WHEN FOUND;
        -- Even a young lease may have lapsed since then, and nobody looks at a lapsed worker again.
        PERFORM FROM @schema@.worker WHERE number = who AND NOT lapsed FOR KEY SHARE;
        EXIT WHEN FOUND;
        IF NOT EXISTS (SELECT FROM @schema@.worker WHERE number = who) THEN
            RAISE EXCEPTION 'worker % was withdrawn', who USING ERRCODE = 'AQ001';
        END IF;
    END LOOP;
END $$;

-- Give back what is leased to workers whose lease has expired. Skips a worker that is just renewing its
-- lease, and so holds its own row; a delivery that an open transaction is settling; and one that is
-- just being counted, whose row has moved. Those are looked at again.
CREATE OR REPLACE FUNCTION @schema@.give_back_lapsed() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM @schema@.worker WHERE NOT lapsed AND alive_until <= clock_timestamp()
    ) THEN
        RETURN;
    END IF;
    WITH past AS MATERIALIZED (
        SELECT number FROM @schema@.worker
        WHERE NOT lapsed AND alive_until <= clock_timestamp()
        FOR UPDATE SKIP LOCKED
    ), free AS MATERIALIZED (
        SELECT r.ctid AS at, r.worker FROM @schema@.running r JOIN past ON r.worker = past.number
        FOR UPDATE OF r SKIP LOCKED
    ), freed AS (
        DELETE FROM @schema@.running WHERE ctid = ANY (ARRAY(SELECT free.at FROM free))
        RETURNING worker, lane, message, deliveries, line
    ), noted AS (
        UPDATE @schema@.worker w SET lapsed = true FROM past
        WHERE w.number = past.number
            AND (SELECT count(*) FROM @schema@.running r WHERE r.worker = w.number)
                <= (SELECT count(*) FROM freed f WHERE f.worker = w.number)
    )
    INSERT INTO @schema@.pending (lane, place, message, deliveries, line, counted)
    SELECT lane / 8 * 8 + CASE WHEN line IS NULL THEN 0 ELSE 3 END, message, message, deliveries,
        line, line IS NOT NULL
    FROM freed;
END $$;

-- Give back what a worker holds, and forget the worker. `undone` is 1 to not count its deliveries.
CREATE OR REPLACE FUNCTION @schema@.withdraw(worker_id text, undone integer)
RETURNS bigint
LANGUAGE sql AS $$
    WITH withdrawn AS MATERIALIZED (
        DELETE FROM @schema@.worker WHERE id = worker_id RETURNING number
    ), freed AS (
        DELETE FROM @schema@.running r USING withdrawn
        WHERE r.worker = withdrawn.number
        RETURNING r.lane, r.message, r.deliveries, r.line
    ), back AS (
        INSERT INTO @schema@.pending (lane, place, message, deliveries, line, counted)
        SELECT lane / 8 * 8 + CASE WHEN line IS NULL THEN 0 ELSE 3 END, message, message,
            deliveries - undone, line, line IS NOT NULL
        FROM freed
    )
    SELECT count(*) FROM freed
$$;

-- Register a worker and its queues; returns its number. Forgets workers that lapsed long ago.
CREATE OR REPLACE FUNCTION @schema@.announce(
    worker_id text, host text, pid bigint, queues text[], concurrency bigint,
    started_at double precision, is_blocked boolean, lease_seconds double precision,
    takes_from text[]
) RETURNS integer
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    number_ integer;
    until_ timestamptz := clock_timestamp() + make_interval(secs => lease_seconds);
BEGIN
    PERFORM @schema@.declare(takes_from, array_fill(0::smallint, ARRAY[cardinality(takes_from)]));
    DELETE FROM @schema@.worker WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM @schema@.worker
        WHERE lapsed AND alive_until < clock_timestamp() - interval '1 day'
        FOR UPDATE SKIP LOCKED));
    INSERT INTO @schema@.worker AS w VALUES (
        nextval('@schema@.worker_number'), worker_id, announce.host, announce.pid,
        announce.queues, announce.concurrency, announce.started_at,
        announce.is_blocked, until_, false)
    ON CONFLICT (id) DO UPDATE SET alive_until = until_, lapsed = false
    RETURNING w.number INTO number_;
    RETURN number_;
END $$;

-- Renew a worker's lease; returns the positions of deliveries that it has lost. With `others_too`, gives
-- back what was leased to it at least a lease ago and is not among these: the worker does not know
-- of it.
CREATE OR REPLACE FUNCTION @schema@.renew(
    who integer, lease_seconds double precision, messages bigint[], leases bigint[],
    others_too boolean, is_blocked_ boolean
) RETURNS bigint[]
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    lost bigint[];
BEGIN
    PERFORM @schema@.give_sign_of_life(who, lease_seconds, 0);
    UPDATE @schema@.worker SET is_blocked = is_blocked_
        WHERE number = who AND is_blocked <> is_blocked_;
    IF others_too THEN
        WITH freed AS (
            DELETE FROM @schema@.running r
            WHERE r.worker = who AND NOT r.message = ANY (messages)
                AND r.taken_at < clock_timestamp() - make_interval(secs => lease_seconds)
            RETURNING r.lane, r.message, r.deliveries, r.line
        )
        INSERT INTO @schema@.pending (lane, place, message, deliveries, line, counted)
        SELECT lane / 8 * 8 + CASE WHEN line IS NULL THEN 0 ELSE 3 END, message, message,
            deliveries, line, line IS NOT NULL
        FROM freed;
    END IF;
    SELECT array_agg(given.turn) INTO lost
    FROM unnest(messages, leases) WITH ORDINALITY AS given (message, lease, turn)
    WHERE NOT EXISTS (SELECT FROM @schema@.running r
        WHERE r.worker = who AND r.message = given.message AND r.lease = given.lease);
    RETURN lost;
END $$;

-- Forget deliveries that are done; returns the positions of those that were current, or null for all.
CREATE OR REPLACE FUNCTION @schema@.finish(who integer, messages bigint[], leases bigint[])
RETURNS bigint[]
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    applied bigint[];
BEGIN
    -- Look up each delivery separately: for each, a join might read everything the worker holds. One
    -- that others delete meanwhile is not among `freed`.
    WITH ended AS MATERIALIZED (
        SELECT r.at, given.message, given.turn
        FROM unnest(messages, leases) WITH ORDINALITY AS given (message, lease, turn)
        CROSS JOIN LATERAL (
            SELECT ctid AS at FROM @schema@.running
            WHERE worker = who AND message = given.message AND lease = given.lease
            LIMIT 1
        ) AS r
    ), freed AS (
        DELETE FROM @schema@.running WHERE ctid = ANY (ARRAY(SELECT ended.at FROM ended))
        RETURNING message
    ), gone AS (
        DELETE FROM @schema@.message m USING freed WHERE m.number = freed.message
    )
    SELECT CASE WHEN count(*) < cardinality(messages) THEN
        ARRAY(SELECT ended.turn FROM ended
            WHERE ended.message IN (SELECT freed.message FROM freed)) END
        INTO applied FROM freed;
    RETURN applied;
END $$;

-- Apply outcomes of every kind; returns what `finish` does. `actions` are done, retry, dead, release,
-- postpone and park; arrays without any value may be null. For park, `infos` holds the name of the
-- pause, and `delays` its number.
CREATE OR REPLACE FUNCTION @schema@.settle(
    who integer, messages bigint[], leases bigint[], actions text[], delays double precision[],
    bodies bytea[], infos bytea[], results bytea[], result_ttls double precision[]
) RETURNS bigint[]
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    now_ timestamptz := clock_timestamp();
    applied bigint[];
    parked bigint[];
    parked_lines integer[];
    has_moved boolean;
BEGIN
    IF 'park' = ANY (actions) THEN
        PERFORM @schema@.share_pauses();
        SELECT array_agg(CASE WHEN given.action = 'park' AND NOT EXISTS (
                SELECT FROM @schema@.message m JOIN @schema@.queue q ON q.number = m.queue
                JOIN @schema@.value v ON v.queue = q.name AND v.kind = 'pauses'
                WHERE m.number = given.message AND v.name = convert_from(given.info, 'UTF8'))
            THEN 'release' ELSE given.action END ORDER BY given.turn) INTO actions
        FROM unnest(messages, actions, infos) WITH ORDINALITY
            AS given (message, action, info, turn);
    END IF;
    WITH ended AS MATERIALIZED (
        SELECT r.*, given.*
        FROM unnest(messages, leases, actions, delays, bodies, infos, results, result_ttls)
            WITH ORDINALITY
            AS given (message, lease, action, delay, body, info, result, ttl, turn)
        CROSS JOIN LATERAL (
            SELECT ctid AS at, lane, deliveries, line FROM @schema@.running
            WHERE worker = who AND message = given.message AND lease = given.lease
            LIMIT 1 FOR UPDATE
        ) AS r
    ), let_go AS (
        DELETE FROM @schema@.running WHERE ctid = ANY (ARRAY(SELECT ended.at FROM ended))
        RETURNING 1
    ), kept AS (
        INSERT INTO @schema@.result (queue, id, body, expires)
        SELECT m.queue, m.id, e.result, now_ + make_interval(secs => least(e.ttl, 1e10))
        FROM ended e JOIN @schema@.message m ON m.number = e.message
        WHERE e.result IS NOT NULL
        ON CONFLICT (queue, id) DO UPDATE SET body = excluded.body, expires = excluded.expires
    ), gone AS (
        DELETE FROM @schema@.message m USING ended e
        WHERE e.action = 'done' AND m.number = e.message
    ), changed AS (
        UPDATE @schema@.message m SET body = e.body FROM ended e
        WHERE e.action <> 'done' AND e.body IS NOT NULL AND m.number = e.message
    ), died AS (
        INSERT INTO @schema@.dead (message, queue, lane, died_at, info)
        SELECT e.message, m.queue, e.lane, now_, e.info
        FROM ended e JOIN @schema@.message m ON m.number = e.message
        WHERE e.action = 'dead'
    ), freed AS (
        DELETE FROM @schema@.taken t
        USING ended e JOIN @schema@.message m ON m.number = e.message
        WHERE e.action = 'dead' AND m.unique_key IS NOT NULL
            AND t.queue = m.queue AND t.key = m.unique_key AND t.holder = m.id
            AND t.expires IS NULL
    ), back AS (
        INSERT INTO @schema@.pending (lane, place, message, deliveries, line, counted)
        SELECT
            e.lane / 8 * 8 + CASE WHEN e.action = 'release' THEN 0 ELSE 1 END
                + CASE WHEN e.line IS NULL THEN 0 WHEN e.action = 'release' THEN 3 ELSE 4 END,
            CASE WHEN e.action = 'release' THEN e.message
                WHEN e.action = 'park' THEN @schema@.parked_until(e.delay::bigint)
                ELSE least(@schema@.microseconds(now_) + e.delay * 1000000, 9e18)::bigint END,
            e.message,
            CASE WHEN e.action = 'retry' THEN 0 ELSE e.deliveries - 1 END,
            e.line,
            e.line IS NOT NULL AND e.action = 'release'
        FROM ended e WHERE e.action IN ('release', 'retry', 'postpone', 'park')
    )
    SELECT CASE WHEN count(*) < cardinality(messages) THEN coalesce(array_agg(e.turn), '{}') END,
        array_agg(e.message) FILTER (WHERE e.action = 'park'),
        array_agg(e.line) FILTER (WHERE e.action = 'park'),
        count(*) > (SELECT count(*) FROM let_go)
            AND (SELECT count(DISTINCT ended.at) FROM ended) > (SELECT count(*) FROM let_go)
        INTO applied, parked, parked_lines, has_moved FROM ended e;
    IF has_moved THEN
        -- The delivery was just counted, and this statement does not see its new row.
        RAISE EXCEPTION 'a delivery was changed' USING ERRCODE = 'serialization_failure';
    END IF;
    IF parked IS NOT NULL THEN
        PERFORM @schema@.take_back_deliveries(parked, parked_lines);
    END IF;
    IF results IS NOT NULL THEN
        PERFORM @schema@.forget_results(2 * cardinality(results));
    END IF;
    RETURN applied;
END $$;

-- Forget a delivery that is done, in the task's own transaction, and keep its result, if any. Returns
-- whether it was current.
CREATE OR REPLACE FUNCTION @schema@.settle_in_transaction(
    who integer, which bigint, lease_ bigint, result bytea, result_ttl double precision
) RETURNS boolean
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    IF result IS NULL THEN
        RETURN @schema@.finish(who, ARRAY[which], ARRAY[lease_]) IS NULL;
    END IF;
    RETURN @schema@.settle(who, ARRAY[which], ARRAY[lease_], '{done}', '{0}', '{NULL}', '{NULL}',
        ARRAY[result], ARRAY[result_ttl]) IS NULL;
END $$;

-- Forget up to `most` expired results; callers forget more than they add, so results never pile up.
CREATE OR REPLACE FUNCTION @schema@.forget_results(most integer) RETURNS void
LANGUAGE sql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
    DELETE FROM @schema@.result WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM @schema@.result WHERE expires <= clock_timestamp()
        ORDER BY expires LIMIT most FOR UPDATE SKIP LOCKED))
$$;

-- Delete a message that has not started, and keep `result`, if any; returns whether it did so.
CREATE OR REPLACE FUNCTION @schema@.cancel(
    queue_name text, message_id text, result bytea, result_ttl double precision
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    queue_ integer;
    number_ bigint;
BEGIN
    PERFORM @schema@.give_back_lapsed();
    SELECT m.queue, m.number INTO queue_, number_
        FROM @schema@.queue q JOIN @schema@.message m ON m.queue = q.number
        WHERE q.name = queue_name AND m.id = message_id;
    IF number_ IS NULL OR NOT @schema@.take_back(number_) THEN
        RETURN false;
    END IF;
    DELETE FROM @schema@.message WHERE number = number_;
    IF result IS NOT NULL THEN
        INSERT INTO @schema@.result (queue, id, body, expires) VALUES (queue_, message_id, result,
            clock_timestamp() + make_interval(secs => least(result_ttl, 1e10)))
        ON CONFLICT (queue, id) DO UPDATE SET body = excluded.body, expires = excluded.expires;
    END IF;
    RETURN true;
END $$;

-- Delete up to `at_once` waiting or delayed messages of a queue; returns how many.
CREATE OR REPLACE FUNCTION @schema@.purge_some(queue_name text, at_once integer) RETURNS bigint
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    deleted bigint;
BEGIN
    PERFORM @schema@.give_back_lapsed();
    WITH part AS MATERIALIZED (
        SELECT p.ctid AS at, p.message
        FROM @schema@.queue q JOIN @schema@.lane l ON l.queue = q.number
        JOIN @schema@.pending p ON p.lane BETWEEN l.number * 8 AND l.number * 8 + 7
        WHERE q.name = queue_name AND (p.line IS NULL OR p.lane % 8 >= 3)
        LIMIT at_once
        FOR UPDATE OF p SKIP LOCKED
    ), gone AS (
        DELETE FROM @schema@.pending WHERE ctid = ANY (ARRAY(SELECT part.at FROM part))
    ), in_line AS MATERIALIZED (
        SELECT s.ctid AS at, s.message, s.line, q.number AS queue
        FROM @schema@.queue q JOIN @schema@.line l ON l.queue = q.number
        JOIN @schema@.standing s ON s.line = l.number
        WHERE q.name = queue_name
        LIMIT at_once
        FOR UPDATE OF s SKIP LOCKED
    ), left_ AS (
        DELETE FROM @schema@.standing WHERE ctid = ANY (ARRAY(SELECT in_line.at FROM in_line))
    ), told AS (
        INSERT INTO @schema@.signal (queue, line) SELECT DISTINCT queue, line FROM in_line
    ), forgotten AS (
        DELETE FROM @schema@.message m
        USING (SELECT message FROM part UNION ALL SELECT message FROM in_line) AS g
        WHERE m.number = g.message
        RETURNING 1
    )
    SELECT count(*) INTO deleted FROM forgotten;
    RETURN deleted;
END $$;

-- Delete up to `most` dead letters: those with these ids, or if null, any; returns how many.
CREATE OR REPLACE FUNCTION @schema@.purge_dead_some(queue_name text, ids text[], most integer)
RETURNS bigint
LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM @schema@.dead WHERE message = ANY (ARRAY(
            SELECT d.message
            FROM @schema@.queue q
            JOIN @schema@.dead d ON d.queue = q.number
            JOIN @schema@.message m ON m.number = d.message
            WHERE q.name = queue_name AND (ids IS NULL OR m.id = ANY (ids))
            ORDER BY d.message LIMIT most FOR UPDATE OF d))
        RETURNING message
    ), forgotten AS (
        DELETE FROM @schema@.message m USING gone WHERE m.number = gone.message
    )
    SELECT count(*) FROM gone
$$;

-- Move dead letters back to waiting, each with a new body; returns how many.
CREATE OR REPLACE FUNCTION @schema@.retry_dead(queue_name text, ids text[], bodies bytea[])
RETURNS bigint
LANGUAGE sql AS $$
    WITH given AS MATERIALIZED (
        SELECT DISTINCT ON (m.number) m.number, g.body
        FROM @schema@.queue q
        CROSS JOIN unnest(ids, bodies) AS g (id, body)
        JOIN @schema@.message m ON m.queue = q.number AND m.id = g.id
        WHERE q.name = queue_name
        ORDER BY m.number
    ), revived AS (
        DELETE FROM @schema@.dead d USING given WHERE d.message = given.number
        RETURNING d.message, d.lane, given.body
    ), changed AS (
        UPDATE @schema@.message m SET body = revived.body
        FROM revived WHERE m.number = revived.message
    ), back AS (
        INSERT INTO @schema@.pending (lane, place, message, deliveries, line)
        SELECT r.lane / 8 * 8 + CASE WHEN m.line IS NULL THEN 2 ELSE 4 END, r.message, r.message, 0,
            m.line
        FROM revived r JOIN @schema@.message m ON m.number = r.message
    )
    SELECT count(*) FROM revived
$$;

-- Notify those who wait on a topic; called after the commit of what they wait for. Nothing is written
-- when nobody does, and nothing waits for the disk.
CREATE OR REPLACE FUNCTION @schema@.wake(changed text[]) RETURNS void
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    awaited text[];
BEGIN
    SELECT array_agg(DISTINCT topic) INTO awaited
        FROM @schema@.listener, unnest(topics) AS topic
        WHERE until > clock_timestamp() AND topic = ANY (changed);
    IF awaited IS NOT NULL THEN
        PERFORM set_config('synchronous_commit', 'off', true);
        PERFORM pg_notify('@name@', topic) FROM unnest(awaited) AS topic;
    END IF;
END $$;

-- Note that a listener waits for these topics, for so many seconds.
CREATE OR REPLACE FUNCTION @schema@.listen(listener_id text, topics_ text[], seconds double precision)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO @schema@.listener (id, topics, until)
    VALUES (listener_id, topics_, clock_timestamp() + make_interval(secs => seconds))
    ON CONFLICT (id) DO UPDATE SET topics = excluded.topics, until = excluded.until;
END $$;

-- Take or renew a named lease; returns whether `who` has it.
CREATE OR REPLACE FUNCTION @schema@.lead(name_ text, who text, seconds double precision)
RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    now_ timestamptz := clock_timestamp();
BEGIN
    INSERT INTO @schema@.lead AS l VALUES (name_, who, now_ + make_interval(secs => seconds))
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE l.holder = who OR l.until <= now_;
    RETURN FOUND;
END $$;

-- Whether queues hold nothing but dead letters and paused messages.
CREATE OR REPLACE FUNCTION @schema@.is_idle(queues text[]) RETURNS boolean
LANGUAGE sql
SET jit = off SET enable_seqscan = off
AS $$
    SELECT NOT EXISTS (
        SELECT FROM @schema@.queue q JOIN @schema@.lane l ON l.queue = q.number,
        LATERAL (SELECT FROM @schema@.pending p
            WHERE p.lane BETWEEN l.number * 8 AND l.number * 8 + 7
                AND (p.line IS NULL OR p.lane % 8 >= 3)
                AND p.place < @schema@.parked_until(0) LIMIT 1) AS first
        WHERE q.name = ANY (queues) AND NOT @schema@.is_held(q.name)
    ) AND NOT EXISTS (
        SELECT FROM @schema@.queue q JOIN @schema@.line l ON l.queue = q.number
        JOIN @schema@.standing s ON s.line = l.number
        WHERE q.name = ANY (queues) AND NOT @schema@.is_held(q.name)
    ) AND NOT EXISTS (
        SELECT FROM @schema@.running r JOIN @schema@.lane l ON l.number = r.lane / 8
        JOIN @schema@.queue q ON q.number = l.queue
        WHERE q.name = ANY (queues))
$$;

-- Keep a value, for `ttl_seconds` if given, or delete it if it is null. Also forgets a few expired
-- values.
CREATE OR REPLACE FUNCTION @schema@.set_value(
    queue_ text, kind_ text, name_ text, value_ bytea, ttl_seconds double precision
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF value_ IS NULL THEN
        DELETE FROM @schema@.value WHERE queue = queue_ AND kind = kind_ AND name = name_;
    ELSE
        INSERT INTO @schema@.value (queue, kind, name, value, expires)
        VALUES (queue_, kind_, name_, value_,
            clock_timestamp() + CASE WHEN ttl_seconds IS NOT NULL THEN make_interval(secs => least(ttl_seconds, 1e10)) END)
        ON CONFLICT (queue, kind, name) DO UPDATE
            SET value = excluded.value, expires = excluded.expires;
    END IF;
    DELETE FROM @schema@.value WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM @schema@.value WHERE expires <= clock_timestamp()
        LIMIT 10 FOR UPDATE SKIP LOCKED));
END $$;

-- Replace a value and put messages if the current value is `expected`, null for none; returns whether
-- it was.
CREATE OR REPLACE FUNCTION @schema@.replace_value(
    queue_ text, kind_ text, name_ text, value_ bytea, expected bytea,
    ids text[], bodies bytea[], dues double precision[], priorities smallint[],
    unique_keys text[], untils_started boolean[], lasts_seconds double precision[],
    replacing boolean[], limit_keys text[], mosts integer[], rate_keys text[],
    intervals double precision[], bursts integer[]
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    is_expected boolean;
BEGIN
    -- Others replacing this value wait here, and then see what this call did.
    PERFORM pg_advisory_xact_lock(hashtextextended(
        '@name@' || chr(31) || queue_ || chr(31) || kind_ || chr(31) || name_, 0));
    SELECT v.value IS NOT DISTINCT FROM expected INTO is_expected
        FROM (SELECT) AS one LEFT JOIN @schema@.value v
            ON v.queue = queue_ AND v.kind = kind_ AND v.name = name_
            AND (v.expires IS NULL OR v.expires > clock_timestamp());
    IF NOT is_expected THEN
        RETURN false;
    END IF;
    PERFORM @schema@.set_value(queue_, kind_, name_, value_, NULL);
    IF cardinality(ids) > 0 THEN
        PERFORM @schema@.put_policed(
            array_fill(queue_, ARRAY[cardinality(ids)]), ids, bodies, dues, priorities,
            unique_keys, untils_started, lasts_seconds, replacing, limit_keys, mosts, rate_keys,
            intervals, bursts);
    END IF;
    RETURN true;
END $$;
