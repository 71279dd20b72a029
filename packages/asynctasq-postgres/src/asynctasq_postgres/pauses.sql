-- Pauses are values of the kind `pauses` of their queue; the one without a name holds the queue. What is
-- parked is delayed until a time that never comes, of which each pause has its own.
--
-- Takes and settlements that park share a lock, which whoever begins or ends a pause has to himself: so
-- no take that began before a pause gives out what was put after that, and nothing is parked for a
-- pause that is over.

CREATE OR REPLACE FUNCTION @schema@.share_pauses() RETURNS void
LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock_shared(hashtextextended('asynctasq pauses @name@', 0))
$$;

-- The due time of what is parked under a pause of this number, in microseconds.
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

-- End a pause; what is parked under its number goes on, ahead of what came later. Returns whether there
-- was one, or anything parked.
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

-- Undo what the delivery of these messages has done to their keys and rates, as they are to be parked.
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
        opens = CASE WHEN r.opens IS NOT NULL THEN 0 END -- whoever waits for it is judged again
        FROM (SELECT l.queue, l.rate_key, sum(l.interval_us) AS interval_us
            FROM unnest(lines) AS given (line) JOIN @schema@.line l ON l.number = given.line
            WHERE l.burst > 0 GROUP BY 1, 2) AS used
        WHERE r.queue = used.queue AND r.key = used.rate_key;
END $$;
