"""Built as tables of URLs, and one property over arbitrary text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.adapters.registry.reference import URL_CHARS_MAX, parse_reference
from contree.domain.errors import InvalidFieldError

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("docker://docker.io/library/busybox:latest", "docker://docker.io/library/busybox:latest"),
        ("docker://docker.io/busybox:1.36", "docker://docker.io/library/busybox:1.36"),
        ("docker://docker.io/library/busybox", "docker://docker.io/library/busybox:latest"),
        ("docker://index.docker.io/busybox", "docker://docker.io/library/busybox:latest"),
        ("docker://docker.io/nginx/unit:1", "docker://docker.io/nginx/unit:1"),
        ("docker://ghcr.io/a/b:c", "docker://ghcr.io/a/b:c"),
        ("oci://ghcr.io/a/b:c", "docker://ghcr.io/a/b:c"),
        ("docker://GHCR.io/a/b:C", "docker://ghcr.io/a/b:C"),
        ("docker://quay.io/a", "docker://quay.io/a:latest"),
        ("docker://localhost/a/b", "docker://localhost/a/b:latest"),
        ("docker://127.0.0.1:5000/a/b", "docker://127.0.0.1:5000/a/b:latest"),
        ("docker://registry:5000/a_b/c.d--e:f", "docker://registry:5000/a_b/c.d--e:f"),
        ("docker://[::1]:5000/a/b:c", "docker://[::1]:5000/a/b:c"),
        (f"docker://ghcr.io/a/b@{DIGEST}", f"docker://ghcr.io/a/b@{DIGEST}"),
        (f"docker://ghcr.io/a/b:c@{DIGEST}", f"docker://ghcr.io/a/b@{DIGEST}"),
    ],
)
def test_a_reference_gets_its_canonical_form(url: str, canonical: str) -> None:
    assert parse_reference(url).url == canonical
    assert parse_reference(canonical).url == canonical


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "does not begin with"),
        ("busybox", "does not begin with"),
        ("https://docker.io/library/busybox", "does not begin with"),
        ("DOCKER://docker.io/library/busybox", "does not begin with"),
        ("dir:/etc", "does not begin with"),
        ("docker-archive:/etc/passwd", "does not begin with"),
        ("docker://", "names no host"),
        ("docker://docker.io", "names no host"),
        ("docker://docker.io/", "names no host"),
        ("docker://busybox:latest", "names no host"),
        ("docker:///etc/passwd", "the host must be"),
        ("docker://library/busybox", "names no registry host"),
        ("docker://me:secret@ghcr.io/a/b", "registry.credentials"),
        ("docker://ghcr.io:/a/b", "the host must be"),
        ("docker://ghcr.io:99999/a/b", "the host must be"),
        ("docker://ghcr.io:0/a/b", "the host must be"),
        ("docker://-ghcr.io/a/b", "the host must be"),
        ("docker://gh cr.io/a/b", "the host must be"),
        ("docker://ghcr..io/a/b", "the host must be"),
        ("docker://[::1/a/b", "the host must be"),
        ("docker://[1:2]/a/b", "not an IPv6 address"),
        ("docker://ghcr.io/A/b", "the repository must be"),
        ("docker://ghcr.io/a//b", "the repository must be"),
        ("docker://ghcr.io/a/b/", "the repository must be"),
        ("docker://ghcr.io/../b", "the repository must be"),
        ("docker://ghcr.io/a/b?x=y", "the repository must be"),
        ("docker://ghcr.io/a/b:", "the tag must be"),
        ("docker://ghcr.io/a/b:-c", "the tag must be"),
        ("docker://ghcr.io/a/b:c:d", "the tag must be"),
        ("docker://ghcr.io/a/b:c\n", "the tag must be"),
        ("docker://ghcr.io/a/b:" + "c" * 129, "the tag must be"),
        ("docker://ghcr.io/a/b@", "the digest must be"),
        ("docker://ghcr.io/a/b@sha256:abc", "the digest must be"),
        (f"docker://ghcr.io/a/b@{DIGEST.upper()}", "the digest must be"),
        (f"docker://ghcr.io/a/b@{DIGEST}@{DIGEST}", "the digest must be"),
        ("docker://ghcr.io/" + "a" * 256, "the repository must be"),
        ("docker://ghcr.io/" + "a" * URL_CHARS_MAX, "longer than"),
    ],
)
def test_anything_else_is_refused_with_the_reason(url: str, words: str) -> None:
    with pytest.raises(InvalidFieldError, match=words) as caught:
        parse_reference(url)
    assert caught.value.field == "registry.url"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "127.8.9.1", "localhost:80", "[::1]:5000"])
def test_this_machine_is_loopback(host: str) -> None:
    assert parse_reference(f"docker://{host}/a").is_loopback


@pytest.mark.parametrize(
    "host", ["docker.io", "10.0.0.1", "localhost.example", "127.0.0.1.example", "[fe80::1]:5000"]
)
def test_another_machine_is_not_loopback(host: str) -> None:
    assert not parse_reference(f"docker://{host}/a").is_loopback


@given(st.text(max_size=80).map(lambda text: "docker://" + text) | st.text(max_size=80))
def test_any_text_is_refused_or_has_a_canonical_form(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidFieldError:
        return
    assert parse_reference(reference.url) == reference
    assert reference.url.isascii()
    assert reference.url.isprintable()
    assert " " not in reference.url


@given(st.from_regex(r"[a-c.:\[\]@/_-]{1,30}", fullmatch=True))
def test_any_near_miss_is_refused_or_has_a_canonical_form(text: str) -> None:
    test_any_text_is_refused_or_has_a_canonical_form.hypothesis.inner_test("docker://" + text)
