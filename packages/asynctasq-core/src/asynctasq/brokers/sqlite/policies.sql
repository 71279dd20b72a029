-- What follows from the end or the start of a message that has a policy, whatever ends or starts it.
-- Run with the first message that has one, for a trigger costs each change a microsecond.
--
-- In this order: the key of a message that has ended or begun is free; if it ran, the next that its
-- limit has parked is opened, to be judged; if it was itself to be judged, the next at its limit and
-- its rate is; and if it was at the head of its line, the next of the line. That one is parked at
-- once where the limit is full: each message in state 0 opens another when it leaves that state,
-- also one whose lease has run out.

CREATE TRIGGER IF NOT EXISTS policed_deleted AFTER DELETE ON message
WHEN old.line IS NOT NULL OR old.uniq IS NOT NULL
BEGIN
    DELETE FROM taken WHERE queue = old.queue AND name = old.uniq AND holder = old.id
        AND expires IS NULL;
    UPDATE message SET state = 2 WHERE old.state IN (0, 2) AND place = (
        SELECT place FROM message WHERE queue = old.queue AND limited = old.limited AND state = 5
        ORDER BY at, place LIMIT 1);
    UPDATE message SET state = 2 WHERE old.state = 2 AND place = (
        SELECT place FROM message WHERE queue = old.queue AND rated = old.rated AND state = 6
        ORDER BY at, place LIMIT 1);
    UPDATE message SET state = 2 WHERE old.state IN (2, 5, 6) AND place = (
        SELECT place FROM message WHERE line = old.line AND state = 4 ORDER BY at, place LIMIT 1)
        AND NOT EXISTS (SELECT 1 FROM message first WHERE first.line = old.line
            AND first.state IN (2, 5, 6) AND (first.at, first.place) < (message.at, message.place));
    DELETE FROM line WHERE number = old.line
        AND NOT EXISTS (SELECT 1 FROM message WHERE line = old.line);
END;

CREATE TRIGGER IF NOT EXISTS policed_moved AFTER UPDATE OF state ON message
WHEN (old.line IS NOT NULL OR old.uniq IS NOT NULL) AND old.state <> new.state
    AND (old.state IN (0, 2, 5, 6) OR new.state = 3)
BEGIN
    DELETE FROM taken WHERE new.state IN (0, 3) AND queue = old.queue AND name = old.uniq
        AND holder = old.id AND expires IS NULL AND (new.state = 3 OR until_started);
    UPDATE message SET state = 2 WHERE (old.state = 0 OR old.state = 2 AND new.state NOT IN (5, 6))
        AND place = (
        SELECT place FROM message WHERE queue = old.queue AND limited = old.limited AND state = 5
        ORDER BY at, place LIMIT 1);
    UPDATE message SET state = 2 WHERE old.state = 2 AND new.state NOT IN (5, 6) AND place = (
        SELECT place FROM message WHERE queue = old.queue AND rated = old.rated AND state = 6
        ORDER BY at, place LIMIT 1);
    UPDATE message SET state = iif(
            (SELECT most FROM line WHERE number = old.line) BETWEEN 1 AND
            (SELECT count(*) FROM message WHERE queue = old.queue AND limited = old.limited
                AND state = 0), 5, 2)
        WHERE old.state IN (2, 5, 6) AND new.state NOT IN (2, 5, 6)
        AND place = (
        SELECT place FROM message WHERE line = old.line AND state = 4 ORDER BY at, place LIMIT 1)
        AND NOT EXISTS (SELECT 1 FROM message first WHERE first.line = old.line
            AND first.state IN (2, 5, 6) AND (first.at, first.place) < (message.at, message.place));
END;
