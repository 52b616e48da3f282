"""A change as relance takes it and as PyArrow does it, and how fields are found and edited by their path."""

import re
from dataclasses import dataclass, field
from typing import Callable

import pyarrow as pa

import kinds
from kinds import children
from oracle import flat, spread

# What the command's syntax would take for the end of a name: nothing is quoted in it.
ENDS = {"add": ":=", "cast": ":=", "compute": ":=", "rename": "=", "fill": "=", "set": "="}


@dataclass
class Change:
    verb: str
    text: str
    apply: Callable  # pa.Table -> pa.Table, or Refused
    loose: set = field(default_factory=set)  # columns of which relance makes the type
    nothing_read: bool = False  # `metadata` can do it
    undone: bool = True  # every row can be carried back through its inverse

    def flag(self):
        return f"--{self.verb}={self.text}"


def edit(table, path, change):
    """`table` with the field and the values at `path` as `change` makes them; it gives None where they go."""
    names = table.column_names
    at = names.index(path[0])
    done = inside(table.schema.field(at), flat(table.column(at)), path[1:], change)
    fields, columns = list(table.schema), list(table.columns)
    if done is None:
        del fields[at], columns[at]
    else:
        fields[at], columns[at] = done
    return made(fields, columns, table.schema.metadata)


def made(fields, columns, metadata):
    return pa.Table.from_arrays([flat(column) for column in columns], schema=pa.schema(fields, metadata))


def inside(own, values, path, change):
    if not path:
        return change(own, values)
    valid = values.is_valid()
    flats, fields = values.filter(valid).flatten(), children(own.type)
    at = own.type.get_field_index(path[0])
    if at < 0:  # A new field.
        done = change(None, len(values.filter(valid)))
        fields, flats = [*fields, done[0]], [*flats, done[1]]
    else:
        done = inside(fields[at], flats[at], path[1:], change)
        if done is None:
            del fields[at], flats[at]
        else:
            fields[at], flats[at] = done
    dense = pa.StructArray.from_arrays(flats, fields=fields)
    return own.with_type(pa.struct(fields)), spread(dense, valid)


def typed_in(verb, name):
    """Whether the command's syntax can name this column."""
    plain = name and name == name.strip() and "\t" not in name
    return bool(plain) and not any(end in name for end in ENDS.get(verb, ""))


def paths(table, verb):
    """Fields that `verb` can be asked of: columns, and plain fields in structs of plain names. Never `id`."""
    found = []
    for column in table.schema:
        if column.name == "id" or not typed_in(verb, column.name):
            continue
        found.append([column.name])
        plain = lambda name: re.fullmatch("[A-Za-z_][A-Za-z_0-9]*", name)
        todo = [([column.name], column)] if plain(column.name) else []
        while todo:
            path, own = todo.pop()
            if pa.types.is_struct(own.type):
                for inner in children(own.type):
                    if plain(inner.name):
                        found.append([*path, inner.name])
                        todo.append(([*path, inner.name], inner))
    return found


def at_path(table, path):
    own = table.schema.field(path[0])
    for name in path[1:]:
        own = own.type.field(name)
    return own


def fresh_name(rng, table, verb):
    taken = {name.casefold() for name in table.column_names}
    names = [name for name in [*kinds.PLAIN, *kinds.ODD] if name.casefold() not in taken and typed_in(verb, name)]
    return rng.choice(names)
