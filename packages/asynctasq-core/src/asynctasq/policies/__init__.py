"""May it run now: what the policies that a task declares are to the broker of its calls.

A declaration (`tasks.policies`) says what makes a key and what is allowed for it. At a dispatch,
where the instances are at hand, the key is evaluated and goes along with the message. The broker
decides, in the steps in which it puts, takes and settles (`brokers.contract.policies`). Workers
know nothing of it: what may not run now is not given to them. Only pauses of tasks are for workers
to judge (`pauses`), since brokers know no tasks.

A policy is a file here with one function, from a declaration and a call to its part of the broker's
`Policy`. One more takes a declaration, a part of the contract with its tests in `BrokerSuite`, and
a line in `asking`.
"""
