"""Pages that stay as they are are copied inside the store, as parts of an upload: `s3` has its own tags for them, `aws` S3's."""

import signal

import numpy
import pyarrow as pa
import pytest
import stores
from buckets import TABLE, Bucket, Killer, counted, general, kill_at
from proxy import PASS, THROTTLED, Action, Proxy
from test_bucket_checksums import is_copy, is_staged, read_back
from test_buckets import ADD, large

BOTH = pytest.mark.parametrize("bucket", ["s3", "aws"], indirect=True)
S3 = pytest.mark.parametrize("bucket", ["s3"], indirect=True)
AWS = pytest.mark.parametrize("bucket", ["aws"], indirect=True)
REWRITE = ["--strategy", "rewrite", *ADD]
QUICK = [*REWRITE, "--verify", "quick"]


def sent_pages(proxy: Proxy) -> int:
    """Bytes of staged files that were sent."""
    return sum(one.sent for one in proxy.requests if is_staged(one))


def made(bucket: Bucket) -> list:
    """Two files of 16 MB. Gives the rows."""
    bucket.make(rows=4000, files=2, data=large)
    return bucket.rows()


def migrated(bucket: Bucket, *words: str, rule=lambda _: PASS, code: int = 0) -> tuple:
    with Proxy(bucket.store.port, rule) as proxy:
        done = bucket.run("migrate", *words, "--json", "-v", port=proxy.port, code=code)
    return done, proxy


def rewritten(bucket: Bucket, *words: str) -> tuple:
    """Two files of 16 MB, rewritten: the report, the proxy, how many copies were made, and bytes of staged files that came back."""
    before = made(bucket)
    done, proxy = migrated(bucket, *words)
    assert bucket.rows() == general(before)
    bucket.assert_clean()
    return done.json["report"], proxy, sum(is_copy(one) for one in proxy.requests), sum(one.received for one in read_back(proxy))


@BOTH
def test_a_quick_rewrite_moves_no_pages(bucket):
    report, proxy, copies, _ = rewritten(bucket, *QUICK)
    assert copies == 2
    assert sent_pages(proxy) < 100_000
    assert sum(one.received for one in proxy.requests) < 4_000_000, "the first rows, and footers"
    assert report["verified"] == "quick" and report["bytes_written"] > 30_000_000
    assert report["store"]["requests"]["COPY"] == 2 and report["store"]["bytes_sent"] < 100_000


@AWS
def test_what_the_store_copied_is_compared_by_its_checksums(bucket):
    """Each byte is read once, where it was, and none where it is now but footers and first rows."""
    report, proxy, copies, back = rewritten(bucket, *REWRITE)
    assert copies == 4
    assert report["verified"] == "full" and report["bytes_confirmed"] > 30_000_000
    assert sent_pages(proxy) < 100_000
    assert back < 4_000_000


@S3
def test_what_the_store_copied_is_read_back_where_its_tags_tell_nothing(bucket):
    report, _, _, back = rewritten(bucket, *REWRITE)
    assert report["verified"] == "full" and report["bytes_confirmed"] == 0
    assert back > 30_000_000


@BOTH
def test_everything_is_read_back_when_that_is_asked(bucket):
    report, _, copies, back = rewritten(bucket, *REWRITE, "--verify", "full=read")
    assert (report["verified"], report["bytes_confirmed"]) == ("full=read", 0)
    assert copies == 4
    assert back > 30_000_000


NO_COPIES = {
    "501": (501, b"<Error><Code>NotImplemented</Code></Error>"),
    "403": (403, b"<Error><Code>AccessDenied</Code></Error>"),
    "400": (400, b"<Error><Code>InvalidRequest</Code></Error>"),
    "html": (200, b"<html><body>no store</body></html>"),
    "nothing": (200, b""),
    "redirected": (307, b""),
    "refused after all is well": (200, b" \n<Error xmlns='s3'><Code>AccessDenied</Code></Error>"),
}


@S3
@pytest.mark.parametrize("words", [REWRITE, QUICK], ids=["full", "quick"])
@pytest.mark.parametrize("how", NO_COPIES)
def test_a_store_that_copies_no_parts_is_sent_them(bucket, how, words):
    before = made(bucket)
    copies = counted(is_copy, lambda _: Action(answer=NO_COPIES[how]))
    done, proxy = migrated(bucket, *words, rule=copies)
    assert done.err.count("does not copy parts inside itself") == 1
    assert 30_000_000 < sent_pages(proxy) < 60_000_000
    if words is REWRITE:
        assert done.json["report"]["bytes_confirmed"] > 0
    assert bucket.rows() == general(before)
    bucket.assert_clean()


PASSING = {
    "slow down": Action(answer=THROTTLED),
    "reset": Action(reset=True),
    "lost reply": Action(lose_reply=True),
    "twice": Action(twice=True),
    # S3 begins to answer before it is done, and may say then that it failed.
    "error after all is well": Action(answer=(200, b"\n\n<Error><Code>InternalError</Code></Error>")),
    "500": Action(answer=(500, b"")),
}


@BOTH
@pytest.mark.parametrize("how", PASSING)
def test_a_copy_that_fails_for_a_moment_is_tried_again(bucket, how):
    before = made(bucket)
    done, proxy = migrated(bucket, *QUICK, rule=counted(is_copy, lambda n: PASSING[how] if n == 1 else PASS))
    assert "does not copy parts" not in done.err
    assert sent_pages(proxy) < 100_000
    assert bucket.rows() == general(before)
    bucket.assert_clean()


@BOTH
def test_an_end_whose_reply_is_lost(bucket):
    before = made(bucket)
    ends = counted(lambda one: one.method == "POST" and "uploadId=" in one.query, lambda n: Action(lose_reply=n == 1))
    done, proxy = migrated(bucket, *QUICK, rule=ends)
    assert "does not copy parts" not in done.err and sent_pages(proxy) < 100_000
    assert bucket.rows() == general(before)
    bucket.assert_clean()


def shifted(found) -> bytes:
    """Another range of the same length."""
    first, last = int(found[1]), int(found[2])
    return b"bytes=%d-%d" % (first - 64, last - 64)


WRONG = counted(is_copy, lambda _: Action(instead=(rb"bytes=([1-9]\d*)-(\d+)", shifted)))


@AWS
@pytest.mark.parametrize("words", [REWRITE, QUICK], ids=["full", "quick"])
def test_a_store_that_copies_other_bytes_is_sent_them(bucket, words):
    """Neither does the checksum fit, nor what is read back; and quickly, a sample differs."""
    bucket.make(rows=12000, files=1, data=large)
    before = bucket.rows()
    done, proxy = migrated(bucket, *words, rule=WRONG)
    assert done.err.count("does not copy parts inside itself") == 1 and sent_pages(proxy) > 90_000_000
    assert ("it copied other bytes" in done.err) == (words is QUICK)
    assert bucket.rows() == general(before)
    bucket.assert_clean()


@AWS
def test_each_part_is_looked_at_after_a_quick_rewrite(bucket):
    """One in the middle is another one."""
    bucket.make(rows=20000, files=1, data=large)
    before = bucket.rows()
    wrong = Action(instead=(rb"bytes=([1-9]\d*)-(\d+)", shifted))
    # They come in any order, and the first part has no bytes before it.
    done, proxy = migrated(bucket, *QUICK, rule=lambda one: wrong if is_copy(one) and "partNumber=3&" in one.query else PASS)
    assert "it copied other bytes" in done.err and sum(is_copy(one) for one in proxy.requests) > 3
    assert bucket.rows() == general(before)
    bucket.assert_clean()


@S3
@pytest.mark.parametrize("odd", [(412, b""), (404, b"<Error><Code>NoSuchUpload</Code></Error>")], ids=["412", "404"])
def test_one_odd_answer_has_one_file_sent(bucket, odd):
    bucket.make(rows=16800, files=4, data=large)
    before = bucket.rows()
    done, proxy = migrated(bucket, *QUICK, rule=counted(is_copy, lambda n: Action(answer=odd) if n == 1 else PASS))
    assert done.err.count("does not copy parts inside itself") == 1
    assert 30_000_000 < sent_pages(proxy) < 40_000_000
    assert bucket.rows() == general(before)
    bucket.assert_clean()


@AWS
def test_a_store_that_does_not_give_what_it_copied_is_not_taken_for_one_that_does_not_copy(bucket):
    before = made(bucket)
    ended = (400, b"<Error><Code>ExpiredToken</Code></Error>")
    reads = counted(lambda one: is_staged(one) and one.method == "GET", lambda _: Action(answer=ended))
    with Proxy(bucket.store.port, reads) as proxy:
        done = bucket.start("migrate", *REWRITE, port=proxy.port).ended()
    assert done.code in (1, 4) and "ExpiredToken" in done.err and "does not copy parts" not in done.err, done.err
    bucket.run("resume")
    assert bucket.rows() == general(before)
    bucket.assert_clean()


@AWS
def test_a_store_that_copies_whole_objects_is_sent_them(bucket):
    """It does not look at ranges."""
    bucket.make(rows=12000, files=1, data=large)
    before = bucket.rows()
    whole = counted(is_copy, lambda _: Action(instead=(rb"(?i)x-amz-copy-source-range: [^\r]*\r\n", b"")))
    done, _ = migrated(bucket, *QUICK, rule=whole)
    assert done.err.count("does not copy parts inside itself") == 1
    assert bucket.rows() == general(before)
    bucket.assert_clean()


@S3
def test_credentials_that_end_are_not_taken_for_a_store_that_copies_nothing(bucket):
    before = made(bucket)
    ended = (400, b"<Error><Code>ExpiredToken</Code></Error>")
    done, _ = migrated(bucket, *QUICK, rule=counted(is_copy, lambda _: Action(answer=ended)), code=1)
    assert "ExpiredToken" in done.err and "does not copy parts" not in done.err, done.err
    assert bucket.rows() == before
    bucket.run("resume")
    assert bucket.rows() == general(before)
    bucket.assert_clean()


@S3
def test_killed_at_every_other_write(bucket):
    for n in range(2, 40, 2):
        one = Bucket(bucket.store, f"{bucket.name}-{n}")
        before = made(one)
        killed = kill_at(one, n, "migrate", *QUICK, passes=n % 4 == 0)
        assert one.rows() in (before, general(before)), n
        if one.staged() is not None:
            one.run("resume")
        elif one.rows() == before:
            one.run("migrate", *QUICK)
        assert one.rows() == general(before), n
        one.assert_clean()
        if not killed:
            assert n > 12, "the first copies come later"
            return
    raise AssertionError("it writes and writes")


@BOTH
@pytest.mark.parametrize("then", ["resume", "abort"])
def test_killed_between_copies(bucket, then):
    before = made(bucket)

    class CopyKiller(Killer):
        def __call__(self, request):
            return super().__call__(request) if is_copy(request) else PASS

    killer = CopyKiller(2, passes=True)
    with Proxy(bucket.store.port, killer) as proxy:
        killer.run = bucket.start("migrate", *QUICK, port=proxy.port)
        killer.run.ended().expect(-signal.SIGKILL)
    assert len(bucket.uploads()) == 1
    done = bucket.run(then)
    assert "gave up 1 unfinished upload" in done.err
    assert bucket.rows() == (general(before) if then == "resume" else before)
    assert bucket.unnamed() == [] and bucket.uploads() == []


@BOTH
def test_what_was_held_unread_is_staged_again_to_be_verified_in_full(bucket):
    before = made(bucket)
    bucket.run("migrate", *QUICK, "--hold")
    done = bucket.run("resume", "--verify", "full", "--json")
    assert done.json["report"]["verified"] == "full"
    assert bucket.rows() == general(before)
    bucket.assert_clean()


@BOTH
def test_what_was_held_unread_and_written_over_is_staged_again(bucket):
    before = made(bucket)
    bucket.run("migrate", *QUICK, "--hold")
    (staged,) = [name for name in bucket.objects() if "-relance-" in name and name.endswith(".lance")]
    content = bytearray(bucket.store.content(staged))
    content[1000] ^= 1
    stores._s3(bucket.store).put_object(Bucket="tables", Key=staged, Body=bytes(content))
    bucket.run("resume")
    assert bucket.rows() == general(before)
    bucket.assert_clean()


@BOTH
def test_deletions_and_appends_beside_a_hold(bucket):
    made(bucket)
    bucket.run("migrate", *QUICK, "--hold")
    table = bucket.table()
    table.delete("id % 1000 = 7")
    table.add(large(4000, 10))
    before = bucket.rows()
    bucket.run("resume")
    assert bucket.rows() == general(before)
    bucket.assert_clean()


@BOTH
@pytest.mark.parametrize("words", [[], ["--verify", "quick"]], ids=["full", "quick"])
def test_nothing_of_a_dropped_column_is_copied(bucket, words):
    """Its pages lie between others, which are copied around them."""
    def secret(first: int, count: int) -> pa.Table:
        table = large(first, count)
        letters = numpy.random.default_rng(first).integers(97, 123, count * 2000, dtype=numpy.uint8).tobytes().decode()
        texts = ["hush-" + letters[n * 2000 : n * 2000 + 2000] for n in range(count)]
        return table.add_column(1, "secret", pa.array(texts)).append_column("more", table["vector"])

    bucket.make(rows=4000, files=2, data=secret)
    before = bucket.rows()
    _, proxy = migrated(bucket, "--strategy", "rewrite", "--drop", "secret", *words)
    assert sum(is_copy(one) for one in proxy.requests) >= 2
    assert sent_pages(proxy) < 6_000_000
    assert bucket.rows() == [{name: value for name, value in row.items() if name != "secret"} for row in before]
    for fragment in bucket.dataset().get_fragments():
        for file in fragment.metadata.files:
            assert b"hush-" not in bucket.store.content(f"{bucket.name}/{TABLE}.lance/data/{file.path}")
    bucket.assert_clean()


@BOTH
def test_names_that_have_to_be_spelled(bucket):
    odd = Bucket(bucket.store, f"{bucket.name}/a b=c+ü%41&d")
    before = made(odd)
    _, proxy = migrated(odd, *QUICK)
    assert sum(is_copy(one) for one in proxy.requests) == 2
    assert odd.rows() == general(before)


@AWS
@pytest.mark.parametrize("option", ["aws_checksum_algorithm=SHA256", "aws_server_side_encryption=AES256"])
def test_with_options_that_parts_may_need_they_are_sent(bucket, option):
    before = made(bucket)
    with Proxy(bucket.store.port) as proxy:
        bucket.run("migrate", *QUICK, "--storage-option", option, port=proxy.port)
    assert not any(is_copy(one) for one in proxy.requests)
    assert sent_pages(proxy) > 30_000_000
    assert bucket.rows() == general(before)


@S3
def test_the_rate_holds_for_what_the_store_copies(bucket):
    """32 MB at 16 MB a second, in two copies: the second one waits until the first one may be there."""
    before = made(bucket)
    _, proxy = migrated(bucket, *QUICK, "--max-rate", "16MB")
    first, second = [one.began for one in proxy.requests if is_copy(one)]
    assert second - first > 0.5
    assert bucket.rows() == general(before)
