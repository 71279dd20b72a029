"""Queries that only read; `{schema}` stands for the schema's quoted name."""

STATE = """
SELECT CASE
    WHEN EXISTS (SELECT FROM {schema}.pending p WHERE p.message = m.number
        AND (p.lane % 8 NOT IN (1, 5) OR p.place <= {schema}.microseconds(clock_timestamp())))
        THEN 'waiting'
    WHEN EXISTS (SELECT FROM {schema}.pending p WHERE p.message = m.number) THEN 'delayed'
    WHEN EXISTS (SELECT FROM {schema}.dead d WHERE d.message = m.number) THEN 'dead'
    WHEN EXISTS (SELECT FROM {schema}.worker w
        JOIN {schema}.running r ON r.worker = w.number AND r.message = m.number
        WHERE w.alive_until > clock_timestamp()) THEN 'running'
    ELSE 'waiting' END AS state
FROM {schema}.queue q JOIN {schema}.message m ON m.queue = q.number
WHERE q.name = $1 AND m.id = $2
"""

STATS = """
WITH counts AS (
    SELECT lane / 8 AS lane, count(*) AS all_,
        count(*) FILTER (WHERE lane % 8 IN (1, 5)
            AND place > {schema}.microseconds(clock_timestamp())) AS later
    FROM {schema}.pending WHERE line IS NULL OR lane % 8 >= 3 GROUP BY 1
), lined AS (
    SELECT lane, count(*) AS all_ FROM {schema}.standing GROUP BY 1
), held AS (
    SELECT r.lane / 8 AS lane, count(*) AS all_,
        count(*) FILTER (WHERE w.alive_until IS NULL OR w.alive_until <= clock_timestamp()) AS past
    FROM {schema}.running r LEFT JOIN {schema}.worker w ON w.number = r.worker GROUP BY 1
), of_queue AS (
    SELECT l.queue, sum(coalesce(c.all_, 0) + coalesce(s.all_, 0)) AS pending,
        sum(c.later) AS later, sum(h.all_) AS held, sum(h.past) AS past
    FROM {schema}.lane l
    LEFT JOIN counts c ON c.lane = l.number LEFT JOIN held h ON h.lane = l.number
    LEFT JOIN lined s ON s.lane = l.number
    GROUP BY 1
)
SELECT q.name,
    (coalesce(o.pending, 0) - coalesce(o.later, 0) + coalesce(o.past, 0))::bigint AS waiting,
    (coalesce(o.held, 0) - coalesce(o.past, 0))::bigint AS running,
    coalesce(o.later, 0)::bigint AS delayed,
    (SELECT count(*) FROM {schema}.dead d WHERE d.queue = q.number) AS dead
FROM {schema}.queue q LEFT JOIN of_queue o ON o.queue = q.number
ORDER BY q.name COLLATE "C"
"""

WORKERS = """
SELECT id, host, pid, queues, concurrency, started_at, is_blocked,
    (SELECT count(*) FROM {schema}.running r WHERE r.worker = w.number) AS running
FROM {schema}.worker w WHERE alive_until > clock_timestamp() ORDER BY started_at
"""

_DEAD = """
SELECT q.name AS queue, m.id, m.body, d.info, extract(epoch FROM d.died_at)::float8 AS died_at
FROM {schema}.queue q JOIN {schema}.dead d ON d.queue = q.number
JOIN {schema}.message m ON m.number = d.message
WHERE q.name = $1
"""

DEAD_LETTERS = f"{_DEAD} ORDER BY d.died_at DESC, d.message DESC LIMIT $2 OFFSET $3"
FIND_DEAD = f"{_DEAD} AND m.id = ANY ($2)"

_KEPT = "(expires IS NULL OR expires > clock_timestamp())"
VALUES = f"SELECT name, value FROM {{schema}}.value WHERE queue = $1 AND kind = $2 AND {_KEPT}"
VALUE = f"{VALUES} AND name = $3"
DELETE_VALUES = """
    WITH gone AS (
        DELETE FROM {schema}.value WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {schema}.value WHERE queue = $1 AND kind = $2
            LIMIT $3 FOR UPDATE SKIP LOCKED))
        RETURNING 1)
    SELECT count(*) FROM gone"""

KEYS = """
WITH q AS (SELECT number FROM {schema}.queue WHERE name = $1),
of_line AS (
    SELECT l.*, ARRAY(SELECT m.id FROM {schema}.running r
            JOIN {schema}.message m ON m.number = r.message WHERE r.line = l.number) AS running,
        (SELECT count(*) FROM {schema}.message m WHERE m.line = l.number
            AND NOT EXISTS (SELECT FROM {schema}.dead d WHERE d.message = m.number)) AS held
    FROM {schema}.line l JOIN q ON q.number = l.queue
), keys AS (
    SELECT 'unique' AS kind, t.key, ARRAY[t.holder] AS holders, 0::bigint AS waiting,
        NULL::float8 AS free_at
    FROM {schema}.taken t JOIN q ON q.number = t.queue
    WHERE t.expires IS NULL OR t.expires > clock_timestamp()
    UNION ALL
    SELECT 'limit', o.limit_key,
        (SELECT array_agg(id) FROM of_line x, unnest(x.running) AS id
            WHERE x.limit_key = o.limit_key AND x.most > 0),
        sum(o.held - cardinality(o.running)), NULL
    FROM of_line o WHERE o.most > 0 GROUP BY o.limit_key HAVING sum(o.held) > 0
    UNION ALL
    SELECT 'rate', o.rate_key, '{}', sum(o.held - cardinality(o.running)),
        nullif(greatest(min(r.tat - (o.burst - 1) * o.interval_us) / 1e6,
            extract(epoch FROM clock_timestamp())::float8),
            extract(epoch FROM clock_timestamp())::float8)
    FROM of_line o LEFT JOIN {schema}.rate r ON r.queue = o.queue AND r.key = o.rate_key
    WHERE o.burst > 0 GROUP BY o.rate_key HAVING sum(o.held) > 0
)
SELECT kind, key, coalesce(holders, '{}') AS holders, waiting::bigint, free_at
FROM keys ORDER BY waiting DESC, kind, key LIMIT $2
"""
