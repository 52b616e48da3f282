"""What a store confirms by its own checksum of the bytes that were sent is not read back; all else is."""

import time

import pytest
import stores
from buckets import TABLE, Bucket, counted, documents, general
from proxy import PASS, Action, Proxy
from test_buckets import ADD, REWRITE, large

S3 = pytest.mark.parametrize("bucket", ["s3"], indirect=True)
LENGTH = ["--compute", "length:int32=character_length(text)"]


def is_staged(request) -> bool:
    return "/data/" in request.path and "-relance-" in request.path and "-relance-probe-" not in request.path


def is_copy(request) -> bool:
    """Whether the store is to copy a part."""
    return request.method == "PUT" and "x-amz-copy-source-range" in request.headers


def computed(rows: list) -> list:
    return [row | {"length": len(row["text"])} for row in rows]


def before_swap(proxy: Proxy) -> list:
    """The requests for staged files until they were swapped in: then the newest rows are looked at."""
    swaps = [one.number for one in proxy.requests if f"/{TABLE}.lance/_versions/" in one.path and one.method == "PUT"]
    return [one for one in proxy.requests if is_staged(one) and one.number < max(swaps, default=1 << 30)]


def read_back(proxy: Proxy) -> list:
    """Those that gave bytes of them."""
    return [one for one in before_swap(proxy) if one.kind == "GET"]


def migrated(bucket: Bucket, *words: str) -> tuple:
    """What was reported, and the requests that read staged files back."""
    with Proxy(bucket.store.port) as proxy:
        done = bucket.run("migrate", *words, "--json", port=proxy.port)
    return done.json["report"], read_back(proxy)


@S3
@pytest.mark.parametrize("words", [ADD, LENGTH], ids=["constants", "computed"])
def test_what_s3_confirms_is_not_read_back(bucket, words):
    bucket.make()
    before = bucket.rows()
    report, back = migrated(bucket, *words)
    assert back == [] and report["bytes_confirmed"] == report["bytes_written"] > 0
    assert bucket.rows() == (general(before) if words is ADD else computed(before))
    bucket.assert_clean()


@S3
def test_everything_is_read_back_when_that_is_asked(bucket):
    bucket.make()
    report, back = migrated(bucket, *LENGTH, "--verify", "full=read")
    assert (report["verified"], report["bytes_confirmed"]) == ("full=read", 0)
    assert len(back) >= 3
    bucket.assert_clean()


@S3
def test_pages_that_are_copied_are_compared_while_they_are_sent(bucket):
    """32 MB in one file, which the store does not copy: of what was sent in parts, the footer and the first rows are read back."""
    bucket.make(rows=4000, files=1, data=large)
    before = bucket.rows()
    with Proxy(bucket.store.port, lambda one: Action(answer=(501, b"")) if is_copy(one) else PASS) as proxy:
        report = bucket.run("migrate", "--strategy", "rewrite", *ADD, "--json", port=proxy.port).json["report"]
    back = read_back(proxy)
    assert 0 < report["bytes_confirmed"] < report["bytes_written"]
    assert sum(one.received for one in back) < report["bytes_written"] * 0.7
    assert bucket.rows() == general(before)
    bucket.assert_clean()


def test_a_store_whose_tags_are_no_checksums_is_read_back(bucket):
    """Azure's are none; S3's are; those of GCS are, but for uploads in parts."""
    bucket.make()
    report, back = migrated(bucket, *LENGTH)
    confirms = bucket.store.kind != "azure"
    assert (report["bytes_confirmed"] > 0) == confirms and (back == []) == confirms
    assert report["verified"] == "full"
    bucket.assert_clean()


@S3
@pytest.mark.parametrize("words", [ADD, LENGTH, REWRITE], ids=["constants", "computed", "rewrite"])
def test_a_bit_that_is_damaged_on_its_way_is_found(bucket, words):
    bucket.make()
    before = bucket.rows()

    def staged(request):
        return is_staged(request) and request.method == "PUT"

    with Proxy(bucket.store.port, counted(staged, lambda n: Action(damage=True) if n == 1 else PASS)) as proxy:
        done = bucket.start("migrate", *words, port=proxy.port).ended()
    assert read_back(proxy), "a file that is not what was sent is not taken for it"
    # In a footer's padding nothing can be found, and nothing is wrong.
    assert done.code in (0, 4), done.said
    if done.code == 4:
        assert bucket.rows() == before
        bucket.run("resume")
    assert bucket.rows() == (computed(before) if words is LENGTH else general(before))
    bucket.assert_clean()


@S3
def test_what_was_held_confirmed_is_read_back_by_a_resume_that_is_told_to(bucket):
    bucket.make()
    before = bucket.rows()
    done = bucket.run("migrate", *LENGTH, "--hold")
    assert "not read back: the store's own checksums confirm them" in done.err
    assert bucket.run("resume", "--hold", "--verify", "full").code == 0
    with Proxy(bucket.store.port) as proxy:
        done = bucket.run("resume", "--verify", "full=read", port=proxy.port)
    assert "not read back in full; now it is" in done.err
    assert len(read_back(proxy)) >= 3 and "confirmed" not in done.out
    assert bucket.rows() == computed(before)


@S3
def test_more_than_there_is_memory_for_is_read_back(bucket):
    """A file of 32 MB, and a quarter of 64 MiB to keep it in."""
    bucket.make(rows=4000, files=1, data=large)
    report, back = migrated(bucket, "--set", "vector=array_sort(vector)", "--memory", "64MiB")
    assert report["bytes_confirmed"] == 0 and sum(one.received for one in back) > report["bytes_written"] * 0.9
    bucket.assert_clean()


@S3
def test_many_small_files_are_listed_instead_of_asked_for(bucket):
    """A listing of a page tells of all of them at once."""
    table = bucket.make(rows=60, files=60)
    assert len(table.to_lance().get_fragments()) == 60
    with Proxy(bucket.store.port) as proxy:
        report = bucket.run("migrate", *ADD, "--json", port=proxy.port).json["report"]
    asked = [one.method for one in before_swap(proxy)]
    assert (asked.count("PUT"), asked.count("GET")) == (60, 0)
    # Those that come last are few again.
    assert asked.count("HEAD") <= 24
    assert report["bytes_confirmed"] == report["bytes_written"]
    assert bucket.rows() == general(documents(0, 60).to_pylist())
    bucket.assert_clean()


def turn_over(bucket: Bucket) -> None:
    """Turns a bit of each of the first bytes of a staged object over, as it lies in the store: values are there, and no padding."""
    name = min(name for name in bucket.objects() if "/data/" in name and "-relance-" in name)
    content = bucket.store.content(name)
    content = bytes(byte ^ 1 for byte in content[:16]) + content[16:]
    client = stores._s3(bucket.store)

    def dated():
        return client.head_object(Bucket="tables", Key=name)["LastModified"]

    # Stores date by whole seconds.
    before = dated()
    while dated() == before:
        client.put_object(Bucket="tables", Key=name, Body=content)


@S3
@pytest.mark.parametrize("how", ["quick", "full", "full=read"])
@pytest.mark.parametrize("words", [LENGTH, REWRITE], ids=["computed", "rewrite"])
def test_an_object_that_is_another_after_a_hold_is_staged_again(bucket, words, how):
    """Whatever is asked of the rest: it was touched, so all of it is compared. It is found once, and made again then."""
    bucket.make()
    before = bucket.rows()
    bucket.run("migrate", *words, "--hold")
    turn_over(bucket)
    bucket.run("resume", "--verify", how, code=4)
    assert bucket.rows() == before
    bucket.run("resume", "--verify", how)
    assert bucket.rows() == (computed(before) if words is LENGTH else general(before))
    bucket.assert_clean()


@pytest.mark.parametrize("bucket", ["s3", "gcs"], indirect=True)
def test_an_upload_that_was_begun_twice_is_given_up(bucket):
    """Of the first one nobody knows: its reply was lost."""
    bucket.make(rows=4000, files=1, data=large)
    before = bucket.rows()

    def begins(request):
        return request.method == "POST" and is_staged(request) and "uploads" in request.query

    with Proxy(bucket.store.port, counted(begins, lambda n: Action(twice=n == 1))) as proxy:
        bucket.run("migrate", *REWRITE, port=proxy.port)
    assert any(begins(request) for request in proxy.requests)
    assert bucket.uploads() == [] and bucket.rows() == general(before)
    bucket.assert_clean()


@S3
def test_a_staged_object_that_is_written_over_at_the_swap_is_not_published(bucket):
    """The last look at all of them came before: the one after the swap finds it."""
    bucket.make()
    before = bucket.rows()
    swaps = []

    def rule(request):
        if request.method == "PUT" and f"/{TABLE}.lance/_versions/" in request.path and not swaps:
            swaps.append(request)
            (name, *_) = (name for name in bucket.objects() if "/data/" in name and "-relance-" in name)
            content = bytearray(bucket.store.content(name))
            content[0] ^= 1
            # Stores date by seconds.
            time.sleep(1.1)
            stores._s3(bucket.store).put_object(Bucket="tables", Key=name, Body=bytes(content))
        return PASS

    with Proxy(bucket.store.port, rule) as proxy:
        done = bucket.run("migrate", *LENGTH, port=proxy.port, code=4)
    assert "was written over" in done.err and "was put back" in done.err
    assert bucket.rows() == before
    bucket.run("migrate", *LENGTH)
    assert bucket.rows() == computed(before)


@S3
@pytest.mark.parametrize("words", [ADD, LENGTH, REWRITE], ids=["constants", "computed", "rewrite"])
def test_an_object_that_is_written_over_in_the_second_in_which_it_was_staged_is_found(bucket, words):
    """Its size and date are the same; the store's tag is not."""
    bucket.make()
    before = bucket.rows()
    bucket.run("migrate", *words, "--hold")
    (name, *_) = (name for name in bucket.objects() if "/data/" in name and "-relance-" in name)
    content = bytearray(bucket.store.content(name))
    content[0] ^= 1
    stores._s3(bucket.store).put_object(Bucket="tables", Key=name, Body=bytes(content))
    codes = [bucket.start("resume").ended().code for _ in range(2)]
    assert codes[0] in (0, 4) and 0 in codes
    assert bucket.rows() == (computed(before) if words is LENGTH else general(before))


@S3
def test_the_same_bytes_written_again_are_the_same(bucket):
    """Where the store's tag tells so, nothing is read again."""
    bucket.make()
    before = bucket.rows()
    bucket.run("migrate", *LENGTH, "--hold")
    time.sleep(1.1)
    for name in [name for name in bucket.objects() if "/data/" in name and "-relance-" in name]:
        stores._s3(bucket.store).put_object(Bucket="tables", Key=name, Body=bucket.store.content(name))
    with Proxy(bucket.store.port) as proxy:
        done = bucket.run("resume", port=proxy.port)
    assert "touched" not in done.err and read_back(proxy) == []
    assert bucket.rows() == computed(before)
    bucket.assert_clean()
