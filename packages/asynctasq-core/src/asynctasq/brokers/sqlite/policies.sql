-- What follows when a message with a policy starts or ends, whatever caused that.
-- Created with the first such message, since a trigger adds a microsecond to each change.
--
-- In this order: free the key of a message that has ended or begun; if the message ran, open the
-- next one parked at its limit, to be judged; if it was waiting to be judged, open the next at its
-- limit and at its rate; if it was at the head of its line, open the next in line. The last is
-- parked at once if the limit is full: each message that leaves state 0, even one whose lease has
-- expired, opens another.

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
