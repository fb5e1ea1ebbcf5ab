"""An S3 for tests: moto's server on a free loopback port, one a session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from contree.adapters.blobs.s3_objects import S3Place


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3_place(s3_endpoint: str) -> S3Place:
    """A bucket for content, to be shared."""
    place = place_at(s3_endpoint, bucket="content", prefix="contree/")
    client_of(place).create_bucket(Bucket=place.bucket)
    return place


def place_at(endpoint: str, *, bucket: str, prefix: str) -> S3Place:
    return S3Place(
        bucket=bucket,
        endpoint_url=endpoint,
        prefix=prefix,
        access_key_id="key",
        secret_access_key="secret",
    )


def client_of(place: S3Place) -> Any:
    """A client of the server's own kind, beside the one that is tested."""
    return boto3.client(
        "s3",
        endpoint_url=place.endpoint_url,
        region_name=place.region,
        aws_access_key_id=place.access_key_id,
        aws_secret_access_key=place.secret_access_key,
    )


def variables_of(place: S3Place) -> dict[str, str]:
    """What the SDK is told in its environment, for who has only `s3://BUCKET/PREFIX`."""
    return {
        "AWS_ENDPOINT_URL": place.endpoint_url or "",
        "AWS_ACCESS_KEY_ID": place.access_key_id or "",
        "AWS_SECRET_ACCESS_KEY": place.secret_access_key or "",
        "AWS_DEFAULT_REGION": place.region or "",
    }
