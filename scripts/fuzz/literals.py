"""Random literals: as text, as relance takes them, and as the value that they are."""

import decimal
import json
import math

import pyarrow as pa

import kinds

PER_SECOND = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}


def literal(rng, t):
    """A text and an array of the one value that it is in the type `t`."""
    if pa.types.is_struct(t):
        value = {"a": rng.randint(0, 9), "b": rng.choice(["x", None, "ü"])}
        return json.dumps(value), pa.array([value], t)
    if pa.types.is_fixed_size_list(t):
        value = [rng.randint(-9, 9) / 2 for _ in range(t.list_size)]
        return json.dumps(value), pa.array([value], t)
    if pa.types.is_list(t):
        inner = t.value_type
        if not (pa.types.is_integer(inner) or pa.types.is_string(inner) or pa.types.is_boolean(inner)):
            return "[]", pa.array([[]], t)
        one = lambda: {True: rng.randint(0, 99), False: rng.choice(["a", ""])}[pa.types.is_integer(inner)] if not pa.types.is_boolean(inner) else True
        value = [one() if rng.random() < 0.8 or not t.value_field.nullable else None for _ in range(rng.choice([0, 1, 3]))]
        return json.dumps(value), pa.array([value], t)
    if pa.types.is_integer(t):
        bits, signed = t.bit_width, pa.types.is_signed_integer(t)
        value = rng.choice([0, 7, 100, 2 ** (bits - signed) - 1, -(2 ** (bits - 1)) if signed else 1])
        return str(value), pa.array([value], t)
    if pa.types.is_boolean(t):
        value = rng.choice([True, False])
        return str(value).lower(), pa.array([value], t)
    if pa.types.is_floating(t):
        value = rng.choice([0.0, 1.5, -2.25, 1024.0])
        return repr(value), pa.array([value], pa.float64()).cast(t)
    if t in kinds.TEXTS:
        value = rng.choice([word for word in kinds.WORDS if "\n" not in word])
        return value, pa.array([value], t)
    if pa.types.is_decimal(t):
        digits = rng.randint(0, 10 ** min(t.precision, 6) - 1)
        with decimal.localcontext(prec=60):
            value = decimal.Decimal(digits).scaleb(-t.scale)
        return f"{value:f}", pa.array([value], t)
    if pa.types.is_fixed_size_binary(t):
        value = bytes(rng.choice(b"abcXYZ09 ") for _ in range(t.byte_width))
        return value.decode(), pa.array([value], t)
    if t in (pa.binary(), pa.large_binary()):
        value = rng.choice(["", "bytes", "ünï"])
        return value, pa.array([value.encode()], t)
    if pa.types.is_date(t):
        days = rng.randint(-10_000, 30_000)
        array = pa.array([days], pa.int32()).cast(pa.date32())
        return str(array[0].as_py()), array.cast(t)
    if pa.types.is_duration(t):
        count = rng.randint(-(10**6), 10**6)
        return str(count), pa.array([count], pa.int64()).view(t)
    if pa.types.is_time(t):
        count = rng.randint(0, 86_399) * PER_SECOND[t.unit] + (rng.randint(0, PER_SECOND[t.unit] - 1))
        seconds, rest = divmod(count, PER_SECOND[t.unit])
        text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}" + fraction(rest, t.unit)
        width = pa.int32() if t.bit_width == 32 else pa.int64()
        return text, pa.array([count], width).view(t)
    seconds = rng.randint(-(10**9), 4 * 10**9)
    rest = rng.randint(0, PER_SECOND[t.unit] - 1)
    text = str(pa.array([seconds], pa.int64()).cast(pa.timestamp("s"))[0].as_py()).replace(" ", rng.choice(["T", " "])) + fraction(rest, t.unit)
    return text + ("Z" if t.tz else ""), pa.array([seconds * PER_SECOND[t.unit] + rest], pa.int64()).view(t)


def fraction(rest, unit):
    places = round(math.log10(PER_SECOND[unit]))
    return f".{rest:0{places}}" if places and rest else ""
