"""A pickle reader that yields plain data: no class is built, nothing is imported, nothing called.

The standard unpickler is a virtual machine whose programs may call any function of any module. This reader
executes the same opcodes on data only. A global is a name, `Global("collections", "OrderedDict")`; it must
stand in the table the caller gives, and what a REDUCE of it means is one of the caller's own functions over
plain values.

Every amount is bounded by the `Budget`: opcodes, elements copied, bytes of tensors. A declared length beyond
the end of the file is refused before anything is allocated. Dictionary keys and set members are scalars,
because hashing a nest of shared tuples takes exponential time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pyface.errors import CheckpointError

__all__ = ["Budget", "Global", "PickleReader", "PlainObject"]

Handler = Callable[[tuple[Any, ...]], Any]
_SCALARS = (str, int, float, bytes, type(None))
_LONGEST_NAME = 256
_LONGEST_INTEGER = 16  # bytes; the widest honest number is torch.save's 10 byte magic


@dataclass(frozen=True)
class Global:
    """A class or function that the file names. Never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class PlainObject:
    """What the file says about an object of an opaque class: constructor arguments and state, nothing
    executed."""

    kind: Global
    args: tuple[Any, ...]
    state: Any = None


@dataclass
class Budget:
    """Upper bounds for one file, shared by the pickles nested in it.

    opcodes: a released 1024 px snapshot takes below 100,000. elements: list items copied by constructors.
    storage_bytes: tensor bytes; an honest file holds each of them once.
    """

    opcodes: int = 1_000_000
    elements: int = 1_000_000
    storage_bytes: int = 0

    def spend(self, what: str, amount: int) -> None:
        """Take `amount` from the bound named `what`.

        Raises: CheckpointError when it is used up.
        """
        left = getattr(self, what) - amount
        if left < 0:
            raise CheckpointError(
                f"the file needs more {what.replace('_', ' ')} than any checkpoint of its size: refused. "
                "Get the file again from its author"
            )
        setattr(self, what, left)


@dataclass
class PickleReader:
    """Reads one pickle of protocol 2 to 5 out of `data`, beginning at `position`.

    data: the file's bytes. calls: allowed globals and, for those that may be called (REDUCE, NEWOBJ), a
    function from the argument tuple to a plain value; None means "may be named, not called". persistent:
    resolves persistent ids; without it they are refused. After `read` the position is the byte behind STOP.
    """

    data: bytes
    calls: Mapping[tuple[str, str], Handler | None]
    persistent: Callable[[Any], Any] | None = None
    budget: Budget = field(default_factory=Budget)
    position: int = 0
    refuse: Callable[[Global], str | None] | None = None

    def read(self) -> Any:
        """The value of the pickle: dict, list, tuple, set, scalars and what the handlers return.

        Raises: CheckpointError for a truncated or malformed file, a global that is not allowed, a used-up
        budget.
        """
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        if self.data[self.position : self.position + 1] != b"\x80":
            self._fail("there is no pickle of protocol 2 to 5 here")
        try:
            while True:
                self.budget.spend("opcodes", 1)
                code = self._take(1)[0]
                if code == 0x2E:  # STOP
                    return self._pop()
                step = _STEPS.get(code)
                if step is None:
                    self._fail(f"opcode 0x{code:02x} does not occur in checkpoints of protocol 2 to 5")
                step(self)
        except CheckpointError:
            raise
        except (
            ValueError,
            TypeError,
            IndexError,
            KeyError,
            RuntimeError,
            MemoryError,
            struct.error,
        ) as error:
            raise CheckpointError(
                f"the file is damaged near byte {self.position} ({type(error).__name__}: {error}). "
                "Get it again"
            ) from error

    def _fail(self, why: str) -> NoReturn:
        raise CheckpointError(f"cannot read the pickle at byte {self.position}: {why}. Get the file again")

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.data):
            self._fail(
                f"it is truncated or damaged: {count} bytes wanted, {len(self.data) - self.position} left"
            )
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def _line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + _LONGEST_NAME)
        if end < 0:
            self._fail("a name of a global has no end")
        text = self.data[self.position : end].decode("utf-8")
        self.position = end + 1
        return text

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            self._fail("a value is missing on its stack")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        value = self._stack[-1] if len(self._stack) > (self._marks[-1] if self._marks else 0) else None
        if not isinstance(value, kind):
            self._fail(f"items for a {kind.__name__} meet a {type(value).__name__}")
        return value

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            self._fail("a mark is missing on its stack")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _remember(self, index: int) -> None:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            self._fail("nothing to memoise")
        self._memo[index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            self._fail(f"memo entry {index} does not exist")
        self._push(self._memo[index])

    def _text(self, count: int) -> None:
        self._push(self._take(count).decode("utf-8", "surrogatepass"))

    def _integer(self, count: int) -> None:
        if not 0 <= count <= _LONGEST_INTEGER:
            self._fail(f"an integer of {count} bytes")
        self._push(int.from_bytes(self._take(count), "little", signed=True))

    def _scalar(self, key: Any) -> Any:
        if not isinstance(key, _SCALARS):
            self._fail(f"a {type(key).__name__} stands where a scalar key is expected")
        return key

    def _name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            self._fail("the name of a global is not text")
        named = Global(module, name)
        if (module, name) not in self.calls:
            told = self.refuse(named) if self.refuse is not None else None
            raise CheckpointError(
                told
                or f"the file names {named!s:.200}, which no checkpoint needs: refused, nothing was "
                "executed. Do not open it with pickle or torch.load either"
            )
        self._push(named)

    def _call(self, target: Any, args: Any) -> None:
        if not isinstance(target, Global) or not isinstance(args, tuple):
            self._fail("a call of something that is not an allowed global with a tuple")
        handler = self.calls.get((target.module, target.name))
        if handler is None:
            raise CheckpointError(f"the file calls {target}, which may only be named: refused")
        self._push(handler(args))

    # one method per opcode that needs more than a line

    def _op_proto(self) -> None:
        protocol = self._take(1)[0]
        if not 2 <= protocol <= 5:
            self._fail(f"protocol {protocol}; protocols 2 to 5 are read")

    def _op_frame(self) -> None:
        if self._number("<Q") > len(self.data) - self.position:
            self._fail("a frame is longer than the file")

    def _op_tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def _op_append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _op_appends(self) -> None:
        items = self._pop_to_mark()
        self._top(list).extend(items)

    def _op_setitem(self) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict)[self._scalar(key)] = value

    def _setitems(self, target: dict[Any, Any], items: list[Any]) -> None:
        if len(items) % 2:
            self._fail("a dictionary has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._scalar(key)] = value

    def _op_setitems(self) -> None:
        items = self._pop_to_mark()
        self._setitems(self._top(dict), items)

    def _op_dict(self) -> None:
        items = self._pop_to_mark()
        made: dict[Any, Any] = {}
        self._setitems(made, items)
        self._push(made)

    def _op_additems(self) -> None:
        items = self._pop_to_mark()
        self._top(set).update(self._scalar(item) for item in items)

    def _op_frozenset(self) -> None:
        self._push(frozenset(self._scalar(item) for item in self._pop_to_mark()))

    def _op_global(self) -> None:
        module = self._line()
        self._name(module, self._line())

    def _op_stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._name(module, name)

    def _op_reduce(self) -> None:
        args, target = self._pop(), self._pop()
        self._call(target, args)

    def _op_newobj_ex(self) -> None:
        keywords, args, target = self._pop(), self._pop(), self._pop()
        if keywords != {}:
            self._fail("an object is made with keyword arguments")
        self._call(target, args)

    def _op_build(self) -> None:
        state = self._pop()
        target = self._top(object)
        if isinstance(target, PlainObject):
            target.state = state
        elif not isinstance(target, dict):  # attributes of a dict subclass carry no weights
            self._fail(f"a state is set on a {type(target).__name__}")

    def _op_persistent(self) -> None:
        pid = self._pop()
        if self.persistent is None:
            self._fail("a persistent id outside a torch archive")
        self._push(self.persistent(pid))

    def _op_pop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()


_STEPS: dict[int, Callable[[PickleReader], Any]] = {
    0x80: PickleReader._op_proto,
    0x95: PickleReader._op_frame,
    0x28: lambda r: r._marks.append(len(r._stack)),
    0x30: PickleReader._op_pop,
    0x31: PickleReader._pop_to_mark,  # POP_MARK drops what it gives
    # constants
    0x4E: lambda r: r._push(None),
    0x88: lambda r: r._push(True),
    0x89: lambda r: r._push(False),
    0x4A: lambda r: r._push(r._number("<i")),
    0x4B: lambda r: r._push(r._number("<B")),
    0x4D: lambda r: r._push(r._number("<H")),
    0x8A: lambda r: r._integer(r._number("<B")),
    0x8B: lambda r: r._integer(r._number("<i")),
    0x47: lambda r: r._push(r._number(">d")),
    0x8C: lambda r: r._text(r._number("<B")),
    0x58: lambda r: r._text(r._number("<I")),
    0x8D: lambda r: r._text(r._number("<Q")),
    0x43: lambda r: r._push(r._take(r._number("<B"))),
    0x42: lambda r: r._push(r._take(r._number("<I"))),
    0x8E: lambda r: r._push(r._take(r._number("<Q"))),
    0x96: lambda r: r._push(r._take(r._number("<Q"))),  # BYTEARRAY8, as bytes
    # containers
    0x29: lambda r: r._push(()),
    0x85: lambda r: r._op_tuple(1),
    0x86: lambda r: r._op_tuple(2),
    0x87: lambda r: r._op_tuple(3),
    0x74: lambda r: r._push(tuple(r._pop_to_mark())),
    0x5D: lambda r: r._push([]),
    0x6C: lambda r: r._push(r._pop_to_mark()),
    0x61: PickleReader._op_append,
    0x65: PickleReader._op_appends,
    0x7D: lambda r: r._push({}),
    0x64: PickleReader._op_dict,
    0x73: PickleReader._op_setitem,
    0x75: PickleReader._op_setitems,
    0x8F: lambda r: r._push(set()),
    0x90: PickleReader._op_additems,
    0x91: PickleReader._op_frozenset,
    # memo
    0x71: lambda r: r._remember(r._number("<B")),
    0x72: lambda r: r._remember(r._number("<I")),
    0x94: lambda r: r._remember(len(r._memo)),
    0x68: lambda r: r._recall(r._number("<B")),
    0x6A: lambda r: r._recall(r._number("<I")),
    # names, calls, states
    0x63: PickleReader._op_global,
    0x93: PickleReader._op_stack_global,
    0x52: PickleReader._op_reduce,
    0x81: PickleReader._op_reduce,  # NEWOBJ
    0x92: PickleReader._op_newobj_ex,
    0x62: PickleReader._op_build,
    0x51: PickleReader._op_persistent,
}
