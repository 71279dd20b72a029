"""Whether a call may run now: turns the policies that a task declares into terms of the broker.

A declaration (`tasks.policies`) says what makes a key and what is allowed for it. Dispatch, which
has the instances at hand, computes the key and sends it along with the message. The broker decides
whenever it puts, takes or settles (`brokers.contract.policies`). Workers know nothing about it:
they are never given a call that may not run now. They judge only pauses of tasks (`pauses`), since
brokers do not know tasks.

Each policy is a file here with one function, from a declaration and a call to its part of the
broker's `Policy`. A new policy takes a declaration, a part of the contract with its tests in
`BrokerSuite`, and a line in `asking`.
"""
