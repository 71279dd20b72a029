-- Pauses are their queue's values of the kind `pauses`; the one without a name holds the whole queue. A
-- parked message is delayed until a time that never comes, a different one for each pause.
--
-- Takes, and settlements that park, share a lock that beginning or ending a pause holds exclusively. So
-- no take that began before a pause delivers what was put after it, and nothing is parked under a pause
-- that is over.

CREATE OR REPLACE FUNCTION @schema@.share_pauses() RETURNS void
LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock_shared(hashtextextended('asynctasq pauses @name@', 0))
$$;

-- The due time, in microseconds, of messages parked under the pause with this number.
CREATE OR REPLACE FUNCTION @schema@.parked_until(number bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT 8000000000000000000 + number $$;

CREATE OR REPLACE FUNCTION @schema@.is_held(name_ text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM @schema@.value WHERE queue = name_ AND kind = 'pauses' AND name = '')
$$;

CREATE OR REPLACE FUNCTION @schema@.pause(queue_ text, name_ text, value_ bytea) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM @schema@.declare(ARRAY[queue_], ARRAY[0::smallint]);
    PERFORM pg_advisory_xact_lock(hashtextextended('asynctasq pauses @name@', 0));
    PERFORM @schema@.set_value(queue_, 'pauses', name_, value_, NULL);
END $$;

-- End a pause and resume the messages parked under its number, ahead of later ones. Returns whether
-- there was such a pause or such a message.
CREATE OR REPLACE FUNCTION @schema@.resume(queue_ text, name_ text, number_ bigint) RETURNS boolean
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    was_paused boolean;
    woken bigint := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('asynctasq pauses @name@', 0));
    DELETE FROM @schema@.value WHERE queue = queue_ AND kind = 'pauses' AND name = name_;
    was_paused := FOUND;
    IF name_ <> '' THEN
        UPDATE @schema@.pending p
            SET lane = l.number * 8 + CASE WHEN p.line IS NULL THEN 0 ELSE 3 END, place = p.message
            FROM @schema@.queue q JOIN @schema@.lane l ON l.queue = q.number
            WHERE q.name = queue_ AND p.lane IN (l.number * 8 + 1, l.number * 8 + 5)
                AND p.place = @schema@.parked_until(number_);
        GET DIAGNOSTICS woken = ROW_COUNT;
    END IF;
    RETURN was_paused OR woken > 0;
END $$;

-- Undo the effect of these messages' deliveries on their keys and rates, before they are parked.
CREATE OR REPLACE FUNCTION @schema@.take_back_deliveries(messages bigint[], lines integer[])
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    now_ timestamptz := clock_timestamp();
BEGIN
    INSERT INTO @schema@.taken AS t (queue, key, holder, until_started, expires)
        SELECT queue, unique_key, id, true, NULL FROM @schema@.message
        WHERE number = ANY (messages) AND unique_key IS NOT NULL AND until_started
        ORDER BY queue, unique_key
        ON CONFLICT (queue, key) DO UPDATE SET holder = excluded.holder,
            until_started = excluded.until_started, expires = NULL
        WHERE t.expires <= now_;
    UPDATE @schema@.rate r SET tat = r.tat - used.interval_us,
        opens = CASE WHEN r.opens IS NOT NULL THEN 0 END -- what waits for it is judged again
        FROM (SELECT l.queue, l.rate_key, sum(l.interval_us) AS interval_us
            FROM unnest(lines) AS given (line) JOIN @schema@.line l ON l.number = given.line
            WHERE l.burst > 0 GROUP BY 1, 2) AS used
        WHERE r.queue = used.queue AND r.key = used.rate_key;
END $$;
