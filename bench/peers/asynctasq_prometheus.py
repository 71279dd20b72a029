"""This project with its metrics for Prometheus."""

from dataclasses import replace

from bench.peers import INSIDE, asynctasq

PEER = replace(
    asynctasq.PEER,
    name="with Prometheus",
    requirements=(*asynctasq.PEER.requirements, "{project}/packages/asynctasq-prometheus"),
    worker=tuple(text.replace(asynctasq.__name__, __name__) for text in asynctasq.PEER.worker),
    settings="metrics measured, nobody asks for them",
    environment={"ASYNCTASQ_PLUGINS": "sqlalchemy,django,tortoise,prometheus"},
)

if INSIDE:
    import asynctasq_prometheus

    Producer = asynctasq.Producer

    asynctasq_prometheus.measure()
