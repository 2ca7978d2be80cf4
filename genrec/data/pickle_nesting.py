"""How deep the containers of a pickle are nested, counted while they are put into one another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

DEEPEST = 100

Container = TypeVar("Container")


class Nesting:
    """The depth of each container, and which are inside another.

    A pickle fills a container before it puts it into another, so a depth is final by then. A file
    that adds to one later hides how deep it goes, or puts a container into itself: it is refused.

    Args:
        mapping: what dicts become.
    """

    def __init__(self, mapping: type) -> None:
        # Negative once the container is inside another. An address is used again when a container
        # is gone; what takes its place is made, and so counted anew.
        self._depth: dict[int, int] = {}
        self._kinds = frozenset({list, tuple, mapping})

    def made(self, container: Container, items: Collection[Any] = ()) -> Container:
        """The container, which is new and holds `items`.

        Raises:
            ValueError: if it is too deep.
        """
        self._depth[id(container)] = 1
        if items and not self._kinds.isdisjoint(map(type, items)):
            self._deepen(container, items)
        return container

    def put(self, container: Any, items: Collection[Any]) -> None:
        """Note that `items` are put into a container.

        Raises:
            ValueError: if it is too deep then, or is inside another already.
        """
        # Numbers and text, of which there are millions, are told by their types.
        if not self._kinds.isdisjoint(map(type, items)):
            self._deepen(container, items)
        if self._depth[id(container)] < 0:
            raise ValueError("a container is added to that is inside another already, or in itself")

    def _deepen(self, container: Any, items: Collection[Any]) -> None:
        depth, kinds, deepest = self._depth, self._kinds, 0
        for item in items:
            if type(item) in kinds:
                place = id(item)
                one = abs(depth[place])
                depth[place] = -one
                if one > deepest:
                    deepest = one
        if deepest >= DEEPEST:
            raise ValueError(f"containers are nested more than {DEEPEST} deep")
        before = depth[id(container)]
        if abs(before) <= deepest:
            depth[id(container)] = -deepest - 1 if before < 0 else deepest + 1
