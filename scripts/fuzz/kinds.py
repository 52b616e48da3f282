"""Random types, names and values, made as Arrow arrays: nulls at every depth, and values hidden under them."""

import numpy as np
import pyarrow as pa

PLAIN = ["alpha", "Beta", "gamma_2", "delta", "EPS", "zeta x", "eta", "Theta9"]
ODD = ["a:b", "<", ">", "x,y", "p(q", "[0]", "quo\"te", "it's", "ünïcödé", "名前", "a=b", "UPPER", "tab\there", "-dash",
       "list<item: int64>", "x not null", "semi;colon", "%s", "back\\slash", "emoji 🦀", "#1", "{}", "null", "item"]
# A field of a struct may have names that a column may not.
INNER = [*ODD, "dot.ted", ".", " padded ", ""]
ZONES = ["UTC", "+08:00", "Europe/Berlin", "America/New_York"]
UNKNOWN_ZONES = ["Mars/Olympus", "UTC+2", "nowhere"]
UNITS = ["s", "ms", "us", "ns"]

INTS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
TEXTS = [pa.string(), pa.large_string()]
WORDS = ["", "a", "Straße", "naïve", "日本語テキスト", "lower case", "UPPER", "🦀 crab", "quote ' and \"", "line\nbreak", "tab\t",
         "null", "%like_", "a much longer text, so that not all of them are short: " + "xyz " * 9]


def leaf(rng, odd):
    """A random type without children."""
    which = rng.randrange(16)
    if which < 4:
        return rng.choice(INTS)
    if which < 6:
        return rng.choice(FLOATS)
    if which < 9:
        return rng.choice(TEXTS)
    return [
        lambda: rng.choice([pa.binary(), pa.large_binary()]),
        pa.bool_,
        lambda: decimal(rng),
        lambda: rng.choice([pa.date32(), pa.date64()]),
        lambda: rng.choice([pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")]),
        lambda: pa.timestamp(rng.choice(UNITS), zone(rng, odd)),
        lambda: rng.choice([pa.duration(rng.choice(UNITS)), pa.binary(rng.choice([1, 3, 16]))]),
    ][which - 9]()


def decimal(rng):
    precision = rng.choice([1, 3, 5, 7, 9, 10, 13, 18, 19, 23, 31, 37, 38])
    return pa.decimal128(precision, rng.choice([0, precision // 3, precision // 2]))


def zone(rng, odd):
    if rng.random() < 0.5:
        return None
    return rng.choice(UNKNOWN_ZONES if odd and rng.random() < 0.2 else ZONES)


def kind(rng, depth, odd):
    """A random type, nested at most `depth` deep; with odd names, child metadata and zones, if `odd`."""
    which = rng.randrange(10) if depth else 0
    if which < 5:
        return leaf(rng, odd)
    if which == 5:
        return pa.list_(item(rng, depth, odd))
    if which == 6:
        return pa.large_list(item(rng, depth, odd))
    if which == 7:
        # Lance keeps neither names nor metadata nor "not null" of such items, and stores texts there only where all are null.
        item_type = leaf(rng, odd) if odd else rng.choice([*INTS, *FLOATS])
        item_type = pa.int32() if item_type in [*TEXTS, pa.binary(), pa.large_binary()] else item_type
        return pa.list_(pa.field("item", item_type), rng.choice([1, 2, 3, 8]))
    names = rng.sample(INNER if odd and rng.random() < 0.5 else ["a", "b", "C", "dd"], rng.choice([1, 2, 2, 3]))
    return pa.struct([field(rng, name, kind(rng, depth - 1, odd), odd) for name in names])


def item(rng, depth, odd):
    name = rng.choice(["element", "a:b", "<", "it em", ""]) if odd and rng.random() < 0.3 else "item"
    return field(rng, name, kind(rng, depth - 1, odd), odd)


def field(rng, name, data_type, odd):
    metadata = {"note": rng.choice(["x", "a,b", "ü", ""])} if odd and rng.random() < 0.15 else None
    return pa.field(name, data_type, rng.random() < 0.75, metadata)


def is_plain(data_type):
    """Whether the type's text can be typed in: no odd names in it, and no zone that nobody knows."""
    if pa.types.is_timestamp(data_type) and data_type.tz in UNKNOWN_ZONES:
        return False
    plain = lambda f: f.name.replace("_", "").isalnum() and f.name.isascii() and not f.metadata and is_plain(f.type)
    return all(plain(f) for f in children(data_type))


def children(data_type):
    return [data_type.field(i) for i in range(data_type.num_fields)]


def nulls(rng, n, nullable):
    """A mask of `n` nulls: none, a few, many or all of them."""
    share = rng.choice([0, 0.1, 0.3, 0.3, 0.9, 1]) if nullable else 0
    return np.random.default_rng(rng.getrandbits(32)).random(n) < share


def array(rng, data_type, n, nullable=True, style=None):
    """`n` random values. Under nulls lie other values, as they may."""
    style = style or styled(rng)
    mask = nulls(rng, n, nullable)
    if pa.types.is_struct(data_type):
        inner = [array(rng, f.type, n, f.nullable, style) for f in children(data_type)]
        return pa.StructArray.from_arrays(inner, fields=children(data_type), mask=pa.array(mask))
    if pa.types.is_fixed_size_list(data_type):
        inner = data_type.value_field
        values = array(rng, inner.type, n * data_type.list_size, inner.nullable, style)
        return pa.FixedSizeListArray.from_arrays(values, type=data_type, mask=pa.array(mask))
    if pa.types.is_list(data_type) or pa.types.is_large_list(data_type):
        lengths = [rng.choice([0, 0, 1, 1, 2, 3, 7]) for _ in range(n)]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32 if pa.types.is_list(data_type) else np.int64)
        inner = data_type.value_field
        values = array(rng, inner.type, int(offsets[-1]), inner.nullable, style)
        made = pa.ListArray if pa.types.is_list(data_type) else pa.LargeListArray
        return made.from_arrays(pa.array(offsets), values, type=data_type, mask=pa.array(mask))
    if pa.types.is_dictionary(data_type):
        return array(rng, data_type.value_type, n, nullable, style).dictionary_encode().cast(data_type)
    return leaves(rng, data_type, n, style, mask)


def styled(rng):
    """Small numbers go through most casts, digits parse; the extremes of a type and words do not."""
    return rng.choice(["small", "small", "small", "edge"]), rng.choice(["digits", "digits", "words"])


def leaves(rng, data_type, n, style, mask):
    numbers, texts = style
    draw = lambda low, high: [rng.choice([low, high]) if numbers == "edge" and rng.random() < 0.2 else rng.randint(low, high)
                              for _ in range(n)]
    masked = lambda values, t=data_type: pa.array(values, t, mask=mask)
    whole = lambda low, high, via=pa.int64(): masked(np.array(draw(low, high), np.int64 if via == pa.int64() else np.int32), via).cast(data_type)
    if pa.types.is_integer(data_type):
        bits, signed = data_type.bit_width, pa.types.is_signed_integer(data_type)
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return masked(draw(low, high) if numbers == "edge" else draw(max(low, -100), 100))
    if pa.types.is_boolean(data_type):
        return masked(draw(0, 1) and [bool(rng.getrandbits(1)) for _ in range(n)])
    if pa.types.is_floating(data_type):
        odd = [float("nan"), float("inf"), float("-inf"), -0.0, 1e-310, 0.1, 60000.0, 1e300]
        values = [rng.choice(odd) if numbers == "edge" and rng.random() < 0.2 else rng.randint(-200, 200) / rng.choice([1, 1, 2, 8])
                  for _ in range(n)]
        with np.errstate(over="ignore"):
            return masked(np.array(values, {16: np.float16, 32: np.float32, 64: np.float64}[data_type.bit_width]))
    if data_type in TEXTS:
        return masked([str(rng.randint(-99, 99)) if texts == "digits" else rng.choice(WORDS) for _ in range(n)])
    if pa.types.is_fixed_size_binary(data_type) and not pa.types.is_decimal(data_type):
        return masked([rng.randbytes(data_type.byte_width) for _ in range(n)])
    if data_type in (pa.binary(), pa.large_binary()):
        return masked([rng.randbytes(rng.choice([0, 1, 5, 40])) if texts == "words" else b"plain %d" % rng.randint(0, 9) for _ in range(n)])
    if pa.types.is_decimal(data_type):
        import decimal as d
        top = 10 ** min(data_type.precision, 38 if numbers == "edge" else 3) - 1
        with d.localcontext(prec=60):
            return masked([d.Decimal(value).scaleb(-data_type.scale) for value in draw(-top, top)])
    if pa.types.is_date32(data_type):
        return whole(-20_000, 40_000, pa.int32())
    if pa.types.is_date64(data_type):
        return masked(np.array(draw(-20_000, 40_000), np.int64) * 86_400_000, pa.int64()).cast(data_type)
    if pa.types.is_time(data_type):
        per_second = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}[data_type.unit]
        step = per_second if numbers == "small" else 1
        values = np.array(draw(0, 86_400 * per_second // step - 1), np.int64) * step
        return masked(values, pa.int64()).cast(pa.int32() if data_type.bit_width == 32 else pa.int64()).view(data_type)
    # Timestamps and durations.
    per_second = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}[data_type.unit]
    step = per_second if numbers == "small" else 1
    values = np.array(draw(-(2**31) * per_second // step, 2**32 * per_second // step), np.int64) * step
    return masked(values, pa.int64()).view(data_type)
