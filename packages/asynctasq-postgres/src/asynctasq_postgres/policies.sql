-- What lets messages with a policy pass.
--
-- Whoever adds or ends such a message only leaves mail: the message in a lane of its kind (3, 4, 5), or
-- a row of `signal`. All that is decided, a take decides, one at a time (the lock below), so that
-- counts are right, and nobody else ever waits for it: not a sender in his transaction, not a
-- settlement. A take sorts the mail into lines, in `standing`; the first of each line that may be able
-- to run has a ticket among the messages that everybody takes from; and whoever takes that ticket lets
-- the line run as far as limit and rate allow, or parks it, until the end of another message of the
-- limit or the time of the rate gives it a ticket again.

-- `LIMIT` and `OFFSET 0` keep the planner from going through all lines where some are to be looked up,
-- which it does to save itself a sort.
--
-- One take sorts up to 20,000 messages, which takes it a part of a second; only after so many were put
-- while nobody took.

CREATE OR REPLACE FUNCTION @schema@.lock_lines() RETURNS void
LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('asynctasq lines @name@', 0))
$$;

-- Sort the mail of queues, and give tickets to what it lets go on. Returns whether there may be any
-- tickets; then this transaction holds the lock.
CREATE OR REPLACE FUNCTION @schema@.admit(numbers integer[], most integer) RETURNS boolean
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    now_us bigint := @schema@.microseconds(clock_timestamp());
    touched integer[];
    returned integer[];
    signalled integer[];
BEGIN
    IF NOT @schema@.has_mail(numbers) AND NOT EXISTS (
        SELECT FROM @schema@.line WHERE queue = ANY (numbers) AND state = 1)
    THEN
        RETURN false;
    END IF;
    PERFORM @schema@.lock_lines();
    WITH arrived AS MATERIALIZED (
        SELECT p.*, l.number AS base, l.priority, kind
        FROM @schema@.lane l CROSS JOIN unnest('{3,5,4}'::integer[]) AS kind
        CROSS JOIN LATERAL (
            SELECT ctid AS at, line, place, message, deliveries, counted FROM @schema@.pending
            WHERE lane = l.number * 8 + kind
                AND place <= CASE WHEN kind = 5 THEN now_us ELSE 9223372036854775807 END
            ORDER BY lane, place, message LIMIT 20000 FOR UPDATE SKIP LOCKED
        ) AS p
        WHERE l.queue = ANY (numbers)
        LIMIT 20000
    ), gone AS (
        DELETE FROM @schema@.pending WHERE ctid = ANY (ARRAY(SELECT arrived.at FROM arrived))
    ), placed AS (
        INSERT INTO @schema@.standing (line, rank, place, message, deliveries, lane, counted)
        SELECT line, -2 * priority + CASE WHEN kind = 3 THEN 0 ELSE 1 END,
            CASE WHEN kind = 5 THEN nextval('@schema@.message_number') ELSE message END,
            message, deliveries, base, counted
        FROM (SELECT * FROM arrived ORDER BY kind = 4, place, message) AS in_order
        RETURNING line, rank
    )
    SELECT array_agg(DISTINCT line), array_agg(DISTINCT line) FILTER (WHERE rank % 2 = 0)
        INTO touched, returned FROM placed;
    WITH read AS (
        DELETE FROM @schema@.signal WHERE queue = ANY (numbers) RETURNING line
    )
    SELECT array_agg(DISTINCT line) INTO signalled FROM read;
    PERFORM @schema@.give_tickets(ARRAY(
        SELECT number FROM @schema@.line
        -- What was given back may go on where its rate holds others up.
        WHERE number = ANY (touched) AND (state < 2 OR number = ANY (returned))));
    IF signalled IS NOT NULL THEN
        PERFORM @schema@.look_again(signalled);
    END IF;
    PERFORM @schema@.open_rates(numbers, most);
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION @schema@.has_mail(numbers integer[]) RETURNS boolean
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
    now_us bigint := @schema@.microseconds(clock_timestamp());
BEGIN
    RETURN EXISTS (SELECT FROM @schema@.signal WHERE queue = ANY (numbers))
        OR EXISTS (SELECT FROM @schema@.rate WHERE queue = ANY (numbers) AND opens <= now_us)
        OR EXISTS (
            SELECT FROM @schema@.lane l CROSS JOIN generate_series(3, 5) AS kind,
            LATERAL (SELECT FROM @schema@.pending
                WHERE lane = l.number * 8 + kind
                    AND place <= CASE WHEN kind = 5 THEN now_us ELSE 9223372036854775807 END
                LIMIT 1) AS first
            WHERE l.queue = ANY (numbers));
END $$;

-- Put the first of each of these lines among the messages that everybody takes from, unless it is there.
CREATE OR REPLACE FUNCTION @schema@.give_tickets(which integer[]) RETURNS void
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    IF cardinality(which) = 0 THEN
        RETURN;
    END IF;
    WITH first AS MATERIALIZED (
        SELECT given.line, s.* FROM unnest(which) AS given (line)
        LEFT JOIN LATERAL (
            SELECT rank, place, message, deliveries, lane FROM @schema@.standing
            WHERE line = given.line ORDER BY line, rank, place, message LIMIT 1
        ) AS s ON true
    ), ticketed AS (
        INSERT INTO @schema@.pending (lane, place, message, deliveries, line)
        SELECT lane * 8 + CASE WHEN rank % 2 = 0 THEN 0 ELSE 2 END, place, message, deliveries, line
        FROM first WHERE message IS NOT NULL
        ON CONFLICT (message) DO NOTHING
    )
    UPDATE @schema@.line l SET state = CASE WHEN first.message IS NULL THEN 0 ELSE 1 END
        FROM first WHERE l.number = first.line
            AND l.state <> CASE WHEN first.message IS NULL THEN 0 ELSE 1 END;
END $$;

-- Something of these lines has ended or gone: see what may go on instead, and forget lines without
-- messages. A line in state 1 has its ticket.
CREATE OR REPLACE FUNCTION @schema@.look_again(which integer[]) RETURNS void
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    PERFORM @schema@.give_tickets(ARRAY(
        SELECT l.number FROM @schema@.line l WHERE l.number = ANY (which) AND (l.state = 0
            OR l.state > 1 AND NOT EXISTS (
                SELECT FROM @schema@.standing s WHERE s.line = l.number))));
    PERFORM @schema@.give_tickets(ARRAY(
        SELECT next.number FROM (
            SELECT DISTINCT l.queue, l.limit_key FROM (
                SELECT queue, limit_key FROM @schema@.line
                WHERE number = ANY (which) AND most > 0 OFFSET 0
            ) AS l
            WHERE (
                SELECT x.number FROM @schema@.line x
                WHERE x.queue = l.queue AND x.limit_key = l.limit_key AND x.most > 0
                    AND x.state = 2 LIMIT 1) IS NOT NULL
        ) AS k CROSS JOIN LATERAL (
            SELECT x.number
            FROM @schema@.line x, LATERAL (
                SELECT rank, place FROM @schema@.standing s WHERE s.line = x.number
                ORDER BY s.line, s.rank, s.place LIMIT 1) AS first
            WHERE x.queue = k.queue AND x.limit_key = k.limit_key AND x.most > 0 AND x.state = 2
            ORDER BY first.rank, first.place
            LIMIT greatest(0, (
                SELECT max(y.most) FROM @schema@.line y
                WHERE y.queue = k.queue AND y.limit_key = k.limit_key AND y.most > 0
            ) - (
                SELECT sum((SELECT count(*) FROM @schema@.running r WHERE r.line = y.number))
                FROM @schema@.line y
                WHERE y.queue = k.queue AND y.limit_key = k.limit_key AND y.most > 0))
        ) AS next));
    PERFORM @schema@.set_openings(l.queue, array_agg(DISTINCT l.rate_key))
        FROM (
            SELECT queue, rate_key FROM @schema@.line
            WHERE number = ANY (which) AND burst > 0 OFFSET 0
        ) AS l GROUP BY l.queue;
    -- A sender that is about to use a line holds its row, and what he has added is seen after that.
    which := ARRAY(
        SELECT number FROM @schema@.line WHERE number = ANY (which) AND state = 0
        FOR UPDATE SKIP LOCKED);
    IF cardinality(which) > 0 THEN
        DELETE FROM @schema@.line l WHERE l.number = ANY (which)
            AND NOT EXISTS (SELECT FROM @schema@.message m WHERE m.line = l.number);
    END IF;
END $$;

-- Give tickets to lines that wait for a rate which is open: the first ones of each rate.
CREATE OR REPLACE FUNCTION @schema@.open_rates(numbers integer[], most_ integer) RETURNS void
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    now_us bigint := @schema@.microseconds(clock_timestamp());
    one record;
BEGIN
    FOR one IN
        SELECT queue, array_agg(key) AS keys FROM @schema@.rate
        WHERE queue = ANY (numbers) AND opens <= now_us GROUP BY queue
    LOOP
        PERFORM @schema@.give_tickets(ARRAY(
            SELECT waiting.number FROM (
                SELECT x.number,
                    row_number() OVER in_order AS turn,
                    first_value(floor((now_us - r.tat) / x.interval_us + x.burst)) OVER in_order
                        AS passing
                FROM (
                    SELECT key, tat FROM @schema@.rate
                    WHERE queue = one.queue AND key = ANY (one.keys) OFFSET 0
                ) AS r,
                LATERAL (
                    SELECT number, interval_us, burst FROM @schema@.line
                    WHERE queue = one.queue AND rate_key = r.key AND burst > 0 AND state = 3 OFFSET 0
                ) AS x,
                LATERAL (SELECT rank, place FROM @schema@.standing s WHERE s.line = x.number
                    ORDER BY s.line, s.rank, s.place LIMIT 1) AS first
                WHERE now_us >= r.tat - (x.burst - 1) * x.interval_us
                WINDOW in_order AS (PARTITION BY r.key ORDER BY first.rank, first.place)
            ) AS waiting
            WHERE waiting.turn <= least(waiting.passing, most_)));
        PERFORM @schema@.set_openings(one.queue, one.keys);
    END LOOP;
END $$;

-- Say when the first of the lines that wait for each of these rates may go on; rates without effect are
-- forgotten.
CREATE OR REPLACE FUNCTION @schema@.set_openings(queue_ integer, keys text[]) RETURNS void
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
BEGIN
    UPDATE @schema@.rate r SET opens = found.opens
        FROM unnest(keys) AS given (key), LATERAL (
            SELECT ceil(min(n.tat - (x.burst - 1) * x.interval_us))::bigint AS opens
            FROM @schema@.rate n JOIN @schema@.line x
                ON x.queue = queue_ AND x.rate_key = n.key AND x.burst > 0 AND x.state = 3
            WHERE n.queue = queue_ AND n.key = given.key
        ) AS found
    WHERE r.queue = queue_ AND r.key = given.key AND r.opens IS DISTINCT FROM found.opens;
    DELETE FROM @schema@.rate WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM @schema@.rate
        WHERE opens IS NULL AND tat <= @schema@.microseconds(clock_timestamp())
        LIMIT 10 * cardinality(keys)));
END $$;

-- Let lines whose tickets were taken run as far as limit and rate allow: one message for each ticket,
-- and `spare` more, which go to the first lines. Returns what is to run, as `take` does.
CREATE OR REPLACE FUNCTION @schema@.run_lines(
    lines integer[], lanes integer[], turns bigint[], places bigint[], spare bigint,
    taker integer, lease_ bigint, confirms boolean
) RETURNS TABLE (
    queue text, id text, body bytea, deliveries integer, message bigint, lease bigint,
    lane integer, turn bigint, place bigint, line integer
)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    now_ timestamptz := clock_timestamp();
    now_us bigint := @schema@.microseconds(now_);
    l record;
    s record;
    room bigint;
    ran bigint;
    parked smallint;
    -- By number of the limit, and of the rate; of rates, only those to be written have a key.
    held bigint[];
    tats double precision[];
    rate_queues integer[];
    rate_keys text[];
    started bigint[] := '{}';
    tickets integer[] := '{}';
    counts integer[] := '{}';
    going_on integer[] := '{}';
    limited integer[] := '{}';
    rated integer[] := '{}';
BEGIN
    -- One line after the other, since they may share limits and rates, but few statements for each:
    -- what follows is written for all at once.
    FOR l IN
        SELECT x.*, given.ticket, given.count,
            dense_rank() OVER (ORDER BY x.queue, x.limit_key) AS limit_number,
            dense_rank() OVER (ORDER BY x.queue, x.rate_key) AS rate_number,
            CASE WHEN x.most > 0 THEN (
                SELECT sum((SELECT count(*) FROM @schema@.running r WHERE r.line = y.number))
                FROM @schema@.line y
                WHERE y.queue = x.queue AND y.limit_key = x.limit_key AND y.most > 0) END AS held,
            CASE WHEN x.burst > 0 THEN (
                SELECT tat FROM @schema@.rate
                WHERE queue = x.queue AND key = x.rate_key) END AS tat
        FROM (
            SELECT line, min(ticket) AS ticket, count(*) AS count
            FROM unnest(lines) WITH ORDINALITY AS e (line, ticket) GROUP BY line
        ) AS given
        CROSS JOIN LATERAL (SELECT * FROM @schema@.line WHERE number = given.line LIMIT 1) AS x
        ORDER BY given.ticket
    LOOP
        IF l.most > 0 AND held[l.limit_number] IS NULL THEN
            held[l.limit_number] := l.held;
        END IF;
        IF l.burst > 0 AND tats[l.rate_number] IS NULL THEN
            tats[l.rate_number] := greatest(now_us, l.tat);
        END IF;
        room := greatest(0, spare) + l.count;
        ran := 0;
        parked := 0;
        FOR s IN
            SELECT message, deliveries, counted FROM @schema@.standing WHERE line = l.number
            ORDER BY line, rank, place, message LIMIT room + 1
        LOOP
            EXIT WHEN ran = room;
            IF l.most > 0 AND held[l.limit_number] >= l.most THEN
                parked := 2;
                EXIT;
            END IF;
            IF l.burst > 0 AND NOT s.counted THEN
                rate_queues[l.rate_number] := l.queue;
                rate_keys[l.rate_number] := l.rate_key;
                IF now_us < tats[l.rate_number] - (l.burst - 1) * l.interval_us THEN
                    parked := 3;
                    EXIT;
                END IF;
                tats[l.rate_number] := tats[l.rate_number] + l.interval_us;
            END IF;
            IF l.most > 0 THEN
                held[l.limit_number] := held[l.limit_number] + 1;
            END IF;
            ran := ran + 1;
            started := started || s.message;
            tickets := tickets || l.ticket::integer;
            counts := counts || s.deliveries + 1;
        END LOOP;
        spare := spare + l.count - ran;
        IF parked = 2 THEN
            limited := limited || l.number;
        ELSIF parked = 3 THEN
            rated := rated || l.number;
        ELSE
            going_on := going_on || l.number;
        END IF;
    END LOOP;

    -- One that is cancelled meanwhile is not there.
    WITH gone AS (
        DELETE FROM @schema@.standing WHERE message = ANY (started)
        RETURNING message, deliveries, lane, line
    )
    INSERT INTO @schema@.running (worker, message, lease, lane, deliveries, taken_at, line)
        SELECT taker, message, lease_, lane * 8 + 2,
            CASE WHEN confirms THEN greatest(1, deliveries) ELSE deliveries + 1 END, now_, line
        FROM gone;
    -- One of them may have had a ticket that was not taken.
    DELETE FROM @schema@.pending WHERE message = ANY (started);
    UPDATE @schema@.line SET state = CASE WHEN number = ANY (limited) THEN 2 ELSE 3 END
        WHERE number = ANY (limited || rated);
    PERFORM @schema@.give_tickets(going_on);
    IF rate_keys IS NOT NULL THEN
        INSERT INTO @schema@.rate (queue, key, tat, opens)
        SELECT given.queue, given.key, given.tat, (
            SELECT ceil(min(given.tat - (x.burst - 1) * x.interval_us)) FROM @schema@.line x
            WHERE x.queue = given.queue AND x.rate_key = given.key AND x.burst > 0 AND x.state = 3)
        FROM unnest(rate_queues, rate_keys, tats) AS given (queue, key, tat)
        WHERE given.key IS NOT NULL
        ON CONFLICT (queue, key) DO UPDATE SET tat = excluded.tat, opens = excluded.opens;
        -- They do not use their places of their limits, which other lines may.
        INSERT INTO @schema@.signal (queue, line)
            SELECT queue, number FROM @schema@.line WHERE number = ANY (rated) AND most > 0;
    END IF;
    RETURN QUERY
        SELECT q.name, m.id, m.body, given.count, m.number, lease_, lanes[given.ticket],
            turns[given.ticket], places[given.ticket], m.line
        FROM unnest(started, tickets, counts) WITH ORDINALITY AS given (message, ticket, count, turn)
        JOIN @schema@.message m ON m.number = given.message
        JOIN @schema@.queue q ON q.number = m.queue
        ORDER BY given.turn;
END $$;

-- Add messages of which some have a policy; returns those that were not added, as their key is taken,
-- each with the id of the message that has it.
CREATE OR REPLACE FUNCTION @schema@.put_policed(
    queues text[], ids text[], bodies bytea[], dues double precision[], priorities smallint[],
    unique_keys text[], untils_started boolean[], lasts_seconds double precision[],
    replacing boolean[], limit_keys text[], mosts integer[], rate_keys text[],
    intervals double precision[], bursts integer[]
) RETURNS TABLE (id text, holder text)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    one record;
    refused bigint[] := '{}';
    lines integer[];
BEGIN
    IF EXISTS (
        SELECT FROM unnest(queues, priorities) AS given (name, priority)
        LEFT JOIN @schema@.queue q ON q.name = given.name
        LEFT JOIN @schema@.lane l ON l.queue = q.number AND l.priority = given.priority
        WHERE l.number IS NULL)
    THEN
        PERFORM @schema@.declare(queues, priorities);
    END IF;
    UPDATE @schema@.queue SET policed = true WHERE NOT policed AND name IN (
        SELECT given.name FROM unnest(queues, unique_keys, limit_keys, rate_keys)
            AS given (name, unique_key, limit_key, rate_key)
        WHERE coalesce(given.unique_key, given.limit_key, given.rate_key) IS NOT NULL);
    IF array_remove(unique_keys, NULL) <> '{}' THEN
        FOR one IN SELECT * FROM @schema@.take_keys(
            queues, ids, unique_keys, untils_started, lasts_seconds, replacing)
        LOOP
            refused := refused || one.turn;
            id := one.id;
            holder := one.holder;
            RETURN NEXT;
        END LOOP;
    END IF;
    IF cardinality(refused) > 0 THEN
        SELECT array_agg(g.q ORDER BY turn), array_agg(g.i ORDER BY turn),
            array_agg(g.b ORDER BY turn), array_agg(g.d ORDER BY turn),
            array_agg(g.p ORDER BY turn), array_agg(g.u ORDER BY turn),
            array_agg(g.s ORDER BY turn), array_agg(g.lk ORDER BY turn),
            array_agg(g.m ORDER BY turn), array_agg(g.rk ORDER BY turn),
            array_agg(g.iv ORDER BY turn), array_agg(g.bu ORDER BY turn)
        INTO queues, ids, bodies, dues, priorities, unique_keys, untils_started,
            limit_keys, mosts, rate_keys, intervals, bursts
        FROM unnest(queues, ids, bodies, dues, priorities, unique_keys, untils_started,
            limit_keys, mosts, rate_keys, intervals, bursts)
            WITH ORDINALITY AS g (q, i, b, d, p, u, s, lk, m, rk, iv, bu, turn)
        WHERE NOT turn = ANY (refused);
    END IF;
    IF cardinality(ids) > 0 THEN
        IF array_remove(limit_keys || rate_keys, NULL) <> '{}' THEN
            lines := @schema@.lines_of(queues, limit_keys, mosts, rate_keys, intervals, bursts);
        END IF;
        PERFORM @schema@.put(
            queues, ids, bodies, dues, priorities, lines, unique_keys, untils_started);
    END IF;
END $$;

-- Take the unique keys of messages; returns those messages that are not to be added, as `put_policed`,
-- with their turns. A message that is known is left as it is, unless it is the one to be replaced.
CREATE OR REPLACE FUNCTION @schema@.take_keys(
    queues text[], ids text[], unique_keys text[], untils_started boolean[],
    lasts_seconds double precision[], replacing boolean[]
) RETURNS TABLE (turn bigint, id text, holder text)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    now_ timestamptz := clock_timestamp();
    one record;
    held bigint;
    holder_ text;
    refused integer[];
BEGIN
    -- By key, so that two who put several wait for each other in one order.
    IF NOT true = ANY (replacing) OR NOT EXISTS (
        SELECT FROM unnest(queues, ids, unique_keys, replacing) AS given (name, id, key, replaces)
        JOIN @schema@.queue q ON q.name = given.name
        WHERE given.replaces AND given.key IS NOT NULL AND (
            SELECT m.number FROM @schema@.message m
            WHERE m.queue = q.number AND m.id = given.id) IS NOT NULL)
    THEN
        WITH given AS MATERIALIZED (
            SELECT q.number AS queue, g.* FROM unnest(
                queues, ids, unique_keys, untils_started, lasts_seconds
            ) WITH ORDINALITY AS g (name, id, key, until_started, lasts, turn)
            JOIN @schema@.queue q ON q.name = g.name
            -- Looked up one by one, which a join might not do.
            WHERE g.key IS NOT NULL AND (
                SELECT m.number FROM @schema@.message m
                WHERE m.queue = q.number AND m.id = g.id) IS NULL
        ), mine AS (
            INSERT INTO @schema@.taken AS t (queue, key, holder, until_started, expires)
            SELECT DISTINCT ON (queue, key) queue, key, id, until_started AND lasts IS NULL,
                now_ + CASE WHEN lasts IS NOT NULL
                    THEN make_interval(secs => least(lasts, 1e10)) END
            FROM given ORDER BY queue, key, turn
            ON CONFLICT (queue, key) DO UPDATE SET holder = excluded.holder,
                until_started = excluded.until_started, expires = excluded.expires
            WHERE t.expires <= now_
            RETURNING queue, key, holder
        )
        SELECT array_agg(turn) INTO refused FROM given
            WHERE (queue, key, id) NOT IN (SELECT queue, key, holder FROM mine);
        RETURN QUERY
            SELECT given.turn::bigint, ids[given.turn], coalesce(t.holder, ids[given.turn])
            FROM unnest(refused) AS given (turn)
            JOIN @schema@.queue q ON q.name = queues[given.turn]
            LEFT JOIN @schema@.taken t
                ON t.queue = q.number AND t.key = unique_keys[given.turn];
    ELSE
        FOR one IN
            SELECT q.number AS queue, given.* FROM unnest(
                queues, ids, unique_keys, untils_started, lasts_seconds, replacing
            ) WITH ORDINALITY AS given (name, id, key, until_started, lasts, replaces, turn)
            JOIN @schema@.queue q ON q.name = given.name
            WHERE given.key IS NOT NULL
            ORDER BY q.number, given.key, given.turn
        LOOP
            SELECT number INTO held FROM @schema@.message m WHERE m.queue = one.queue AND m.id = one.id;
            IF held IS NOT NULL AND NOT one.replaces THEN
                CONTINUE; -- left as it is, and no conflict
            END IF;
            SELECT t.holder INTO holder_ FROM @schema@.taken t
                WHERE t.queue = one.queue AND t.key = one.key
                    AND (t.expires IS NULL OR t.expires > now_)
                FOR UPDATE;
            IF held IS NOT NULL THEN
                IF holder_ IS NOT DISTINCT FROM one.id AND @schema@.take_back(held) THEN
                    DELETE FROM @schema@.message m WHERE m.number = held;
                    DELETE FROM @schema@.taken t WHERE t.queue = one.queue AND t.key = one.key;
                ELSE
                    holder_ := coalesce(holder_, one.id);
                    turn := one.turn;
                    id := one.id;
                    holder := holder_;
                    RETURN NEXT;
                    CONTINUE;
                END IF;
            END IF;
            INSERT INTO @schema@.taken AS t (queue, key, holder, until_started, expires)
            VALUES (one.queue, one.key, one.id, one.until_started AND one.lasts IS NULL,
                now_ + CASE WHEN one.lasts IS NOT NULL
                    THEN make_interval(secs => least(one.lasts, 1e10)) END)
            ON CONFLICT (queue, key) DO UPDATE SET holder = excluded.holder,
                until_started = excluded.until_started, expires = excluded.expires
            WHERE t.expires <= now_;
            IF NOT FOUND THEN
                turn := one.turn;
                id := one.id;
                SELECT t.holder INTO holder FROM @schema@.taken t
                    WHERE t.queue = one.queue AND t.key = one.key;
                holder := coalesce(holder, one.id);
                RETURN NEXT;
            END IF;
        END LOOP;
    END IF;
    DELETE FROM @schema@.taken WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM @schema@.taken WHERE expires <= now_ LIMIT 10 FOR UPDATE SKIP LOCKED));
END $$;

-- The lines of messages, made where there is none; null for a message without limit and rate. Nobody
-- forgets them before this transaction ends.
CREATE OR REPLACE FUNCTION @schema@.lines_of(
    queues text[], limit_keys text[], mosts integer[], rate_keys text[],
    intervals double precision[], bursts integer[]
) RETURNS integer[]
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    are_known boolean;
BEGIN
    FOR attempt IN 1..5 LOOP
        SELECT bool_and(l.number IS NOT NULL) INTO are_known
        FROM (
            SELECT DISTINCT q.number AS queue, coalesce(g.limit_key, '') AS limit_key,
                coalesce(g.most, 0) AS most, coalesce(g.rate_key, '') AS rate_key,
                coalesce(g.interval, 0) * 1000000 AS interval_us, coalesce(g.burst, 0) AS burst
            FROM unnest(queues, limit_keys, mosts, rate_keys, intervals, bursts)
                AS g (name, limit_key, most, rate_key, interval, burst)
            JOIN @schema@.queue q ON q.name = g.name
            WHERE g.limit_key IS NOT NULL OR g.rate_key IS NOT NULL
        ) AS wanted
        LEFT JOIN LATERAL (
            SELECT l.number FROM @schema@.line l
            WHERE l.queue = wanted.queue AND l.limit_key = wanted.limit_key
                AND l.most = wanted.most AND l.rate_key = wanted.rate_key
                AND l.interval_us = wanted.interval_us AND l.burst = wanted.burst
            LIMIT 1 FOR KEY SHARE
        ) AS l ON true;
        EXIT WHEN are_known;
        INSERT INTO @schema@.line (queue, limit_key, most, rate_key, interval_us, burst, state)
        SELECT DISTINCT q.number, coalesce(g.limit_key, ''), coalesce(g.most, 0),
            coalesce(g.rate_key, ''), coalesce(g.interval, 0) * 1000000, coalesce(g.burst, 0), 0
        FROM unnest(queues, limit_keys, mosts, rate_keys, intervals, bursts)
            AS g (name, limit_key, most, rate_key, interval, burst)
        JOIN @schema@.queue q ON q.name = g.name
        WHERE g.limit_key IS NOT NULL OR g.rate_key IS NOT NULL
        ORDER BY 1, 2, 3, 4, 5, 6
        ON CONFLICT DO NOTHING;
    END LOOP;
    IF NOT are_known THEN
        RAISE EXCEPTION 'lines are not known' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN ARRAY(
        SELECT CASE WHEN g.limit_key IS NOT NULL OR g.rate_key IS NOT NULL THEN (
            SELECT l.number FROM @schema@.line l
            WHERE l.queue = q.number AND l.limit_key = coalesce(g.limit_key, '')
                AND l.most = coalesce(g.most, 0) AND l.rate_key = coalesce(g.rate_key, '')
                AND l.interval_us = coalesce(g.interval, 0) * 1000000
                AND l.burst = coalesce(g.burst, 0)) END
        FROM unnest(queues, limit_keys, mosts, rate_keys, intervals, bursts)
            WITH ORDINALITY AS g (name, limit_key, most, rate_key, interval, burst, turn)
        JOIN @schema@.queue q ON q.name = g.name
        ORDER BY g.turn);
END $$;

-- Take a message out that waits or is delayed, whatever it waits for; whether it did. The ticket of one
-- that stands in a line stays where it is: whoever takes it finds the next.
CREATE OR REPLACE FUNCTION @schema@.take_back(which bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM @schema@.pending
        WHERE message = which AND (line IS NULL OR lane % 8 >= 3);
    IF FOUND THEN
        RETURN true;
    END IF;
    WITH gone AS (
        DELETE FROM @schema@.standing WHERE message = which RETURNING line
    )
    INSERT INTO @schema@.signal (queue, line)
        SELECT l.queue, l.number FROM gone JOIN @schema@.line l ON l.number = gone.line;
    RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION @schema@.free_key() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM @schema@.taken WHERE queue = OLD.queue AND key = OLD.unique_key
        AND holder = OLD.id AND expires IS NULL;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION @schema@.tell_line() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO @schema@.signal (queue, line)
        SELECT queue, number FROM @schema@.line WHERE number = OLD.line;
    RETURN NULL;
END $$;

-- Only for messages with a policy: a trigger that does not apply costs some tenths of a microsecond.
DROP TRIGGER IF EXISTS free_key ON @schema@.message;
CREATE TRIGGER free_key AFTER DELETE ON @schema@.message FOR EACH ROW
    WHEN (OLD.unique_key IS NOT NULL) EXECUTE FUNCTION @schema@.free_key();
DROP TRIGGER IF EXISTS tell_line ON @schema@.running;
CREATE TRIGGER tell_line AFTER DELETE ON @schema@.running FOR EACH ROW
    WHEN (OLD.line IS NOT NULL) EXECUTE FUNCTION @schema@.tell_line();
