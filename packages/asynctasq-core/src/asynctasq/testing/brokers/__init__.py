"""The parts of `BrokerSuite`, one per group of promises."""
