"""This project with one listener that hears every event and does nothing."""

from dataclasses import replace

from bench.peers import INSIDE, asynctasq

PEER = replace(
    asynctasq.PEER,
    name="with a listener",
    worker=tuple(text.replace(asynctasq.__name__, __name__) for text in asynctasq.PEER.worker),
    settings="a listener to all events that does nothing",
)

if INSIDE:
    from asynctasq import listen

    Producer = asynctasq.Producer

    listen(lambda event: None)
