from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from agentnet_core.crdt.ranges cimport Sums
from agentnet_core.dots cimport Runs
from agentnet_core.packing cimport Buffer

cdef enum:
    NONE = 0xffffffff       # no entry, no actor


# What an entry of one type has: the bits of the type's code.
cdef enum Shape:
    KEYED = 1
    STAMPED = 2
    COUNT = 4               # its value is a count, or two of them, or anything
    PAIR = 8
    ANY = 12
    TEXT = 13               # keyed, and anything: a passage of a text; see `sequence`
    MAP = 16                # its key is a key, the code of what is under it, and the key there


cdef struct Entry:
    uint64_t number         # with `actor`, its dot
    uint64_t stamp
    size_t at               # in the table's bytes: the path, then the value
    uint32_t path_size, value_size
    uint32_t actor
    uint32_t next, prev     # other entries of the same path, older and newer
    uint32_t hash           # of the path
    uint8_t alive
    uint8_t parts           # MessagePack values in path, value and stamp


cdef struct Index:
    uint64_t* slots         # hash << 32 | entry + 1, or 0
    size_t mask, used


cdef struct Actor:
    PyObject* name          # a str, owned
    Runs seen
    uint64_t mark           # of its name: the same on every node
    uint32_t alive          # entries


cdef class Site:
    """Where states are kept: whose changes, under which limits, hashed with which key."""
    cdef readonly str actor
    cdef uint64_t key0, key1
    cdef readonly size_t elements_max, bytes_max, key_bytes_max, value_bytes_max, actors_max, runs_max


cdef class Table:
    cdef Site site
    cdef Entry* entries
    cdef uint32_t count, capacity, alive        # `count`: with the dead ones
    cdef Buffer bytes
    cdef size_t garbage
    cdef Index paths, dots
    cdef Sums sums
    cdef Actor* actors
    cdef uint32_t* order                        # indexes of actors, by name
    cdef uint32_t actor_count, actor_capacity
    cdef uint32_t own                           # index of the site's actor, or NONE
    cdef size_t runs                            # of all actors
    cdef Buffer scratch
    cdef uint32_t hash_path(self, const uint8_t* path, size_t size) noexcept nogil
    cdef uint32_t hash_dot(self, uint32_t actor, uint64_t number) noexcept nogil
    cdef uint32_t find_path(self, uint32_t hash, const uint8_t* path, size_t size) noexcept nogil
    cdef uint32_t find_dot(self, uint32_t actor, uint64_t number) noexcept nogil
    cdef uint32_t find_actor(self, const uint8_t* name, size_t size, uint32_t* rank) except? 0xfffffffe
    cdef int reserve_actors(self, size_t more) except -1
    cdef uint32_t add_actor(self, str name) except? 0xfffffffe
    cdef int reserve(self, size_t more, size_t bytes) except -1
    cdef size_t allocated(self) noexcept
    cdef uint64_t mark_of(self, const Entry* entry) noexcept nogil
    cdef uint32_t append(self, const Entry* entry, const uint8_t* data) noexcept nogil
    cdef void kill(self, uint32_t i) noexcept nogil
    cdef void exchange(self, Table other) noexcept
    cdef bint tidy(self) noexcept nogil
    cdef bint beats(self, uint32_t one, uint32_t other) except -1
    cdef void _unlink(self, Entry* entry, uint32_t i) noexcept nogil
    cdef bint _renew(self) noexcept nogil
    cdef void _take(self, Entry* entries, uint32_t count, uint8_t* data, Index* paths,
                    Index* dots) noexcept nogil


cdef inline const uint8_t* path_of(Table table, uint32_t i) noexcept nogil:
    return table.bytes.data + table.entries[i].at

cdef inline const uint8_t* content_of(Table table, uint32_t i) noexcept nogil:
    return table.bytes.data + table.entries[i].at + table.entries[i].path_size

cdef inline size_t bytes_alive(Table table) noexcept nogil:
    return table.bytes.used - table.garbage
