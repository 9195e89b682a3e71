"""Chains of calls: who asked whom, how many calls may follow below, and how many be open at a time.

A request that a handler makes carries the agents above it that wait for it, one hop less than the one that
is handled, and a share of the calls that may be open below that. The k-th call that is open at a time gets
1/k(k+1) of all, so the shares never make more than the whole, however many there are, and a call that has
ended gives its share back: a storm is bounded, work that goes on one by one is not.  Without a handler
there is no chain, and nothing is carried.
"""

from libc.stdint cimport uint32_t

from agentnet_core.envelope cimport FIELD_CHAIN, extend_path

from agentnet_core.errors import ChainSpent


cdef Envelope call_below(AgentMessage cause, uint64_t worker, int64_t hops_max, int64_t calls_max):
    """What a call carries that `worker` makes while it handles `cause`; ChainSpent, definite."""
    cdef Envelope above = cause.envelope, below = Envelope()
    if above is None:
        above = cause.envelope = Envelope()
    if not (above.started or above.held & 1 << FIELD_CHAIN):
        above.started, above.hops, above.budget = True, <uint32_t>hops_max, <uint64_t>calls_max
    if above.hops == 0:
        raise ChainSpent("calls followed one another as often as may be (chain_hops_max)")
    if above.budget == 0:
        raise ChainSpent("as many calls are open as may be at a time below one request (chain_calls_max)")
    below.put_chain(above.hops - 1, 0, extend_path(above.passed_by, worker))
    return below


cdef uint64_t take_share(Envelope above, Envelope below) except? 0:
    """The call goes out: it counts, and takes a part of what may be open with it."""
    cdef uint64_t share = above.budget // (above.open_calls + 2)
    if share == 0:
        share = 1
    above.budget -= share
    above.open_calls += 1
    below.budget = share - 1
    return share


cdef int give_back(Envelope above, uint64_t share) except -1:
    """A call has ended."""
    above.budget += share
    above.open_calls -= 1
    return 0
