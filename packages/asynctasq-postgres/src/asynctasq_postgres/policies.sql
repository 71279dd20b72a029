-- What lets messages with a policy pass.
--
-- Whoever adds or ends such a message only leaves mail: the message in a lane of its kind (3, 4, 5), or
-- a row of `signal`. All that is decided, a take decides, one at a time (the lock below), so that
-- counts are right, and nobody else ever waits for it: not a sender in his transaction, not a
-- settlement. A take sorts the mail into lines, in `standing`; the first of each line that may be able
-- to run has a ticket among the messages that everybody takes from; and whoever takes that ticket lets
-- the line run as far as limit and rate allow, or parks it, until the end of another message of the
-- limit or the time of the rate gives it a ticket again.

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
    one record;
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
    FOR one IN
        SELECT number FROM @schema@.line
        -- What was given back may go on where its rate holds others up.
        WHERE number = ANY (touched) AND (state < 2 OR number = ANY (returned)) ORDER BY number
    LOOP
        PERFORM @schema@.give_ticket(one.number);
    END LOOP;
    FOR one IN SELECT unnest(signalled) AS number ORDER BY 1 LOOP
        PERFORM @schema@.look_again(one.number);
    END LOOP;
    FOR one IN
        SELECT queue, key FROM @schema@.rate WHERE queue = ANY (numbers) AND opens <= now_us
    LOOP
        PERFORM @schema@.open_rate(one.queue, one.key, most);
    END LOOP;
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

-- Put the first of a line among the messages that everybody takes from, unless it is there.
CREATE OR REPLACE FUNCTION @schema@.give_ticket(which integer) RETURNS void
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
DECLARE
    first @schema@.standing%ROWTYPE;
BEGIN
    SELECT * INTO first FROM @schema@.standing WHERE line = which
        ORDER BY line, rank, place, message LIMIT 1;
    IF FOUND THEN
        INSERT INTO @schema@.pending (lane, place, message, deliveries, line)
        VALUES (first.lane * 8 + CASE WHEN first.rank % 2 = 0 THEN 0 ELSE 2 END,
            first.place, first.message, first.deliveries, which)
        ON CONFLICT (message) DO NOTHING;
    END IF;
    UPDATE @schema@.line SET state = CASE WHEN first.message IS NULL THEN 0 ELSE 1 END
        WHERE number = which;
END $$;

-- Something of a line has ended or gone: see what may go on instead, and forget a line without messages.
CREATE OR REPLACE FUNCTION @schema@.look_again(which integer) RETURNS void
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    l @schema@.line%ROWTYPE;
    one record;
BEGIN
    SELECT * INTO l FROM @schema@.line WHERE number = which;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF l.state < 2 OR NOT EXISTS (SELECT FROM @schema@.standing WHERE line = which) THEN
        PERFORM @schema@.give_ticket(which);
    END IF;
    IF l.most > 0 THEN
        FOR one IN
            SELECT x.number
            FROM @schema@.line x, LATERAL (
                SELECT rank, place FROM @schema@.standing s WHERE s.line = x.number
                ORDER BY s.line, s.rank, s.place LIMIT 1) AS first
            WHERE x.queue = l.queue AND x.limit_key = l.limit_key AND x.most > 0 AND x.state = 2
            ORDER BY first.rank, first.place
            LIMIT greatest(0, @schema@.most_of(l.queue, l.limit_key)
                - @schema@.running_of(l.queue, l.limit_key))
        LOOP
            PERFORM @schema@.give_ticket(one.number);
        END LOOP;
    END IF;
    IF l.burst > 0 THEN
        PERFORM @schema@.set_opening(l.queue, l.rate_key);
    END IF;
    -- A sender that is about to use the line holds its row, and what he has added is seen after that.
    PERFORM FROM @schema@.line WHERE number = which AND state = 0 FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        DELETE FROM @schema@.line WHERE number = which
            AND NOT EXISTS (SELECT FROM @schema@.message m WHERE m.line = which);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION @schema@.running_of(queue_ integer, key_ text) RETURNS bigint
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    RETURN (SELECT count(*) FROM @schema@.line x JOIN @schema@.running r ON r.line = x.number
        WHERE x.queue = queue_ AND x.limit_key = key_ AND x.most > 0);
END $$;

CREATE OR REPLACE FUNCTION @schema@.most_of(queue_ integer, key_ text) RETURNS integer
LANGUAGE sql AS $$
    SELECT max(most) FROM @schema@.line WHERE queue = queue_ AND limit_key = key_ AND most > 0
$$;

-- Give tickets to the lines that wait for a rate that is open, the first ones first.
CREATE OR REPLACE FUNCTION @schema@.open_rate(queue_ integer, key_ text, most_ integer) RETURNS void
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    now_us bigint := @schema@.microseconds(clock_timestamp());
    one record;
    left_ bigint := NULL;
BEGIN
    FOR one IN
        SELECT x.number, 1 + floor((now_us - r.tat) / x.interval_us + x.burst - 1) AS passing
        FROM @schema@.rate r
        JOIN @schema@.line x ON x.queue = r.queue AND x.rate_key = r.key AND x.burst > 0,
        LATERAL (SELECT rank, place FROM @schema@.standing s WHERE s.line = x.number
            ORDER BY s.line, s.rank, s.place LIMIT 1) AS first
        WHERE r.queue = queue_ AND r.key = key_ AND x.state = 3
            AND now_us >= r.tat - (x.burst - 1) * x.interval_us
        ORDER BY first.rank, first.place
    LOOP
        left_ := coalesce(left_, least(one.passing, most_));
        EXIT WHEN left_ <= 0;
        PERFORM @schema@.give_ticket(one.number);
        left_ := left_ - 1;
    END LOOP;
    PERFORM @schema@.set_opening(queue_, key_);
END $$;

-- Say when the first of the lines that wait for a rate may go on; a rate without effect is forgotten.
CREATE OR REPLACE FUNCTION @schema@.set_opening(queue_ integer, key_ text) RETURNS void
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
BEGIN
    UPDATE @schema@.rate r SET opens = (
        SELECT ceil(min(r.tat - (x.burst - 1) * x.interval_us)) FROM @schema@.line x
        WHERE x.queue = queue_ AND x.rate_key = key_ AND x.burst > 0 AND x.state = 3)
    WHERE r.queue = queue_ AND r.key = key_;
    DELETE FROM @schema@.rate WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM @schema@.rate
        WHERE opens IS NULL AND tat <= @schema@.microseconds(clock_timestamp()) LIMIT 10));
END $$;

-- Let a line run as far as limit and rate allow, and at most `room` of it; returns what is to run.
CREATE OR REPLACE FUNCTION @schema@.run_line(
    which integer, room integer, taker integer, lease_ bigint, confirms boolean DEFAULT false)
RETURNS TABLE (message bigint, deliveries integer)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    now_ timestamptz := clock_timestamp();
    now_us bigint := @schema@.microseconds(now_);
    l @schema@.line%ROWTYPE;
    s @schema@.standing%ROWTYPE;
    held bigint := 0;
    tat_ double precision;
    parked smallint := NULL;
BEGIN
    SELECT * INTO l FROM @schema@.line WHERE number = which;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF l.most > 0 THEN
        held := @schema@.running_of(l.queue, l.limit_key);
    END IF;
    IF l.burst > 0 THEN
        SELECT tat INTO tat_ FROM @schema@.rate WHERE queue = l.queue AND key = l.rate_key;
        tat_ := coalesce(tat_, now_us);
    END IF;
    FOR s IN
        SELECT * FROM @schema@.standing WHERE line = which
        ORDER BY line, rank, place, message LIMIT room + 1
    LOOP
        IF room <= 0 THEN
            EXIT;
        ELSIF l.most > 0 AND held >= l.most THEN
            parked := 2;
            EXIT;
        ELSIF l.burst > 0 AND NOT s.counted AND now_us < tat_ - (l.burst - 1) * l.interval_us THEN
            parked := 3;
            EXIT;
        END IF;
        DELETE FROM @schema@.standing st WHERE st.message = s.message;
        CONTINUE WHEN NOT FOUND; -- cancelled meanwhile
        IF l.burst > 0 AND NOT s.counted THEN
            tat_ := greatest(now_us, tat_) + l.interval_us;
        END IF;
        INSERT INTO @schema@.running (worker, message, lease, lane, deliveries, taken_at, line)
        VALUES (taker, s.message, lease_, s.lane * 8 + 2,
            CASE WHEN confirms THEN greatest(1, s.deliveries) ELSE s.deliveries + 1 END, now_, which);
        held := held + 1;
        room := room - 1;
        message := s.message;
        deliveries := s.deliveries + 1;
        RETURN NEXT;
    END LOOP;
    IF l.burst > 0 THEN
        INSERT INTO @schema@.rate (queue, key, tat) VALUES (l.queue, l.rate_key, tat_)
        ON CONFLICT (queue, key) DO UPDATE SET tat = excluded.tat;
    END IF;
    IF parked IS NULL THEN
        PERFORM @schema@.give_ticket(which);
    ELSE
        UPDATE @schema@.line SET state = parked WHERE number = which;
    END IF;
    IF l.burst > 0 THEN
        PERFORM @schema@.set_opening(l.queue, l.rate_key);
        IF parked = 3 AND l.most > 0 THEN
            -- It does not use its place of the limit, which another line may.
            INSERT INTO @schema@.signal (queue, line) VALUES (l.queue, which);
        END IF;
    END IF;
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
    now_ timestamptz := clock_timestamp();
    one record;
    held bigint;
    holder_ text;
    is_mine boolean;
    refused bigint[] := '{}';
    lines integer[];
BEGIN
    PERFORM @schema@.declare(queues, priorities);
    UPDATE @schema@.queue SET policed = true WHERE NOT policed AND name IN (
        SELECT given.name FROM unnest(queues, unique_keys, limit_keys, rate_keys)
            AS given (name, unique_key, limit_key, rate_key)
        WHERE coalesce(given.unique_key, given.limit_key, given.rate_key) IS NOT NULL);
    -- By key, so that two who put several wait for each other in one order.
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
                refused := refused || one.turn;
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
            refused := refused || one.turn;
            id := one.id;
            SELECT t.holder INTO holder FROM @schema@.taken t
                WHERE t.queue = one.queue AND t.key = one.key;
            holder := coalesce(holder, one.id);
            RETURN NEXT;
        END IF;
    END LOOP;
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
        lines := @schema@.lines_of(queues, limit_keys, mosts, rate_keys, intervals, bursts);
        PERFORM @schema@.put(
            queues, ids, bodies, dues, priorities, lines, unique_keys, untils_started);
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
LANGUAGE plpgsql AS $$
DECLARE
    found_ integer[];
    wanted bigint;
    got bigint;
BEGIN
    FOR attempt IN 1..5 LOOP
        INSERT INTO @schema@.line (queue, limit_key, most, rate_key, interval_us, burst, state)
        SELECT DISTINCT q.number, coalesce(g.limit_key, ''), coalesce(g.most, 0),
            coalesce(g.rate_key, ''), coalesce(g.interval, 0) * 1000000, coalesce(g.burst, 0), 0
        FROM unnest(queues, limit_keys, mosts, rate_keys, intervals, bursts)
            AS g (name, limit_key, most, rate_key, interval, burst)
        JOIN @schema@.queue q ON q.name = g.name
        WHERE g.limit_key IS NOT NULL OR g.rate_key IS NOT NULL
        ORDER BY 1, 2, 3, 4, 5, 6
        ON CONFLICT DO NOTHING;
        PERFORM FROM @schema@.line l WHERE EXISTS (
            SELECT FROM unnest(queues, limit_keys, mosts, rate_keys, intervals, bursts)
                AS g (name, limit_key, most, rate_key, interval, burst)
            JOIN @schema@.queue q ON q.name = g.name
            WHERE q.number = l.queue AND coalesce(g.limit_key, '') = l.limit_key
                AND coalesce(g.most, 0) = l.most AND coalesce(g.rate_key, '') = l.rate_key
                AND coalesce(g.interval, 0) * 1000000 = l.interval_us
                AND coalesce(g.burst, 0) = l.burst)
            ORDER BY l.number FOR KEY SHARE;
        SELECT array_agg(l.number ORDER BY g.turn),
            count(*) FILTER (WHERE g.limit_key IS NOT NULL OR g.rate_key IS NOT NULL),
            count(l.number)
        INTO found_, wanted, got
        FROM unnest(queues, limit_keys, mosts, rate_keys, intervals, bursts)
            WITH ORDINALITY AS g (name, limit_key, most, rate_key, interval, burst, turn)
        JOIN @schema@.queue q ON q.name = g.name
        LEFT JOIN @schema@.line l ON (g.limit_key IS NOT NULL OR g.rate_key IS NOT NULL)
            AND q.number = l.queue AND coalesce(g.limit_key, '') = l.limit_key
            AND coalesce(g.most, 0) = l.most AND coalesce(g.rate_key, '') = l.rate_key
            AND coalesce(g.interval, 0) * 1000000 = l.interval_us
            AND coalesce(g.burst, 0) = l.burst;
        EXIT WHEN wanted = got;
    END LOOP;
    RETURN found_;
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
