"""Built on skopeo's own words, copied from its runs against real registries."""

from __future__ import annotations

import pytest

from contree.adapters.registry.failures import failure_from, for_log, storage_full_from

SOURCE = "initializing source docker://r.test/a/b:latest: "
READING = SOURCE + "reading manifest latest in r.test/a/b: "
PINGING = SOURCE + 'pinging container registry r.test: Get "https://r.test/v2/": '
SAID: dict[str, str] = {
    READING + "manifest unknown: manifest unknown": "does not have this image",
    READING + "name unknown: repository name not known to registry": "does not have this image",
    "writing blob: happened during read: Digest did not match, expected sha256:1, got sha256:2": (
        "does not have its digest"
    ),
    "reading blob sha256:1: Error fetching blob: invalid status code from registry 404 "
    "(Not Found)": "lacks a part of it",
    READING + "received unexpected HTTP status: 500 Internal Server Error": "error of its own",
    "initializing image from source docker://r.test/a: no FSLayers in manifest": "not valid",
    PINGING + "dial tcp 127.0.0.1:1: connect: connection refused": "cannot be reached",
    PINGING + "dial tcp: lookup r.test on 192.0.2.1:53: no such host": "cannot be reached",
    PINGING + "x509: certificate signed by unknown authority": "certificate is not trusted",
    PINGING + "http: server gave HTTP response to HTTPS client": "loopback only",
    READING + "toomanyrequests: You have reached your pull rate limit.": "limits the rate",
    "choosing image: no image found in manifest list for architecture amd64": "linux/amd64",
    "something nobody has seen before": "see the worker's log",
}


@pytest.mark.parametrize("stderr", SAID)
def test_what_skopeo_says_becomes_a_cause(stderr: str) -> None:
    failure = failure_from(stderr, host="r.test", has_credentials=False)
    assert SAID[stderr] in str(failure)
    assert str(failure).startswith("r.test: ")


@pytest.mark.parametrize(
    "stderr",
    [
        READING + "unauthorized: authentication required",
        READING + "denied: requested access to the resource is denied",
        READING + "errors: denied: requested access to the resource is denied",
        SOURCE + "unable to retrieve auth token: invalid username/password: unauthorized",
    ],
)
def test_a_refusal_says_whose_move_it_is(stderr: str) -> None:
    anonymous = failure_from(stderr, host="r.test", has_credentials=False)
    named = failure_from(stderr, host="r.test", has_credentials=True)
    assert "wants credentials" in str(anonymous)
    assert "refused the credentials" in str(named)


def test_a_local_permission_is_not_the_registrys_refusal() -> None:
    failure = failure_from("mkdir /x: permission denied", host="r.test", has_credentials=True)
    assert "credentials" not in str(failure)


def test_a_full_disk_is_this_machines_error() -> None:
    assert storage_full_from("write /x: no space left on device") is not None
    assert storage_full_from(READING + "manifest unknown") is None


def test_the_log_gets_no_signed_addresses_and_no_users() -> None:
    said = for_log('Get "https://me:secret@cdn.test/blob?X-Signature=abc": i/o timeout')
    assert "secret" not in said
    assert "abc" not in said
    assert "cdn.test/blob" in said
